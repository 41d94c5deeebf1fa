"""config/github: the workflow as GitHub reads it. tests/test_docs.py runs its lines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.peers import ROOT

WORKFLOW = ROOT / "config" / "github" / "refresher.yml"


def check(schema: str, text: str) -> subprocess.CompletedProcess[str]:
    """Hold a workflow against a schema."""
    program = Path(sys.executable).with_name("check-jsonschema")
    return subprocess.run(
        [program, "--builtin-schema", schema, "--default-filetype", "yaml", "-"],
        input=text, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "schema", ["vendor.github-workflows", "custom.github-workflows-require-timeout"]
)
def test_it_is_a_workflow_that_ends(schema: str) -> None:
    """By GitHub's schema, and with a time-out for each job."""
    text = WORKFLOW.read_text()
    assert check(schema, text).returncode == 0
    assert check(schema, text.replace("timeout-minutes", "timeout-mins")).returncode == 1
