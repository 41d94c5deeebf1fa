"""Exit codes, which scripts build on."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING

from refresher.errors import ConfigError, DaemonError, DaemonRefused, RefresherError

if TYPE_CHECKING:
    from refresher.client import Answer


class Exit(IntEnum):
    """What a command ends with."""

    GOOD = 0
    FAILED = 1
    #: The command line or the configuration cannot be used.
    USAGE = 2
    #: No daemon there, or nothing known.
    UNKNOWN = 3
    #: Ctrl-C, as shells count signals: 128 + SIGINT.
    INTERRUPTED = 130


#: Answers of the API to a wrong question, above all one about an unknown target.
_WRONG_QUESTION = {404, 409, 422}


def exit_of(error: RefresherError) -> Exit:
    """The exit code of a command that ended with an error."""
    if isinstance(error, ConfigError):
        return Exit.USAGE
    if isinstance(error, DaemonRefused):
        return Exit.USAGE if error.status in _WRONG_QUESTION else Exit.FAILED
    return Exit.UNKNOWN if isinstance(error, DaemonError) else Exit.FAILED


def exit_after(attempts: Sequence[Answer]) -> Exit:
    """The exit code after attempts: good once every one has ended and none failed."""
    good = all(attempt["outcome"] in ("refreshed", "checked") for attempt in attempts)
    return Exit.GOOD if good else Exit.FAILED
