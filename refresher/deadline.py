"""A total deadline for a blocking call that has none of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from queue import SimpleQueue
from typing import TypeVar

from refresher.errors import TimedOut

#: Seconds that one call to a peer may take in all, name resolution included.
CALL_SECONDS = 8.0

T = TypeVar("T")


def within(seconds: float, what: str, call: Callable[[], T]) -> T:
    """What `call` returns, if it does so within `seconds`.

    Socket time-outs bound a single read, not a peer that drips a byte at a time, and none of
    them bounds name resolution. So the call runs on a thread that is left behind when its time
    is up; whatever it returns afterwards is dropped.

    Raises `TimedOut`, naming `what`, or whatever `call` raises.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - handed to the waiting thread, not dropped
            future.set_exception(error)

    threading.Thread(target=run, name=f"call:{what}", daemon=True).start()
    return _result(future, seconds, what)


class CallThreads:
    """`within` for many short calls: it uses its threads again, since starting one for each
    costs as much CPU as an HTTP call on an open connection.

    A call that is left behind keeps its thread and no other waits for it.
    """

    def __init__(self) -> None:
        self._idle: list[SimpleQueue[Callable[[], None] | None]] = []
        self._closed = False

    def within(self, seconds: float, what: str, call: Callable[[], T]) -> T:
        """As the function of this name."""
        future: Future[T] = Future()
        inbox = self._inbox()

        def run() -> None:
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 - handed to the waiting thread
                self._idle.append(inbox)
                future.set_exception(error)
            else:
                self._idle.append(inbox)
                future.set_result(result)

        inbox.put(run)
        return _result(future, seconds, what)

    def close(self) -> None:
        """Let idle threads end; the others end after their call."""
        self._closed = True
        while self._idle:
            self._idle.pop().put(None)

    def _inbox(self) -> SimpleQueue[Callable[[], None] | None]:
        """Of the thread that was idle last, or of a new one."""
        try:
            return self._idle.pop()
        except IndexError:
            inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
            threading.Thread(target=self._serve, args=(inbox,), name="call", daemon=True).start()
            return inbox

    def _serve(self, inbox: SimpleQueue[Callable[[], None] | None]) -> None:
        while (run := inbox.get()) is not None:
            run()
            del run  # an idle thread holds on to no credential
            if self._closed:
                return


def _result(future: Future[T], seconds: float, what: str) -> T:
    try:
        return future.result(timeout=seconds)
    except FutureTimeoutError as error:
        if future.done():  # the call itself raised a TimeoutError
            raise
        raise TimedOut(f"{what} did not answer within {seconds:g} s") from error
