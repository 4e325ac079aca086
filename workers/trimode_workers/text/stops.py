"""Stop strings in a text that arrives in pieces.

Belongs here: finding them across the borders of pieces. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scanned:
    """`text` may be shown; `stopped` where a stop string has been found right behind it."""

    text: str
    stopped: bool


class StopScanner:
    """Holds back what may turn out to be the beginning of a stop string.

    The stop string that ends first counts, of several that end together the longest: so the result does not depend
    on how the text was cut into pieces. The stop string itself is never shown.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""

    def feed(self, text: str) -> Scanned:
        buffer = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := buffer.find(stop)) >= 0]
        if found:
            self._held = ""
            return Scanned(buffer[: min(found)[1]], True)
        keep = self._possible_start(buffer)
        self._held = buffer[len(buffer) - keep :]
        return Scanned(buffer[: len(buffer) - keep], False)

    def flush(self) -> str:
        """What was held back, when the text ends without a stop string."""
        held, self._held = self._held, ""
        return held

    def _possible_start(self, buffer: str) -> int:
        """Length of the longest end of `buffer` that begins a stop string."""
        for size in range(min(len(buffer), self._longest - 1), 0, -1):
            end = buffer[len(buffer) - size :]
            if any(stop.startswith(end) for stop in self._stops):
                return size
        return 0
