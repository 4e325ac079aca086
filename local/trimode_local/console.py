"""Where the commands write: results to stdout, everything else to stderr.

Belongs here: the two consoles and the one way to show an error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from trimode_api.errors import InvalidInput, TrimodeError
from trimode_local.errors import CliError


@dataclass(frozen=True, slots=True)
class Terminal:
    """Consoles on the real stdout and stderr."""

    out: Console
    err: Console


out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def show_error(error: TrimodeError, console: Console = err) -> int:
    """Print the error and its hint; returns the exit status."""
    line = Text.assemble(("error: ", "bold red"), str(error))
    console.print(line, soft_wrap=True)
    if isinstance(error, CliError):
        if error.hint:
            console.print(Text(error.hint, style="dim"), soft_wrap=True)
        return error.status
    return 2 if isinstance(error, InvalidInput) else 1


@contextmanager
def own_terminal(log: Path) -> Iterator[Terminal]:
    """The terminal for us alone: whatever else writes to stdout or stderr (Ray, native code) goes to `log`."""
    with ExitStack() as closing, log.open("wb") as file:
        yield Terminal(*(closing.enter_context(_kept(number, file.fileno())) for number in (1, 2)))


@contextmanager
def _kept(number: int, instead: int) -> Iterator[Console]:
    """A console on what file descriptor `number` is; that number itself leads to `instead` meanwhile."""
    (sys.stdout if number == 1 else sys.stderr).flush()
    kept = os.dup(number)
    os.dup2(instead, number)
    try:
        with os.fdopen(os.dup(kept), "w", buffering=1, encoding="utf-8", errors="replace") as stream:
            yield Console(file=stream, highlight=False)
    finally:
        (sys.stdout if number == 1 else sys.stderr).flush()
        os.dup2(kept, number)
        os.close(kept)
