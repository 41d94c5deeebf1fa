"""Targets and attempts as people read them."""

from __future__ import annotations

import pytest

from refresher.cli.shown import (
    say_history,
    say_results,
    say_target,
    say_target_history,
    say_targets,
)
from tests.cli.views import HOUR, ago, attempt, failure, target
from tests.conftest import NOON

Printed = pytest.CaptureFixture[str]


def test_a_target_is_one_line(capsys: Printed) -> None:
    """With what stands and what comes next."""
    say_targets([target()], NOON)
    assert capsys.readouterr().out.splitlines() == [
        "TARGET  STATE  VALID  EXPIRES  NEXT    FAILURES",
        "ecr     fresh  yes    in 11h   in 13m  -",
    ]


def test_a_target_that_fails_says_why(capsys: Printed) -> None:
    """Its last failure stands below the table, whole."""
    failing = target(valid=False, consecutive_failures=3, last_failure=failure())
    say_targets([failing], NOON)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["ecr", "fresh", "NO", "in", "11h", "in", "13m", "3"]
    assert lines[2] == "ecr: verify/unauthorized 1h ago: the registry refused the login"


@pytest.mark.parametrize(
    ("name", "shown"), [("paused", "paused"), ("parked", "parked"), ("kept", "in 13m")]
)
def test_a_target_that_is_not_kept_says_so(capsys: Printed, name: str, shown: str) -> None:
    """Nothing comes next for a parked or a paused one."""
    say_targets([target(paused=name == "paused", enabled=name != "parked")], NOON)
    assert capsys.readouterr().out.splitlines()[1].endswith(f"in 11h   {shown:<6}  -")


def test_no_targets_are_said_to_be_none(capsys: Printed) -> None:
    """An empty table would look like an error."""
    say_targets([], NOON)
    assert capsys.readouterr().out == "no targets are configured\n"


def test_one_target_is_shown_whole(capsys: Printed) -> None:
    """Every secret with its fingerprint and its own failure."""
    known = target(issued_at=[ago(HOUR), None], last_failure=failure(), image_pullable=False)
    known["secrets"][1]["last_failure"] = failure("fal refused the write")  # type: ignore[typeddict-item]
    say_target(known, NOON)
    shown = capsys.readouterr().out
    assert "  expires       in 11h (2026-11-23T23:00:00Z)\n" in shown
    assert "  image         CANNOT be pulled\n" in shown
    assert "  secret AWS_ECR_PASSWORD (default/env0)\n    published   1h ago" in shown
    assert "  secret AWS_ECR_PASSWORD (default/env1)\n    published   -\n" in shown
    assert "    fingerprint 0123456789abcdef\n" in shown
    assert "    last failure verify/unauthorized 1h ago: fal refused the write\n" in shown


def test_results_name_the_outcome_and_the_failure(capsys: Printed) -> None:
    """Also of attempts that have not ended or begun, and of targets that were left alone."""
    say_results(
        [
            attempt(),
            attempt(target="sad", outcome="failed", failure=failure(), verified=False),
            attempt(target="slow", outcome=None),
            {"id": "1", "target": "late", "outcome": None},
        ],
        [("young", "issued 1h ago")],
    )
    assert capsys.readouterr().out.splitlines() == [
        "TARGET  OUTCOME    TOOK  DETAIL",
        "ecr     refreshed  0.8s  verified",
        "sad     failed     0.8s  verify/unauthorized: the registry refused the login",
        "slow    running    -     not done yet",
        "late    pending    -     not done yet",
        "young   skipped    -     issued 1h ago",
    ]


def test_a_publish_without_proof_stands_out(capsys: Printed) -> None:
    """It is an alarm."""
    say_results([attempt(verified=False)])
    assert capsys.readouterr().out.splitlines()[1].endswith("NOT verified")


def test_history_names_who_asked(capsys: Printed) -> None:
    """The schedule goes without saying."""
    say_history([attempt(), attempt(reason="forced", actor="cli")], NOON)
    assert capsys.readouterr().out.splitlines() == [
        "STARTED  OUTCOME    TARGET  DUE          TOOK  DETAIL",
        "2m ago   refreshed  ecr     stale        0.8s  verified",
        "2m ago   refreshed  ecr     forced, cli  0.8s  verified",
    ]


def test_the_history_of_one_target_says_all(capsys: Printed) -> None:
    """Who, why, how long each stage took, what was said, and what stood before and after."""
    stood, failed = "0123456789abcdef", failure("AWS said no; allow it")
    unpublished = {"stages": [], "fingerprint_after": None}
    shown = [
        attempt(outcome=None, **unpublished),
        attempt(reason="forced", actor="http", fingerprint_before="0" * 16),
        attempt(reason="check", outcome="checked", fingerprint_before=stood),
        attempt(outcome="failed", failure=failed, fingerprint_before=stood),
        attempt(reason="missing", actor="cli"),
        attempt(reason="missing", outcome="failed", failure=failed, **unpublished),
    ]
    say_target_history(shown, NOON)
    assert capsys.readouterr().out.splitlines() == [
        "STARTED  OUTCOME    DUE           DETAIL",
        "2m ago   running    stale         not done yet",
        "2m ago   refreshed  forced, http  verified; source 0.25s, verify 0.50s;",
        "                                  0000000000000000 → 0123456789abcdef",
        "2m ago   checked    check         verified; source 0.25s, verify 0.50s;",
        "                                  0123456789abcdef as before",
        "2m ago   failed     stale         verify/unauthorized: AWS said no; allow it;",
        "                                  source 0.25s, verify 0.50s; 0123456789abcdef",
        "                                  as before",
        "2m ago   refreshed  missing, cli  verified; source 0.25s, verify 0.50s; nothing",
        "                                  → 0123456789abcdef",
        "2m ago   failed     missing       verify/unauthorized: AWS said no; allow it",
    ]


def test_a_target_without_a_history_says_so(capsys: Printed) -> None:
    """An empty table would look like an error."""
    say_target_history([], NOON)
    assert capsys.readouterr().out == "no attempts yet\n"


LONG = "n" * 63


@pytest.mark.parametrize("what", ["targets", "results", "history"])
def test_tables_fit_80_columns(capsys: Printed, what: str) -> None:
    """Also where names and reasons are long; a word of a reason is never broken."""
    message = "User: arn:aws:iam::123456789012:user/somebody is not authorized " * 3
    failed = {"last_failure": failure(message), "consecutive_failures": 12345}
    known = target(LONG, state="expired", **failed)
    long = attempt(target=LONG, outcome="failed", failure=failure(message), actor="schedule")
    match what:
        case "targets":
            say_targets([known, target()], NOON)
        case "results":
            say_results([long, attempt()], [(LONG, f"issued {LONG}")])
        case "history":
            say_history([long, attempt(reason="config_changed", actor="signal")], NOON)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("n" * 7 in line for line in lines)
