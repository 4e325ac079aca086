"""Where chance comes from.

Belongs here: the port that the standard library's `random.Random` fits, so that nothing here imports it.
"""

from __future__ import annotations

from typing import Protocol


class Randomness(Protocol):
    """A seeded source of numbers, as `random.Random`."""

    def random(self) -> float:
        """Uniform in [0, 1)."""
        ...

    def gauss(self, mu: float, sigma: float) -> float:
        """Normal."""
        ...

    def expovariate(self, lambd: float) -> float:
        """Exponential with rate `lambd`."""
        ...
