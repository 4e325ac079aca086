"""Shows start-up: a live list on a terminal, a line for each news elsewhere.

Belongs here: rendering of steps.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from trimode_cli.up.steps import Checklist, Step, StepState

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
        yield Checklist(names, time.monotonic, lambda step: _say(step, console))
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


def _say(step: Step, console: Console) -> None:
    console.print(as_line(step), soft_wrap=True)


class _View:
    """The list as it is whenever rich asks."""

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
