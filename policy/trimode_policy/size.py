"""How many replicas a pool should have, from how full they are.

Belongs here: what Ray Serve's autoscaler is answered. That it goes up soon and down late is Serve's own business
(`upscale_delay_s`, `downscale_delay_s`, which it applies to whatever a policy wants): two such delays would add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

TARGET_FULLNESS = 0.7
"""Share of its room that a replica is to use: below 1, because a new one takes a while to come."""


@dataclass(frozen=True, slots=True)
class PoolLoad:
    """`fullness`: share of its room in use, of each replica that reports. `running`, `ordered`: replicas there are, and
    those there are to be, pending ones included. `lowest`, `highest`: bounds. `wanted`: a request waits for a replica
    of a pool that has none."""

    fullness: Sequence[float]
    running: int
    ordered: int
    lowest: int
    highest: int
    wanted: bool = False


def size_pool(load: PoolLoad) -> int:
    """Replicas that bring the present load to the target, within the bounds.

    Those that run and do not report are taken to be like the others; those on their way carry nothing yet, so they are
    ordered once and not again. Without figures what was ordered stays.
    """
    if not load.fullness:
        return _bounded(load.ordered, load)
    whole = sum(load.fullness) / len(load.fullness) * max(load.running, len(load.fullness))
    # Rounded first: 0.7 / 0.7 must not become two replicas by a rounding error.
    return _bounded(ceil(round(whole / TARGET_FULLNESS, 6)), load)


def _bounded(wanted: int, load: PoolLoad) -> int:
    return max(load.lowest, int(load.wanted), min(wanted, load.highest))
