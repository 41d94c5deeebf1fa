"""The images that a Dockerfile starts from."""

from __future__ import annotations

import re
from pathlib import Path

from refresher.discovery.walking import Unreadable, read

#: `FROM [--platform=…] IMAGE [AS NAME]` (Dockerfile reference).
_FROM = re.compile(r"^[ \t]*FROM[ \t]+(?:--\S+[ \t]+)*(\S+)", re.IGNORECASE | re.MULTILINE)


def images_of(text: str) -> tuple[str, ...]:
    """What its FROM lines name; those with a build argument in them are left out."""
    images = _FROM.findall(text.replace("\\\n", " "))
    return tuple(dict.fromkeys(image for image in images if "$" not in image))


def images_in(path: Path) -> tuple[str, ...]:
    """The same of a file, none where it cannot be read."""
    try:
        return images_of(read(path).decode("utf-8", "replace"))
    except (Unreadable, ValueError):
        return ()
