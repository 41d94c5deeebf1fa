"""Where a value that is secret is kept: the name of it, never the value."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from refresher.errors import Misconfigured
from refresher.model import SecretValue

#: No credential file is anywhere near this; a wrong path such as /dev/zero is.
MAX_FILE_BYTES = 1024 * 1024

#: Time of the last change, inode and size of a file.
Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Reference:
    """`{ env = "NAME" }` or `{ file = "PATH" }`: exactly one of the two is set."""

    env: str | None = None
    file: Path | None = None

    def __str__(self) -> str:
        return f"${self.env}" if self.env is not None else f"file {self.file}"

    def read(self, environ: Mapping[str, str] = os.environ) -> SecretValue:
        """The value as it stands now, read anew at every call, with surrounding white space off.

        Raises `Misconfigured` where it is unset, unreadable, too large or not UTF-8.
        """
        if self.env is not None:
            value = environ.get(self.env)
            if value is None:
                raise Misconfigured(f"environment variable {self.env} is not set")
            return SecretValue(value.strip())
        assert self.file is not None  # noqa: S101 - the config admits exactly one of the two
        try:
            with self.file.open("rb") as stream:
                raw = stream.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise Misconfigured(f"cannot read {self.file}: {error.strerror}") from error
        if len(raw) > MAX_FILE_BYTES:
            raise Misconfigured(f"{self.file} is larger than 1 MiB, which no credential is")
        try:
            return SecretValue(raw.decode("utf-8-sig").strip())
        except UnicodeDecodeError:
            # Not chained: the error's object holds the bytes.
            raise Misconfigured(f"{self.file} is not UTF-8 text") from None


def stamp(path: Path) -> Stamp | None:
    """What changes with the file, through symbolic links; None while it is away."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return (stat.st_mtime_ns, stat.st_ino, stat.st_size)
