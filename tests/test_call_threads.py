"""A total deadline for many short calls, on threads that are used again."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from refresher.deadline import CallThreads
from refresher.errors import TimedOut


@pytest.fixture
def threads() -> Iterator[CallThreads]:
    """Threads that end with the test."""
    threads = CallThreads()
    yield threads
    threads.close()


def test_calls_one_after_the_other_share_a_thread(threads: CallThreads) -> None:
    """Starting one for each would cost as much as the call."""
    assert len({threads.within(5, "peer", threading.get_ident) for _ in range(20)}) == 1


def test_an_error_of_the_call_is_raised_and_its_thread_used_again(threads: CallThreads) -> None:
    """It is the caller's, not the thread's end."""

    def fail() -> None:
        raise TimeoutError(threading.get_ident())

    with pytest.raises(TimeoutError) as failed:
        threads.within(5, "peer", fail)
    assert failed.value.args == (threads.within(5, "peer", threading.get_ident),)


def test_a_call_that_hangs_is_left_behind_and_holds_nobody_up(threads: CallThreads) -> None:
    """The next one gets a thread of its own; what comes too late is dropped."""
    released, late = threading.Event(), []
    with pytest.raises(TimedOut, match=r"peer did not answer within 0\.05 s"):
        threads.within(0.05, "peer", lambda: late.append(released.wait(5)))
    assert threads.within(5, "peer", lambda: "answer") == "answer"
    released.set()


def test_closing_ends_idle_threads_and_busy_ones_after_their_call(threads: CallThreads) -> None:
    """None outlives its owner."""
    released = threading.Event()
    used = [threads.within(5, "peer", threading.current_thread)]

    def hang() -> None:
        used.append(threading.current_thread())
        released.wait(5)

    with pytest.raises(TimedOut):
        threads.within(0.05, "peer", hang)
    idle = threads.within(5, "peer", threading.current_thread)
    threads.close()
    released.set()
    for thread in [*used, idle]:
        thread.join(5)
    assert not any(thread.is_alive() for thread in [*used, idle])
