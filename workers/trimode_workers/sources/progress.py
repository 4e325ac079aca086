"""How far a download is.

Belongs here: the one callback between those who download and those who show it.
"""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""(file, bytes there, bytes in all) over everything that is downloaded; called for each piece that arrives."""


def silent(file: str, done: int, total: int) -> None:
    """Nobody looks."""
