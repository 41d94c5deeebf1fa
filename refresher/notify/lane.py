"""An Apprise URL with its own thread, queue and retries, so that a dead one holds up nobody."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Literal

from refresher import logs
from refresher.errors import Failure
from refresher.notify.apprise import scheme, send
from refresher.notify.news import Notice
from refresher.references import Reference

#: What became of a notice at one URL.
Outcome = Literal["sent", "failed", "dropped"]

#: Seconds before each retry; after the last one the notice is given up.
RETRY_SECONDS = (5.0, 30.0, 120.0, 600.0)

#: Notices that wait for one URL; what comes on top is dropped, and counted.
LONGEST_QUEUE = 100


class Lane:
    """Sends notices to one URL, in their order. Its thread begins with it and ends by `close`."""

    def __init__(
        self,
        reference: Reference,
        count: Callable[[Outcome], None],
        retry_seconds: Sequence[float] = RETRY_SECONDS,
        ca_bundle: Path | None = None,
    ) -> None:
        self._reference = reference
        self._ca_bundle = ca_bundle
        self._count = count
        self._retry_seconds = retry_seconds
        self._waiting: SimpleQueue[Notice | None] = SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"notify:{reference}", daemon=True)
        self._thread.start()

    def post(self, notice: Notice) -> None:
        """Queue a notice; never waits."""
        if self._waiting.qsize() >= LONGEST_QUEUE:
            self._drop(notice)
        else:
            self._waiting.put(notice)

    def stop(self) -> None:
        """Retry nothing more, and end once each waiting notice was tried."""
        self._closing.set()
        self._waiting.put(None)

    def close(self, seconds: float) -> None:
        """Stop, wait at most so long, and drop what is left."""
        self.stop()
        self._thread.join(seconds)
        while (notice := self._next()) is not None:
            self._drop(notice)

    def _next(self) -> Notice | None:
        try:
            return self._waiting.get_nowait()
        except Empty:
            return None

    def _run(self) -> None:
        while (notice := self._waiting.get()) is not None:
            self._count(self._deliver(notice))

    def _deliver(self, notice: Notice) -> Outcome:
        for seconds in (*self._retry_seconds, None):
            if self._sent(notice, seconds):
                return "sent"
            if seconds is None or self._closing.wait(seconds):
                break
        return "failed"

    def _sent(self, notice: Notice, retry_seconds: float | None) -> bool:
        try:
            send(self._reference, notice, ca_bundle=self._ca_bundle)
        except Failure as failure:
            logs.warning(
                "notification.failed",
                **self._about(notice),
                scheme=scheme(self._reference),
                message=failure.message,
                retry_seconds=retry_seconds,
            )
            return False
        return True

    def _drop(self, notice: Notice) -> None:
        logs.warning("notification.dropped", **self._about(notice))
        self._count("dropped")

    def _about(self, notice: Notice) -> dict[str, str]:
        return {"notifier": str(self._reference), "target": notice.target, "kind": notice.kind}
