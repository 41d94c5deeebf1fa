"""README.md and docs/ as data: their blocks of code, their commands and their links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.peers import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"```(\w*)")
_COMMENT = re.compile(r"<!-- (.*) -->")


@dataclass(frozen=True)
class Block:
    """A block of code, and the comment that stands directly before it, if any."""

    page: Path
    #: Of its fence, from 1.
    line: int
    language: str
    comment: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def why_not(self) -> str | None:
        """Why no test can run it; None where one can."""
        kind, _, reason = self.comment.partition(": ")
        return reason if kind == "not run" else None

    @property
    def file(self) -> str | None:
        """The name of the file that it is."""
        kind, _, name = self.comment.partition(": ")
        return name if kind == "file" else None


def blocks(*languages: str) -> list[Block]:
    """The blocks of all pages in these languages."""
    return [block for page in PAGES for block in _blocks(page) if block.language in languages]


def _blocks(page: Path) -> Iterator[Block]:
    lines = page.read_text("utf-8").splitlines()
    begin: int | None = None
    for number, line in enumerate(lines):
        fence = _FENCE.fullmatch(line)
        if fence is None:
            continue
        if begin is None:
            begin, language = number, fence[1]
            before = _COMMENT.fullmatch(lines[number - 1])
            continue
        text = "".join(f"{each}\n" for each in lines[begin + 1 : number])
        yield Block(page, begin + 1, language, before[1] if before else "", text)
        begin = None
    assert begin is None, f"{page}: a block of code does not end"


def commands() -> Iterator[tuple[str, str]]:
    """Each `refresher …` of all pages, in prose and in blocks, with where it stands."""
    for page in PAGES:
        text = page.read_text("utf-8")
        for span in re.finditer(r"`(refresher [^`]+)`", text):
            line = text.count("\n", 0, span.start()) + 1
            yield f"{page.relative_to(ROOT)}:{line}", " ".join(span[1].split())
    for block in blocks("sh"):
        for command in block.text.splitlines():
            if command.startswith("refresher "):
                yield str(block), command
    for block in blocks("text"):  # what was typed, between what was shown
        for command in re.findall(r"^\$ (refresher .+)", block.text, re.MULTILINE):
            yield str(block), command


def links() -> Iterator[tuple[str, Path, str]]:
    """Each link to a file of ours: where it stands, where it leads, and the section."""
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
            if not target.startswith(("http:", "https:", "mailto:")):
                path, _, section = target.partition("#")
                leads_to = (page.parent / path).resolve() if path else page
                yield str(page.relative_to(ROOT)), leads_to, section


def sections(page: Path) -> set[str]:
    """The anchors that a page's headings get."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
