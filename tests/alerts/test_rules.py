"""The alert rules: promtool's unit tests, their texts, and the runbook behind them."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest

from refresher.cli.app import root
from tests.peers import ROOT, require
from tests.test_metrics import NAMES

PROMETHEUS = ROOT / "config" / "prometheus"
RULES = PROMETHEUS / "rules.yaml"
RUNBOOK = ROOT / "docs" / "runbook.md"
CASES = sorted(Path(__file__).parent.glob("*.yaml"))
SECTIONS = ("**Means.**", "**Users feel**", "**Find the cause.**", "**Mend.**")

_HISTOGRAM = "refresher_attempt_duration_seconds"
#: Every series that the daemon exports and that Prometheus adds of itself, with its labels.
SERIES = {
    **{name: labels for name, (_, labels) in NAMES.items()},
    f"{_HISTOGRAM}_bucket": {"source", "le"},
    "up": set(),
}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def rules() -> list[dict[str, Any]]:
    return [rule for group in load(RULES)["groups"] for rule in group["rules"]]


def generator() -> dict[str, Any]:
    """The names in the script that writes the reference."""
    return runpy.run_path(str(ROOT / "docs" / "generate_metrics.py"))


ALERTS = sorted({rule["alert"] for rule in rules()})


def promtool(*arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run promtool, without judging how it ends."""
    return subprocess.run(
        [require("promtool"), *arguments], input=stdin, capture_output=True, timeout=60, check=False
    )


# --- what promtool says ------------------------------------------------------------------------


def test_rules_and_examples_are_well_formed() -> None:
    """As promtool and amtool check them, lint included."""
    checked = promtool("check", "rules", "--lint-fatal", str(RULES))
    assert checked.returncode == 0, checked.stderr
    checked = promtool("check", "config", str(PROMETHEUS / "prometheus.yaml"))
    assert checked.returncode == 0, checked.stderr
    amtool = [require("amtool"), "check-config", str(PROMETHEUS / "alertmanager.yaml")]
    assert subprocess.run(amtool, capture_output=True, timeout=60, check=False).returncode == 0


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_an_alert_fires_when_it_must(case: Path) -> None:
    """At the minute it must, with its labels and words, and is quiet when it must not."""
    tested = promtool("test", "rules", str(case))
    assert tested.returncode == 0, (tested.stdout + tested.stderr).decode()


def test_a_scrape_has_nothing_that_promtool_minds() -> None:
    """Every series filled, as the generator of the reference fills them."""
    scrape = generate_latest(SimpleNamespace(collect=generator()["families"]))
    assert b"\nrefresher_failures_total{" in scrape
    checked = promtool("check", "metrics", stdin=scrape)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


# --- that the unit tests would notice ----------------------------------------------------------


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    """A file named like the alert, with both."""
    assert [case.stem for case in CASES] == ALERTS
    for case in CASES:
        moments = [m for test in load(case)["tests"] for m in test["alert_rule_test"]]
        assert {moment["alertname"] for moment in moments} == {case.stem}
        assert {bool(moment.get("exp_alerts")) for moment in moments} == {True, False}


def test_the_cases_use_series_that_exist() -> None:
    """A unit test of made-up series proves nothing: names and labels are those of a scrape."""
    for case in CASES:
        for test in load(case)["tests"]:
            for given in test["input_series"]:
                name, _, labels = given["series"].partition("{")
                keys = set(re.findall(r"(\w+)=", labels))
                assert keys == SERIES[name] | {"job", "instance"}, given["series"]


def _minute(rule: dict[str, Any], step: int) -> str:
    return f"{int(rule.get('for', '0m').removesuffix('m')) + step}m"


def _mutants(alert: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The rules of an alert with one fault in each of them."""
    good = [rule for rule in rules() if rule["alert"] == alert]
    yield "never fires", [{**rule, "expr": "vector(0) > 1"} for rule in good]
    yield "fires late", [{**rule, "for": _minute(rule, 1)} for rule in good]
    if all("for" in rule for rule in good):
        yield "fires early", [{**rule, "for": _minute(rule, -1)} for rule in good]


@pytest.mark.parametrize("alert", ALERTS)
def test_a_rule_that_is_wrong_fails_its_case(alert: str, tmp_path: Path) -> None:
    """One that never fires, or a minute late, or a minute early."""
    (tmp_path / "tests" / "alerts").mkdir(parents=True)
    (tmp_path / "config" / "prometheus").mkdir(parents=True)
    case = tmp_path / "tests" / "alerts" / f"{alert}.yaml"
    shutil.copy(Path(__file__).parent / case.name, case)
    for fault, mutant in _mutants(alert):
        groups = {"groups": [{"name": "mutant", "rules": mutant}]}
        (tmp_path / "config" / "prometheus" / "rules.yaml").write_text(json.dumps(groups))
        tested = promtool("test", "rules", str(case))
        assert tested.returncode == 1, f"{alert} {fault}, and its case does not notice"
        assert b"FAILED" in tested.stdout + tested.stderr


# --- words -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_what_and_where_to_read_on(rule: dict[str, Any]) -> None:
    """Severity, summary, description with target and cause, and a section of the runbook."""
    annotations = rule["annotations"]
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert set(annotations) == {"summary", "description", "runbook_url"}
    assert annotations["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"
    description = annotations["description"]
    if "$labels.target" in annotations["summary"] + description:
        assert "{{ $labels.target }}" in description
        assert "Last failure:" in description or "Cause:" in description


def test_what_speaks_of_a_target_fires_once_for_all_replicas() -> None:
    """Every selector of a series with a target stands in an aggregation over the replicas."""
    of_a_target = [name for name, (_, labels) in NAMES.items() if "target" in labels]
    for rule in rules():
        for name in of_a_target:
            for found in re.finditer(rf"{name}\b", rule["expr"]):
                before = re.sub(r"\s+", " ", rule["expr"][: found.start()])
                assert re.search(r"(max|min) without \(instance, pod[^)]*\) \( ?$", before), rule


def test_the_rules_ask_for_metrics_that_exist() -> None:
    """A name that nobody exports would be an alert that never fires."""
    asked = set(re.findall(r"\brefresher_\w+", RULES.read_text()))
    assert asked
    assert asked <= set(SERIES)


def test_the_runbook_has_a_section_for_each_alert() -> None:
    """What it means, what users feel, how to find the cause, how to mend; and none too many."""
    parts = re.split(r"^### (\w+)$", RUNBOOK.read_text(), flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert sorted(sections) == ALERTS
    for alert, text in sections.items():
        places = [text.find(section) for section in SECTIONS]
        assert -1 not in places, f"{alert} lacks a part"
        assert places == sorted(places)


def test_the_runbook_names_commands_that_exist() -> None:
    """`refresher COMMAND` in it is a command of the command line."""
    named = set(re.findall(r"`refresher (\w+)", RUNBOOK.read_text()))
    assert named
    assert named <= set(root.commands)


# --- reference ---------------------------------------------------------------------------------


def test_the_reference_of_the_metrics_is_current() -> None:
    """`docs/metrics.md` is what the generator writes."""
    assert (ROOT / "docs" / "metrics.md").read_text() == generator()["page"](), (
        "run: python docs/generate_metrics.py > docs/metrics.md"
    )


def test_the_reference_has_every_metric() -> None:
    """Each of the names that are promised."""
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert set(re.findall(r"^\| `(refresher_\w+)`", page, flags=re.MULTILINE)) == set(NAMES)
