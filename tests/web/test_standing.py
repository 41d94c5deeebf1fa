"""The one word for a target, and which targets come first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from refresher.clock import ManualClock
from refresher.model import Status, Target, Verdict
from refresher.web.coming import coming
from refresher.web.fleet import MOST_SHOWN, STATES, Filter, fleet, headline
from refresher.web.standing import Group, Standing, notes, standing
from tests.conftest import NOON
from tests.script import Bench

HOUR = timedelta(hours=1)


@pytest.fixture
def bench(clock: ManualClock) -> Iterator[Bench]:
    """Scripted peers around the real refresher and store."""
    bench = Bench(clock)
    yield bench
    bench.store.close()


def published(bench: Bench, target: Target, **changes: object) -> Status:
    """A status after a publish at noon, with its one secret changed as told."""
    bench.attempt(target)
    status = bench.status(target)
    (secret,) = status.secrets
    return replace(status, secrets=(replace(secret, **changes),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("secret", "status", "hours", "expected"),
    [
        ({}, {}, 0, "fresh"),
        ({}, {"consecutive_failures": 1}, 0, "failing"),
        ({"drifted": True}, {}, 0, "drifted"),
        ({}, {"image_pullable": False}, 0, "unproved"),
        ({"verified_at": None, "proved": False}, {}, 0, "unknown"),
        ({}, {}, 2, "unknown"),
        ({"verified_at": NOON + 4 * HOUR}, {}, 4, "stale"),
        ({}, {"consecutive_failures": 9}, 10, "urgent"),
        ({}, {"paused": True}, 1, "paused"),
        ({"verdict": Verdict.UNAUTHORIZED}, {"paused": True}, 1, "refused"),
        ({"verdict": Verdict.UNAUTHORIZED}, {"paused": True}, 12, "expired"),
    ],
)
def test_the_worst_that_holds_is_the_word(
    bench: Bench, secret: dict[str, object], status: dict[str, object], hours: int, expected: str
) -> None:
    """What is expired or refused is so even while it is paused."""
    target = bench.target()
    seen = replace(published(bench, target, **secret), **status)  # type: ignore[arg-type]
    assert standing(target, seen, NOON + hours * HOUR) == expected


def test_a_parked_target_is_no_trouble(bench: Bench) -> None:
    """The configuration says that nobody minds."""
    target = bench.target(enabled=False)
    status = published(bench, target)
    assert standing(target, status, NOON + 20 * HOUR) is Standing.DISABLED
    assert [step.text for step in coming(target, status, NOON)] == ["nothing while disabled"]


def test_notes_tell_what_the_word_leaves_out(bench: Bench) -> None:
    """A few words each."""
    target = bench.target()
    status = replace(
        published(bench, target, drifted=True, verified_at=None),
        paused=True,
        consecutive_failures=2,
        image_pullable=False,
    )
    assert list(notes(target, status, NOON)) == [
        "paused by a person",
        "2 failures in a row",
        "written by somebody else",
        "published unproved",
        "image cannot be pulled",
    ]


@pytest.mark.parametrize(("days", "told"), [(31, False), (30, True), (1, True)])
def test_the_end_of_a_static_credential_is_announced(bench: Bench, days: int, told: bool) -> None:
    """By the words that only a person can replace it."""
    bench.issuer.renewable = False
    target = bench.target()
    status = published(bench, target, expires_at=NOON + timedelta(days=days))
    assert ("only a person can replace it" in notes(target, status, NOON)) is told


def test_what_comes_next_is_named(bench: Bench) -> None:
    """The next look and, where that is another thing, the next refresh."""
    target = bench.target()
    assert next(coming(target, bench.adopt(target), NOON)).text == "first publish now"
    status = published(bench, target)
    check, refresh = coming(target, status, NOON)
    assert check.text == "check in 15 min"
    assert refresh.text.startswith("refresh in 3 h ")
    (stale,) = coming(target, replace(status, next_attempt_at=NOON + 4 * HOUR), NOON)
    assert stale.text == "refresh in 4 h"
    failed = replace(status, consecutive_failures=1, next_attempt_at=NOON)
    assert next(coming(target, failed, NOON)).text == "retry now"
    assert next(coming(target, replace(status, attempt="7"), NOON)).text == "in progress"


# --- the fleet ---------------------------------------------------------------------------------


def rows(bench: Bench) -> dict[str, tuple[Target, Status]]:
    """Targets of every group, in no good order."""
    made = {}
    for name in ("fine", "sooner", "failing", "expired", "parked", "blank"):
        target = bench.target(name, enabled=name != "parked")
        made[name] = (target, bench.adopt(target) if name == "blank" else published(bench, target))
    early = {"expired": NOON, "sooner": NOON + 11 * HOUR}
    for name, end in early.items():
        target, status = made[name]
        secrets = (replace(status.secrets[0], expires_at=end),)
        made[name] = (target, replace(status, secrets=secrets))
    target, status = made["failing"]
    made["failing"] = (target, replace(status, consecutive_failures=1))
    return made


def test_soonest_trouble_comes_first(bench: Bench) -> None:
    """By the word, then by the end of its life; what is parked comes last."""
    found = fleet(rows(bench).values(), Filter(), NOON)
    names = [row.target.name for row in found.shown]
    assert names == ["expired", "failing", "blank", "sooner", "fine", "parked"]
    assert found.counts == {
        Group.TROUBLE: 2,
        Group.UNKNOWN: 1,
        Group.FINE: 2,
        Group.PARKED: 1,
    }


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (Filter("SOON"), ["sooner"]),
        (Filter(" ecr_password "), ["expired", "failing", "blank", "sooner", "fine", "parked"]),
        (Filter("registry.test", "fine"), ["sooner", "fine"]),
        (Filter(state="trouble"), ["expired", "failing"]),
        (Filter(state="failing"), ["failing"]),
        (Filter("nothing like it"), []),
    ],
)
def test_a_filter_finds_by_text_and_state(bench: Bench, wanted: Filter, names: list[str]) -> None:
    """The counts stay those of all targets."""
    found = fleet(rows(bench).values(), wanted, NOON)
    assert [row.target.name for row in found.shown] == names
    assert found.total == 6


def test_a_page_holds_the_worst_of_many(bench: Bench) -> None:
    """And says how many it leaves out."""
    target = bench.target()
    status = published(bench, target)
    many = [(replace(target, name=f"t{i:05}"), status) for i in range(10_000)]
    bad = (replace(target, name="zzz"), replace(status, consecutive_failures=1))
    found = fleet([*many, bad], Filter(), NOON)

    assert len(found.shown) == MOST_SHOWN
    assert found.shown[0].target.name == "zzz"
    assert found.hidden == 10_001 - MOST_SHOWN
    assert headline(found) == "1 of 10,001 targets in trouble"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "No targets are configured"),
        (["fine"], "The target is fine"),
        (["fine", "sooner"], "All 2 targets fine"),
        (["fine", "parked"], "1 of 2 targets fine, the others parked"),
        (["parked"], "The target is parked"),
        (["fine", "blank"], "1 of 2 targets not known yet"),
        (["fine", "blank", "failing", "expired"], "2 of 4 targets in trouble"),
    ],
)
def test_the_headline_is_for_a_glance(bench: Bench, names: list[str], words: str) -> None:
    """The worst of all there is to say."""
    made = rows(bench)
    assert headline(fleet([made[name] for name in names], Filter(), NOON)) == words


def test_every_word_can_be_asked_for() -> None:
    """Each once, though `unknown` is a word and a group."""
    assert set(STATES) == {*Standing, *Group}
    assert len(STATES) == len(set(STATES))
