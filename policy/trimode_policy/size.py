"""How many replicas a pool should have, from how full they are.

Belongs here: the decision behind Ray Serve's autoscaler, quick up and slow down. Serve's own types are in its adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True, slots=True)
class Sizing:
    """`target`: share of its room that a replica is to use; below 1, because a new one takes a while to come.
    `calm_s`: seconds of lower need before a replica goes."""

    target: float = 0.7
    calm_s: float = 300.0

    def __post_init__(self) -> None:
        """Raises ValueError for a target outside (0, 1] or a negative time."""
        if not 0 < self.target <= 1:
            raise ValueError(f"sizing: target is {self.target}, must be above 0 and at most 1")
        if not 0 <= self.calm_s < float("inf"):
            raise ValueError(f"sizing: calm_s is {self.calm_s}, must be a finite number of at least 0")


@dataclass(frozen=True, slots=True)
class PoolLoad:
    """`fullness`: share of its room in use, of each replica that reports. `running`, `target`: replicas there are, and
    those ordered, pending ones included. `lowest`, `highest`: bounds."""

    fullness: Sequence[float]
    running: int
    target: int
    lowest: int
    highest: int


@dataclass(frozen=True, slots=True)
class Calm:
    """State between two decisions: since when fewer replicas than ordered were needed, and the most needed since."""

    since: float
    most: int


def size_pool(load: PoolLoad, calm: Calm | None, sizing: Sizing, now: float) -> tuple[int, Calm | None]:
    """Replicas to have, and the state to pass next time.

    Up at once to what the load needs; replicas still on their way count as ordered. Down to the most that was needed
    within `calm_s`, once that long nothing needed what is ordered. Without figures what was ordered stays. A clock
    that jumps back starts the wait anew.
    """
    need = _needed(load, sizing)
    if need is None:
        return _bounded(load.target, load), calm
    if need >= load.target:
        return _bounded(need, load), None
    if calm is None or now < calm.since:
        calm = Calm(now, need)
    calm = Calm(calm.since, max(calm.most, need))
    if now - calm.since < sizing.calm_s:
        return _bounded(load.target, load), calm
    return _bounded(calm.most, load), None


def _needed(load: PoolLoad, sizing: Sizing) -> int | None:
    """Replicas that bring the present load to the target; those that do not report are taken to be like the others."""
    if not load.fullness:
        return None
    mean = sum(load.fullness) / len(load.fullness)
    # Rounded first: 0.7 / 0.7 must not become two replicas by a rounding error.
    return ceil(round(mean * max(load.running, len(load.fullness)) / sizing.target, 6))


def _bounded(wanted: int, load: PoolLoad) -> int:
    return max(load.lowest, min(wanted, load.highest))
