"""The Grafana dashboard: its queries are PromQL over series that we export."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers import ROOT, require
from tests.test_metrics import NAMES

DASHBOARD = json.loads((ROOT / "config" / "grafana" / "refresher.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]

#: What Grafana puts in for its variables.
VARIABLES = {"$__rate_interval": "1m", "$target": ".*"}


def expressions() -> list[str]:
    """Every query, as Prometheus receives it."""
    return [_filled(target["expr"]) for panel in PANELS for target in panel["targets"]]


def _filled(expression: str) -> str:
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression, f"a variable that is not there: {expression}"
    return expression


def test_prometheus_parses_every_query(tmp_path: Path) -> None:
    """As the expression of a recording rule, which promtool checks without a server."""
    recorded = [
        {"record": f"query:{number}", "expr": expression}
        for number, expression in enumerate(expressions())
    ]
    assert len(recorded) > 20
    rules = tmp_path / "rules.yaml"
    rules.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": recorded}]}))
    command = [require("promtool"), "check", "rules", str(rules)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_queries_ask_for_metrics_and_labels_that_exist() -> None:
    """A panel over a name that nobody exports would be empty for ever."""
    exported = {**NAMES, "refresher_attempt_duration_seconds_bucket": ("", {"source", "le"})}
    labels = {"job", "instance"}.union(*(labels for _, labels in exported.values()))
    for expression in expressions():
        names = re.findall(r"\brefresher_\w+", expression)
        assert names
        assert set(names) <= set(exported), expression
        grouped = re.findall(r"\b(?:by|on) \(([^)]*)\)", expression)
        asked = {label.strip() for group in grouped for label in group.split(",")}
        assert asked <= labels, expression


def test_the_fleet_comes_first_and_the_soonest_expiry_first_in_it() -> None:
    """One look tells what ends next."""
    fleet = next(panel for panel in PANELS if panel["type"] == "table")
    assert fleet["title"] == "Fleet"
    assert fleet["options"]["sortBy"] == [{"displayName": "Remaining", "desc": False}]
    assert fleet["gridPos"]["w"] == 24


@pytest.mark.parametrize(
    ("title", "metric"),
    [
        ("Remaining life", "refresher_credential_expiry_timestamp_seconds"),
        ("Attempts by outcome", "refresher_attempts_total"),
        ("Failures by reason", "refresher_failures_total"),
        ("Failing now", "refresher_last_failure_timestamp_seconds"),
        ("Latency of attempts", "refresher_attempt_duration_seconds_bucket"),
        ("Lag", "refresher_scheduler_lag_seconds"),
        ("Pulls left", "refresher_registry_pulls_remaining"),
    ],
)
def test_a_panel_shows(title: str, metric: str) -> None:
    """What must be seen has a panel of its own."""
    (panel,) = [panel for panel in PANELS if panel["title"] == title]
    assert metric in panel["targets"][0]["expr"]


def test_data_source_and_target_are_variables() -> None:
    """No panel is bound to somebody's data source, and each target query heeds the choice."""
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["target"]["query"]["query"] == "label_values(refresher_target_info, target)"
    assert variables["target"]["multi"]
    for panel in PANELS:
        for asked in (panel, *panel["targets"]):
            assert asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for panel in PANELS:
        for target in panel["targets"]:
            for name, labels in re.findall(r"(refresher_\w+)(\{[^}]*\})?", target["expr"]):
                if "target" in NAMES.get(name, ("", set()))[1] and "renewable" not in labels:
                    assert labels == '{target=~"$target"}', target["expr"]


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    """Grafana would move them about."""
    numbers = [panel["id"] for panel in PANELS]
    assert len(set(numbers)) == len(numbers)
    cells = list(itertools.chain.from_iterable(_cells(panel["gridPos"]) for panel in PANELS))
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def _cells(place: dict[str, int]) -> Iterator[tuple[int, int]]:
    columns = range(place["x"], place["x"] + place["w"])
    rows = range(place["y"], place["y"] + place["h"])
    return itertools.product(columns, rows)
