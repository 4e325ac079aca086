"""What the command line says when something is wrong.

    TrimodeError
    +-- CliError            a command cannot do what was asked; shown without a traceback
        +-- BadInput        the user's input is the cause: exit status 2
        +-- StartFailed     something that was started did not come up, or ended: exit status 1
        +-- Stopped         the user asked to stop while something was waited for; no failure

Belongs here: error values of the commands. Their text is written where they are raised.
"""

from __future__ import annotations

from trimode_api.errors import TrimodeError


class CliError(TrimodeError):
    """An error for a person: what is wrong, and (`hint`) what to do next."""

    status = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class BadInput(CliError):
    """The command line, a file it names, or the machine does not fit; nothing was started."""

    status = 2


class StartFailed(CliError):
    """A part did not come up, or ended while it was needed."""


class Stopped(CliError):
    """The user asked to stop while something was being waited for."""

    status = 0

    def __init__(self) -> None:
        super().__init__("stopped")
