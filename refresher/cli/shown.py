"""Targets and attempts of the API as people read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from refresher.cli.output import paint, relative, say, say_table, span, wrapped

if TYPE_CHECKING:
    from refresher.client import Answer
    from refresher.view import AttemptView, FailureView, ReplicaView, SecretView, TargetView

#: A target that was left alone, and why.
Skipped = tuple[str, str]

_VALID = {True: "yes", False: "NO", None: "unknown"}


# --- targets -----------------------------------------------------------------------------------


def say_targets(targets: Sequence[TargetView], now: datetime) -> None:
    """A line a target, and the last failure of those that fail."""
    if not targets:
        say("no targets are configured")
        return
    headings = ("TARGET", "STATE", "VALID", "EXPIRES", "NEXT", "FAILURES")
    say_table(headings, [_target_row(target, now) for target in targets])
    for target in targets:
        if target["consecutive_failures"] and target["last_failure"]:
            say(_failure(f"{target['name']}: ", target["last_failure"], now))


def say_replicas(replicas: Sequence[ReplicaView], now: datetime) -> None:
    """A line a replica, where there can be any."""
    if not replicas:
        return
    rows = [
        (
            each["id"],
            "alive" if each["alive"] else "GONE",
            str(each["holds"]),
            each["release"],
            each["config"],
            relative(each["started_at"], now),
        )
        for each in replicas
    ]
    say("")
    say_table(("REPLICA", "STATE", "HOLDS", "RELEASE", "CONFIG", "STARTED"), rows)
    if len({each["config"] for each in replicas if each["alive"]}) > 1:
        say("the replicas have different configurations; start all of them with the same one")


def _target_row(target: TargetView, now: datetime) -> tuple[str, ...]:
    return (
        target["name"],
        target["state"],
        _VALID[target["valid"]],
        relative(target["expires_at"], now),
        _next(target, now),
        str(target["consecutive_failures"] or "-"),
    )


def _next(target: TargetView, now: datetime) -> str:
    if not target["enabled"]:
        return "parked"
    return "paused" if target["paused"] else relative(target["next_attempt_at"], now)


def say_target(target: TargetView, now: datetime) -> None:
    """Everything that is known of one target."""
    say(target["name"])
    for label, text in _facts(target, now):
        say(f"  {label:<13} {text}")
    if target["last_failure"]:
        say(_failure("  last failure  ", target["last_failure"], now))
    for layer in target["layers"]:
        say(wrapped(f"  {_LAYER[layer['ok']]} {layer['name']:<11} ", layer["words"]))
    for secret in target["secrets"]:
        _say_secret(secret, now)


#: Whether a step of the last verification held.
_LAYER = {True: "✓", False: "✗", None: "?"}


def _facts(target: TargetView, now: datetime) -> Iterator[tuple[str, str]]:
    kind = "renewable" if target["renewable"] else "static"
    yield "source", f"{target['source']} ({kind})"
    yield "registry", target["registry"]
    yield "state", paint(target["state"])
    yield "valid", _VALID[target["valid"]]
    yield "verified", _when(target["verified_at"], now)
    if target["image_pullable"] is not None:
        yield "image", "can be pulled" if target["image_pullable"] else "CANNOT be pulled"
    if target["source_value"] is not None:
        yield "source value", target["source_value"]
    if target["holder"] is not None:
        yield "held by", target["holder"]
    if target["pulls_remaining"] is not None:
        yield "pulls left", f"{target['pulls_remaining']} of {target['pulls_limit']}"
    yield "issued", _when(target["issued_at"], now)
    yield "expires", _when(target["expires_at"], now)
    yield "refresh at", _when(target["refresh_at"], now)
    parked = not target["enabled"] or target["paused"]
    yield "next attempt", _next(target, now) if parked else _when(target["next_attempt_at"], now)
    yield "last attempt", _when(target["last_attempt_at"], now)
    yield "last success", _when(target["last_success_at"], now)
    yield "failures", f"{target['consecutive_failures']} in a row"


def _say_secret(secret: SecretView, now: datetime) -> None:
    say(f"  secret {secret['name']} ({secret['account']}/{secret['environment']})")
    facts = (
        ("published", _when(secret["published_at"], now)),
        ("expires", _when(secret["expires_at"], now)),
        ("valid", _VALID[secret["valid"]]),
        ("fingerprint", secret["fingerprint"] or "-"),
    )
    for label, text in facts:
        say(f"    {label:<11} {text}")
    if secret["drifted"]:
        say("    drifted     someone else wrote or deleted it since")
    if secret["last_failure"]:
        say(_failure("    last failure ", secret["last_failure"], now))


def _when(at: str | None, now: datetime) -> str:
    return "-" if at is None else f"{relative(at, now)} ({at})"


def _failure(label: str, failure: FailureView, now: datetime) -> str:
    cause = f"{failure['stage']}/{failure['reason']} {relative(failure['at'], now)}"
    return wrapped(label, f"{cause}: {failure['message']}")


# --- attempts ----------------------------------------------------------------------------------


def say_results(attempts: Sequence[Answer], skipped: Sequence[Skipped] = ()) -> None:
    """What became of each target."""
    rows = [_result_row(attempt) for attempt in attempts]
    rows += [(name, "skipped", "-", why) for name, why in skipped]
    if not rows:
        say("no target is enabled")
        return
    say_table(("TARGET", "OUTCOME", "TOOK", "DETAIL"), rows)


def _result_row(attempt: Answer) -> tuple[str, str, str, str]:
    if "started_at" not in attempt:
        return (attempt["target"], "pending", "-", "not done yet")
    words = "" if attempt["failure"] is None else f": {attempt['failure']['message']}"
    return (attempt["target"], _outcome(attempt), _took(attempt), _detail(attempt) + words)


def say_history(attempts: Sequence[AttemptView], now: datetime) -> None:
    """A line an attempt."""
    if not attempts:
        say("no attempts yet")
        return
    headings = ("STARTED", "OUTCOME", "TARGET", "DUE", "TOOK", "DETAIL")
    say_table(headings, [_history_row(attempt, now) for attempt in attempts])


def say_target_history(attempts: Sequence[AttemptView], now: datetime) -> None:
    """The attempts of one target, all that is known of each."""
    if not attempts:
        say("no attempts yet")
        return
    rows = [
        (relative(a["started_at"], now), _outcome(a), _due(a), "; ".join(_details(a)))
        for a in attempts
    ]
    say_table(("STARTED", "OUTCOME", "DUE", "DETAIL"), rows)


def _details(attempt: AttemptView) -> Iterator[str]:
    """What came of it and why, how long each stage took, and what stood before and after."""
    failure = attempt["failure"]
    yield _detail(attempt) + ("" if failure is None else f": {failure['message']}")
    if attempt["stages"]:
        yield ", ".join(f"{stage['stage']} {stage['seconds']:.2f}s" for stage in attempt["stages"])
    before, after = attempt["fingerprint_before"], attempt["fingerprint_after"]
    if attempt["outcome"] is not None and after is not None:
        yield f"{after} as before" if after == before else f"{before or 'nothing'} → {after}"


def _history_row(attempt: AttemptView, now: datetime) -> tuple[str, ...]:
    return (
        relative(attempt["started_at"], now),
        _outcome(attempt),
        attempt["target"],
        _due(attempt),
        _took(attempt),
        _detail(attempt),
    )


def _due(attempt: AttemptView) -> str:
    """Why, and by whom where a person asked."""
    by_schedule = attempt["actor"] == "schedule"
    return attempt["reason"] if by_schedule else f"{attempt['reason']}, {attempt['actor']}"


def _outcome(attempt: AttemptView) -> str:
    return attempt["outcome"] or "running"


def _took(attempt: AttemptView) -> str:
    if attempt["outcome"] is None:
        return "-"
    seconds = sum(stage["seconds"] for stage in attempt["stages"])
    return f"{seconds:.1f}s" if seconds < 60 else span(timedelta(seconds=seconds))


def _detail(attempt: AttemptView) -> str:
    failure = attempt["failure"]
    if failure is not None:
        return f"{failure['stage']}/{failure['reason']}"
    if attempt["outcome"] is None:
        return "not done yet"
    return "verified" if attempt["verified"] else "NOT verified"
