"""What a person may ask of the targets: refresh now, pause, resume."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from refresher import record
from refresher.clock import Clock
from refresher.model import Actor, Status, Store, Target, Trigger


@dataclass(frozen=True, slots=True)
class Control:
    """Wishes go into the store, where the next tick finds them; nothing is run from here."""

    store: Store
    #: The targets of the present configuration, by name.
    targets: Callable[[], Mapping[str, Target]]
    clock: Clock

    def refresh(
        self, names: list[str], actor: Actor, *, retry_refused: bool = False
    ) -> dict[str, str]:
        """Ask for one refresh of each target, as one trigger; the attempt's id by target.

        A target whose last wish still waits answers with that attempt's id.
        """
        now, targets = self.clock.now(), self.targets()
        answers: dict[str, str] = {}

        def wish(target: Target, status: Status | None) -> Status:
            trigger = Trigger(uuid.uuid4().hex, now, actor, retry_refused=retry_refused)
            wished = record.forced(status or record.adopted(target, None, now), trigger)
            answers[target.name] = (wished.trigger or trigger).id
            return wished

        self.store.update_many({name: partial(wish, targets[name]) for name in names})
        return answers

    def pause(self, name: str) -> Status:
        """Stop keeping a target until `resume`; what stands in fal is left alone."""
        return self._change(name, lambda status: replace(status, paused=True))

    def resume(self, name: str) -> Status:
        """Keep it again, with a look at once."""
        now = self.clock.now()
        return self._change(name, lambda status: replace(status, paused=False, next_attempt_at=now))

    def _change(self, name: str, change: Callable[[Status], Status]) -> Status:
        target, now = self.targets()[name], self.clock.now()
        return self.store.update(
            name, lambda status: change(status or record.adopted(target, None, now))
        )
