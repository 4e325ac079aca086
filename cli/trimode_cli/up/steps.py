"""What start-up waits for: a list of steps, each with a state and a word on how far it is.

Belongs here: the values, and how a list of them reads. Who shows them is `progress`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum


class StepState(StrEnum):
    """How far a step is."""

    WAITING = "waiting"
    WORKING = "working"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that start-up does. `seconds`: how long it took, once done."""

    name: str
    state: StepState = StepState.WAITING
    detail: str = ""
    seconds: float = 0.0


class Checklist:
    """The steps of one start-up, in order. Tells `changed` of each step whose state or detail is new."""

    def __init__(self, names: tuple[str, ...], clock: Callable[[], float], changed: Callable[[Step], None]) -> None:
        self.steps = {name: Step(name) for name in names}
        self._clock = clock
        self._changed = changed
        self._began: dict[str, float] = {}

    def working(self, name: str, detail: str = "") -> None:
        """Begin a step, or say more of one that has begun."""
        began = self._began.setdefault(name, self._clock())
        self._set(name, StepState.WORKING, detail, self._clock() - began)

    def done(self, name: str, detail: str = "") -> None:
        self._set(name, StepState.DONE, detail, self._clock() - self._began.setdefault(name, self._clock()))

    def failed(self) -> None:
        """Whatever works now has failed."""
        for step in tuple(self.steps.values()):
            if step.state is StepState.WORKING:
                self._set(step.name, StepState.FAILED, step.detail, step.seconds)

    def _set(self, name: str, state: StepState, detail: str, seconds: float) -> None:
        before = self.steps[name]
        self.steps[name] = after = Step(name, state, detail, seconds)
        if replace(after, seconds=before.seconds) != before:
            self._changed(after)
