"""A check, and a walk over checks that need one another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from refresher.errors import Failure


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    #: The same in every run, such as `credential` or `secret main`.
    name: str
    #: None where nobody can tell, or where it was not tried.
    ok: bool | None
    #: What was found; where it is broken, the cause.
    words: str
    #: What to do; empty where there is nothing to be done.
    fix: str = ""


def good(name: str, words: str) -> Check:
    return Check(name, True, words)


def bad(name: str, words: str, fix: str) -> Check:
    return Check(name, False, words, fix)


def unknown(name: str, words: str, fix: str = "") -> Check:
    return Check(name, None, words, fix)


@dataclass(frozen=True, slots=True)
class Step:
    """A check that has not been made yet."""

    name: str
    #: Makes the check of this name. Raises a `Failure` where what it looks at is broken.
    look: Callable[[str], Check]
    #: What to do about that failure.
    fix: Callable[[Failure], str]
    #: Names of checks without which it tells nothing.
    needs: tuple[str, ...] = ()


def walk(steps: Iterable[Step]) -> Iterator[Check]:
    """The checks in order; one that needs a broken one is not tried."""
    broken: set[str] = set()
    for step in steps:
        check = _untried(step, broken) or _tried(step)
        if check.ok is False:
            broken.add(step.name)
        yield check


def _untried(step: Step, broken: set[str]) -> Check | None:
    """None where nothing is in the way; whatever needs this one is not tried either."""
    first = next((name for name in step.needs if name in broken), None)
    if first is None:
        return None
    broken.add(step.name)
    return unknown(step.name, f"not tried: {first} comes first")


def _tried(step: Step) -> Check:
    try:
        return step.look(step.name)
    except Failure as failure:
        return bad(step.name, failure.message, step.fix(failure))
