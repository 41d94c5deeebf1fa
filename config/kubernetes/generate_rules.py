"""Writes the PrometheusRule to standard output: the rules of config/prometheus, word for word.

python config/kubernetes/generate_rules.py > config/kubernetes/monitoring/prometheusrule.yaml
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

RULES = Path(__file__).parent.parent / "prometheus" / "rules.yaml"

HEAD = """\
# Generated from config/prometheus/rules.yaml by config/kubernetes/generate_rules.py.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: refresher
  labels:
    app.kubernetes.io/name: refresher
spec:
"""


def main() -> None:
    """The rules below `spec`, where they stand as deep as they must."""
    rules = RULES.read_text("utf-8")
    sys.stdout.write(HEAD + textwrap.indent(rules[rules.index("groups:") :], "  "))


if __name__ == "__main__":
    main()
