"""What is shown of targets and attempts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from refresher import view
from refresher.clock import ManualClock
from refresher.errors import Unavailable
from refresher.model import Actor, Target, Trigger, Verdict
from tests.conftest import NOON
from tests.script import Bench

HOUR = timedelta(hours=1)


@pytest.fixture
def bench(clock: ManualClock) -> Iterator[Bench]:
    """Scripted peers around the real refresher and store."""
    bench = Bench(clock)
    yield bench
    bench.store.close()


def shown(bench: Bench, target: Target) -> view.TargetView:
    """The view of a target now."""
    return view.target_view(target, bench.status(target), bench.clock.now())


def test_a_target_that_was_published_is_shown_whole(bench: Bench) -> None:
    """Every field of the contract, with the times of the credential that stands in fal."""
    target = bench.target()
    bench.attempt(target)
    status = bench.status(target)
    refresh_at = status.secrets[0].refresh_at
    assert refresh_at is not None

    assert shown(bench, target) == {
        "name": "ecr",
        "source": "ecr",
        "renewable": True,
        "registry": "registry.test",
        "enabled": True,
        "paused": False,
        "state": "fresh",
        "valid": True,
        "proved": True,
        "image_pullable": None,
        "issued_at": "2026-11-23T12:00:00Z",
        "expires_at": "2026-11-24T00:00:00Z",
        "refresh_at": view.timestamp(refresh_at),
        "verified_at": "2026-11-23T12:00:00Z",
        "next_attempt_at": "2026-11-23T12:15:00Z",
        "last_success_at": "2026-11-23T12:00:00Z",
        "last_attempt_at": "2026-11-23T12:00:00Z",
        "consecutive_failures": 0,
        "last_failure": None,
        "source_value": None,
        "expiry_warning_days": None,
        "pulls_remaining": None,
        "pulls_limit": None,
        "holder": None,
        "layers": [],
        "secrets": [
            {
                "account": "default",
                "environment": "main",
                "name": "AWS_ECR_PASSWORD",
                "published_at": "2026-11-23T12:00:00Z",
                "issued_at": "2026-11-23T12:00:00Z",
                "expires_at": "2026-11-24T00:00:00Z",
                "fingerprint": status.secrets[0].fingerprint,
                "valid": True,
                "drifted": False,
                "last_failure": None,
            }
        ],
    }


def test_a_target_before_its_first_attempt_is_unknown(bench: Bench) -> None:
    """What nobody knows yet is null, not a guess."""
    target = bench.target()
    ((_, blank),) = view.with_status({"ecr": target}, {}, NOON)
    seen = view.target_view(target, blank, NOON)

    assert seen["state"] == "unknown"
    unknown = ("valid", "proved", "issued_at", "expires_at", "refresh_at", "verified_at")
    assert [seen[key] for key in unknown] == [None] * len(unknown)
    assert seen["next_attempt_at"] == "2026-11-23T12:00:00Z"
    assert seen["secrets"][0]["fingerprint"] is None


def test_a_failure_is_shown_with_its_stage_reason_and_words(bench: Bench) -> None:
    """The last failure of the target, and of the secret that it was."""
    target = bench.target(environments=("main", "staging"))
    bench.vault.failures["staging"] = Unavailable("fal.test answered UNAVAILABLE")
    bench.attempt(target)

    seen = shown(bench, target)
    failure = {
        "at": "2026-11-23T12:00:00Z",
        "stage": "publish",
        "reason": "unavailable",
        "message": "fal.test answered UNAVAILABLE",
    }
    assert seen["last_failure"] == failure
    assert [secret["last_failure"] for secret in seen["secrets"]] == [None, failure]
    assert seen["consecutive_failures"] == 1


def two_secrets(
    bench: Bench, first: dict[str, object], second: dict[str, object]
) -> view.TargetView:
    """A target whose two secrets were published at noon and then differ as told."""
    target = bench.target(environments=("main", "staging"))
    bench.attempt(target)
    status = bench.status(target)
    one, two = status.secrets
    status = replace(status, secrets=(replace(one, **first), replace(two, **second)))
    return view.target_view(target, status, NOON)


@pytest.mark.parametrize(
    ("first", "second", "worst"),
    [
        ({}, {}, True),
        ({}, {"verified_at": None}, None),
        ({"verified_at": None}, {"verdict": Verdict.UNAUTHORIZED}, False),
        ({"verdict": Verdict.UNAUTHORIZED}, {}, False),
    ],
)
def test_false_comes_before_null_before_true(
    bench: Bench, first: dict[str, object], second: dict[str, object], worst: bool | None
) -> None:
    """A target is as valid as the worst of its secrets."""
    assert two_secrets(bench, first, second)["valid"] is worst


@pytest.mark.parametrize(
    ("first", "second", "worst"),
    [
        ({}, {}, True),
        ({}, {"fingerprint": None}, None),
        ({"proved": False, "verified_at": None}, {}, False),
        ({"proved": False}, {}, True),
    ],
)
def test_a_target_is_proved_if_all_its_secrets_are(
    bench: Bench, first: dict[str, object], second: dict[str, object], worst: bool | None
) -> None:
    """One secret that was published unproved shows, until a check has proved it."""
    assert two_secrets(bench, first, second)["proved"] is worst


def test_a_targets_times_are_the_earliest_of_its_secrets(bench: Bench) -> None:
    """The first end counts, and a secret without a time does not hide another's."""
    earlier = {"issued_at": NOON - HOUR, "expires_at": NOON + HOUR, "refresh_at": NOON}
    seen = two_secrets(bench, {"verified_at": NOON - 2 * HOUR, "expires_at": None}, earlier)

    assert seen["issued_at"] == "2026-11-23T11:00:00Z"
    assert seen["expires_at"] == "2026-11-23T13:00:00Z"
    assert seen["refresh_at"] == "2026-11-23T12:00:00Z"
    assert seen["verified_at"] == "2026-11-23T10:00:00Z"


def test_a_life_that_was_learnt_ends_the_credential_earlier(bench: Bench) -> None:
    """What a registry once refused after an hour is not shown as good for twelve."""
    target = bench.target()
    bench.attempt(target)
    status = replace(bench.status(target), learnt_life=HOUR)
    seen = view.target_view(target, status, NOON)

    assert seen["expires_at"] == seen["secrets"][0]["expires_at"] == "2026-11-23T13:00:00Z"


@pytest.mark.parametrize(
    ("enabled", "paused", "wished", "expected"),
    [
        (True, False, False, "2026-11-23T12:15:00Z"),
        (True, True, False, None),
        (True, True, True, "2026-11-23T12:00:00Z"),
        (False, False, True, None),
    ],
)
def test_a_parked_target_has_no_next_attempt(
    bench: Bench, enabled: bool, paused: bool, wished: bool, expected: str | None
) -> None:
    """A person's wish is answered although the target is paused, not where it is disabled."""
    target = bench.target()
    bench.attempt(target)
    trigger = Trigger("7", NOON, Actor.HTTP) if wished else None
    status = replace(bench.status(target), paused=paused, trigger=trigger)
    seen = view.target_view(replace(target, enabled=enabled), status, NOON)

    assert seen["next_attempt_at"] == expected


def test_an_attempt_is_shown_with_its_stages(bench: Bench) -> None:
    """The record of the history, with the seconds of each stage."""
    attempt = bench.attempt(bench.target())
    assert view.attempt_view(attempt) == {
        "id": "1",
        "target": "ecr",
        "actor": "schedule",
        "reason": "missing",
        "started_at": "2026-11-23T12:00:00Z",
        "ended_at": "2026-11-23T12:00:00Z",
        "outcome": "refreshed",
        "failure": None,
        "stages": [
            {"stage": "source", "seconds": 0.0},
            {"stage": "verify", "seconds": 0.0},
            {"stage": "publish", "seconds": 0.0},
        ],
        "fingerprint_before": None,
        "fingerprint_after": attempt.fingerprint_after,
        "verified": True,
    }


@pytest.mark.parametrize(
    ("at", "shown"),
    [
        (datetime(2026, 1, 2, 3, 4, 5, 999_999, tzinfo=UTC), "2026-01-02T03:04:05Z"),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(2 * HOUR)), "2026-01-02T01:04:05Z"),
    ],
)
def test_times_are_utc_and_never_too_late(at: datetime, shown: str) -> None:
    """Whole seconds, cut off; another zone is turned into UTC."""
    assert view.timestamp(at) == shown


def test_a_secret_that_the_status_does_not_know_is_blank(bench: Bench) -> None:
    """A configuration that grew by an environment shows it before the next tick."""
    old = bench.target()
    bench.attempt(old)
    grown = bench.target(environments=("main", "new"))
    seen = view.target_view(grown, bench.status(old), NOON)

    assert [secret["environment"] for secret in seen["secrets"]] == ["main", "new"]
    assert seen["secrets"][1]["published_at"] is None
    assert seen["valid"] is None


def test_every_configured_target_gets_a_status(bench: Bench) -> None:
    """The known one as it is, a blank one for a new target, none for a target that is gone."""
    known, new = bench.target("known"), bench.target("new")
    status = bench.adopt(known)
    gone = bench.adopt(bench.target("gone"))
    rows = view.with_status(
        {"new": new, "known": known}, {"known": status, "gone": gone}, NOON + HOUR
    )

    assert [target.name for target, _ in rows] == ["new", "known"]
    assert rows[1][1] is status
    assert rows[0][1].next_attempt_at == NOON + HOUR
