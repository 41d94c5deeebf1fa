"""One log: lines for people on a terminal, JSON for machines, stable event names for both."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, TextIO

import structlog

from refresher import policy
from refresher.model import Attempt, Life, Outcome, Status, Target

#: Third-party loggers print requests, some with credentials, at debug level: never below this.
_OTHERS_LEVEL = logging.WARNING

_NOISY = {
    # It warns of each tick that finds the last one still at work, which is no news.
    "apscheduler": logging.ERROR,
    # It logs AWS's own words with a traceback where a session could not be had; we say why.
    "botocore": logging.CRITICAL,
    # It logs URLs with the tokens in them; we say what failed.
    "apprise": logging.CRITICAL,
    # It warns of each request that is no HTTP, so that any stranger could fill the disk.
    "uvicorn": logging.ERROR,
}

_log = structlog.get_logger("refresher")


def configure(
    log_format: str = "auto", *, debug: bool = False, stream: TextIO | None = None
) -> None:
    """Set up logging of the process. `log_format` is `console`, `json` or `auto`.

    A service's log goes to standard output, where containers look for it; a command that prints
    its result there gives another `stream`.
    """
    stream = stream or sys.stdout
    as_json = log_format == "json" or (log_format == "auto" and not stream.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=_in_colour(stream), pad_event_to=0)
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_OTHERS_LEVEL)
    logging.getLogger("refresher").setLevel(logging.DEBUG if debug else logging.INFO)
    for name, level in _NOISY.items():
        logging.getLogger(name).setLevel(level)


def _in_colour(stream: TextIO) -> bool:
    """On a terminal, unless NO_COLOR asks for none."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def event(name: str, **fields: Any) -> None:
    """Something that happened and is as it should be."""
    _log.info(name, **fields)


def warning(name: str, **fields: Any) -> None:
    """Something that a person should look at in office hours."""
    _log.warning(name, **fields)


def error(name: str, **fields: Any) -> None:
    """Something that a person should look at now."""
    _log.error(name, **fields)


def attempt(target: Target, status: Status, done: Attempt) -> None:
    """One line an attempt: an observer of the refresher."""
    fields = _fields(status, done)
    life = policy.life(target, status, done.ended_at or done.started_at)
    if done.outcome is not Outcome.FAILED:
        _log.info(f"attempt.{done.outcome}", **fields)
    elif life in (Life.URGENT, Life.EXPIRED):
        _log.error("attempt.failed", **fields, state=str(life))
    else:
        _log.warning("attempt.failed", **fields)
    if done.outcome is Outcome.REFRESHED and not done.verified:
        _log.error("attempt.unproved", target=done.target, attempt=done.id)
    if status.image_pullable is False and done.outcome is not Outcome.FAILED:
        _log.warning("image.not_pullable", target=done.target, image=str(target.image))


def _fields(status: Status, done: Attempt) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "target": done.target,
        "due": str(done.reason),
        "actor": str(done.actor),
        "attempt": done.id,
        "seconds": round(sum(stage.seconds for stage in done.stages), 3),
        "next": status.next_attempt_at.isoformat(timespec="seconds"),
    }
    if done.failure is not None:
        fields |= {
            "stage": str(done.failure.stage),
            "reason": str(done.failure.reason),
            "message": done.failure.message,
            "failures": status.consecutive_failures,
        }
    if done.outcome is Outcome.REFRESHED:
        fields["fingerprint"] = done.fingerprint_after
    return fields
