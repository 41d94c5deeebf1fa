"""What a person sees while a command waits: one line on a terminal, and nothing elsewhere."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TextIO

from refresher.cli.output import NARROW, span

_CLEAR = "\r\x1b[K"

#: Seconds of waiting of which nobody needs to be told; a line for less would only flicker.
_UNNOTICED = 0.2


class Line:
    """The last line of a stream, written anew every second; what is logged stands above it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        #: Whether somebody is there to see it.
        self.seen = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._lock = threading.Lock()
        self._text = ""

    @contextmanager
    def waiting(self, what: str, most: timedelta | None = None) -> Iterator[None]:
        """Show for how long `what` has been waited for, `most` being the longest."""
        if not self.seen:
            yield
            return
        over = threading.Event()
        thread = threading.Thread(target=self._run, args=(what, most, over), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            if self._text:
                self._show("")

    def _run(self, what: str, most: timedelta | None, over: threading.Event) -> None:
        began = time.monotonic()
        limit = "" if most is None else f" of at most {span(most)}"
        while not over.wait(1 if self._text else _UNNOTICED):
            passed = timedelta(seconds=time.monotonic() - began)
            self._show(f"{what}: {span(passed)}{limit}")

    def _show(self, text: str) -> None:
        columns = shutil.get_terminal_size((NARROW, 24)).columns
        with self._lock:
            self._text = text[: columns - 1]  # a longer one would go on below, and stay there
            self._stream.write(f"{_CLEAR}{self._text}")
            self._stream.flush()

    # --- as a stream of the log -----------------------------------------------------------------

    def write(self, text: str) -> int:
        """Write whole lines above this one."""
        with self._lock:
            if self._text:
                text = f"{_CLEAR}{text}{self._text}"
            return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()


def those(names: Sequence[str] | None) -> str:
    """Some targets in a word or two; None means all."""
    if names is None:
        return "all targets"
    return names[0] if len(names) == 1 else f"{len(names)} targets"
