"""The steps of a verification, as they went."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from refresher.errors import (
    Failure,
    Forbidden,
    InvalidCredential,
    Layer,
    Misconfigured,
    NotFound,
    Unauthorized,
)

#: A step that ends with one of these was judged; with any other nobody knows.
_JUDGED = (Unauthorized, Forbidden, NotFound, InvalidCredential, Misconfigured)


@dataclass(slots=True)
class Step:
    """A step while it is taken; it holds unless somebody says otherwise."""

    ok: bool | None = True
    words: str = ""


class Steps:
    """The steps of one verification, in order."""

    def __init__(self) -> None:
        self._taken: list[Layer] = []

    @property
    def taken(self) -> tuple[Layer, ...]:
        return tuple(self._taken)

    def add(self, *layers: Layer) -> None:
        """Steps that somebody else took."""
        self._taken.extend(layers)

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Take a step. A `Failure` in the block ends it, and carries all steps so far.

        One that carries steps already took them within this one, and they stand for it.
        """
        step = Step()
        try:
            yield step
        except Failure as failure:
            ok = False if isinstance(failure, _JUDGED) else None
            self.add(*(failure.layers or (Layer(name, ok, failure.message),)))
            failure.layers = self.taken
            raise
        self.add(Layer(name, step.ok, step.words))
