"""Shows start-up: a live list on a terminal, elsewhere a line for each change."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text


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
        """The steps that are at work have failed."""
        for step in tuple(self.steps.values()):
            if step.state is StepState.WORKING:
                self._set(step.name, StepState.FAILED, step.detail, step.seconds)

    def _set(self, name: str, state: StepState, detail: str, seconds: float) -> None:
        before = self.steps[name]
        self.steps[name] = after = Step(name, state, detail, seconds)
        if replace(after, seconds=before.seconds) != before:
            self._changed(after)


_MARKS = {
    StepState.WAITING: ("·", "dim"),
    StepState.WORKING: ("…", "cyan"),
    StepState.DONE: ("✓", "green"),
    StepState.FAILED: ("✗", "red"),
}


@contextmanager
def shown(names: tuple[str, ...], console: Console) -> Iterator[Checklist]:
    """A checklist that is shown while the context lasts."""
    if not console.is_terminal:
        yield Checklist(names, time.monotonic, lambda step: console.print(as_line(step), soft_wrap=True))
        return
    view = _View()
    view.checklist = Checklist(names, time.monotonic, lambda step: None)
    with Live(view, console=console, refresh_per_second=10, transient=False):
        yield view.checklist


def as_line(step: Step) -> Text:
    """`✓ Ray (4.1 s)`."""
    mark, style = _MARKS[step.state]
    line = Text.assemble((mark, style), " ", step.name)
    if step.detail:
        line.append(f": {step.detail}")
    if step.state is StepState.DONE:
        line.append(f"  {step.seconds:.1f} s", style="dim")
    return line


class _View:
    """The list as it is each time that rich draws it."""

    checklist: Checklist

    def __init__(self) -> None:
        self._spinner = Spinner("dots", style="cyan")

    def __rich__(self) -> Table:
        table = Table.grid(padding=(0, 1))
        for step in self.checklist.steps.values():
            mark, style = _MARKS[step.state]
            sign = self._spinner if step.state is StepState.WORKING else Text(mark, style=style)
            seconds = f"{step.seconds:.1f} s" if step.state is StepState.DONE else ""
            name = Text(step.name, style="dim" if step.state is StepState.WAITING else "")
            table.add_row(sign, name, Text(step.detail, style="dim", overflow="ellipsis"), Text(seconds, style="dim"))
        return table
