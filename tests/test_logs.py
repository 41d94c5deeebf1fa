"""The log: one line an attempt, stable names, no value."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import timedelta

import pytest

from refresher import logs
from refresher.clock import ManualClock
from refresher.errors import Unavailable
from refresher.model import DueReason, ImageRef, Pull
from tests.script import Bench

MINUTE = timedelta(minutes=1)


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where the log goes; the handlers of before come back at the end."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.configure("json", stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def bench(clock: ManualClock) -> Iterator[Bench]:
    """A refresher whose attempts are logged."""
    bench = Bench(clock)
    bench.refresher._observers = [logs.attempt]
    yield bench
    bench.store.close()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    """What was logged."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_refresh_is_one_line_with_a_fingerprint_and_no_value(
    bench: Bench, stream: io.StringIO
) -> None:
    """`attempt.refreshed`."""
    bench.attempt(bench.target())
    (line,) = lines(stream)
    assert line["event"] == "attempt.refreshed"
    assert line["level"] == "info"
    assert line["target"] == "ecr"
    assert line["due"] == "missing"
    assert line["fingerprint"]
    assert "token-1" not in stream.getvalue()


def test_a_failure_names_stage_reason_and_next_try(bench: Bench, stream: io.StringIO) -> None:
    """`attempt.failed`: a warning while there is life left, an error once it is urgent."""
    target = bench.target()
    bench.attempt(target)
    bench.issuer.failure = Unavailable("AWS is away")
    for age, level in ((4 * 60, "warning"), (6 * 60, "error")):
        for _ in range(age):
            bench.clock.advance(MINUTE)
        bench.attempt(target, DueReason.STALE)
        line = lines(stream)[-1]
        assert line["event"] == "attempt.failed"
        assert (line["stage"], line["reason"]) == ("source", "unavailable")
        assert line["message"] == "AWS is away"
        assert line["next"]
        assert line["level"] == level


def test_an_image_that_cannot_be_pulled_is_said(bench: Bench, stream: io.StringIO) -> None:
    """`image.not_pullable` beside the attempt's own line."""
    bench.judge.pull = Pull.NOT_FOUND
    bench.attempt(bench.target(image=ImageRef("app", "gone")))
    assert [line["event"] for line in lines(stream)] == ["attempt.refreshed", "image.not_pullable"]


def test_an_unproved_publish_is_an_error(bench: Bench, stream: io.StringIO) -> None:
    """`attempt.unproved`."""
    target = bench.target()
    bench.attempt(target)
    bench.clock.advance(13 * 60 * MINUTE)
    bench.judge.failure = Unavailable("away")
    bench.attempt(target, DueReason.EXPIRED)
    assert [(line["event"], line["level"]) for line in lines(stream)[1:]] == [
        ("attempt.refreshed", "info"),
        ("attempt.unproved", "error"),
    ]


def test_other_libraries_are_quiet_below_warning(stream: io.StringIO) -> None:
    """boto, urllib3, grpc and httpx print requests at debug level, also with --debug."""
    logs.configure("json", debug=True, stream=stream)
    for name in ("botocore.endpoint", "urllib3.connectionpool", "httpx", "grpc._channel"):
        logging.getLogger(name).debug("Authorization: canary")
        logging.getLogger(name).info("Authorization: canary")
    assert stream.getvalue() == ""


def test_a_terminal_gets_lines_for_people(stream: io.StringIO) -> None:
    """`log_format = "console"`."""
    logs.configure("console", stream=stream)
    logs.event("daemon.started", targets=3)
    assert "daemon.started" in stream.getvalue()
    assert "targets=3" in stream.getvalue()
