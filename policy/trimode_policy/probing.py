"""When it is worth a few cycles to look at a point that is not running, and what that may cost.

Belongs here: the budget and the choice of what to look at. Whether to switch is decided in `choose`.

A probe's price is its regret: the seconds by which its cycles are expected to be slower, token for token, than those
of the running point. A rival that is about as good costs nothing to look at; a hopeless one is never looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import exp, log, sqrt

from trimode_api.modes import OperatingPoint

from .curves import Estimate

HOPE = 1.5
"""A point may win if it does so when its doubt is resolved in its favour by this many standard deviations."""
PROBE_CYCLES = 4
"""Measured cycles of one probe; the first counts for less (see `curves`)."""
PROBE_ASKED = 10
"""Cycles after which a probe ends although prefills kept it from measuring."""
SHARE = 0.01
"""Share of busy time that may be spent on regret."""
FULL_S = 0.6
"""Seconds of regret that can be saved up: a minute's worth, and what a fresh engine starts with."""
GAP_S = 0.5
"""Seconds between two probes of points already measured at this batch."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe in progress: the point, its measured cycles at the start, whether it is new here, cycles asked for."""

    point: OperatingPoint
    seen_before: int
    new: bool
    asked: int

    def over(self, observed: int) -> bool:
        """Whether enough cycles were measured, or too many asked for in vain."""
        return observed - self.seen_before >= PROBE_CYCLES or self.asked >= PROBE_ASKED - 1


@dataclass(frozen=True, slots=True)
class Purse:
    """Seconds of regret that may be spent; `at`: last time it was filled; `probed_at`: end of the last probe."""

    seconds: float = FULL_S
    at: float = 0.0
    probed_at: float = float("-inf")

    def earn(self, now: float, busy: bool) -> Purse:
        """Filled by a share of the busy time since the last call; a clock that jumps fills it at most once."""
        gained = SHARE * max(0.0, now - self.at) if busy else 0.0
        return replace(self, seconds=min(FULL_S, self.seconds + gained), at=now)

    def pay(self, cost: float, now: float) -> Purse:
        """After a probe that cost this much; the purse may go below zero and is then filled again first."""
        return replace(self, seconds=self.seconds - cost, probed_at=now)


def regret_seconds(here: Estimate, other: Estimate) -> float:
    """Seconds lost by one cycle of `other` against making the same tokens at `here`'s pace; never negative."""
    return max(0.0, other.seconds - other.tokens * here.seconds / here.tokens)


def affordable(purse: Purse, cost: float) -> bool:
    """A full purse may be overdrawn, so that on a slow machine too every point finds its way back."""
    return cost <= purse.seconds or purse.seconds >= FULL_S


def may_win(here: Estimate, other: Estimate, margin: float) -> bool:
    """Whether `other` would beat `here` by more than the margin if all doubt went its way."""
    doubt = sqrt(here.variance + other.variance)
    return log(here.seconds * other.tokens / (here.tokens * other.seconds)) + HOPE * doubt > margin


def hopeless(here: Estimate, other: Estimate, probe: Probe, observed: int) -> bool:
    """Whether a probe under way can stop early: two cycles seen and no chance left."""
    return observed - probe.seen_before >= 2 and not may_win(here, other, 0.0)


def candidate(
    here: Estimate, known: Iterable[Estimate], margin: float, batch: int, purse: Purse, now: float
) -> Estimate | None:
    """The point most worth a look, or None: the one with the best pace if its doubt went its way.

    The running point must have been measured at this batch first, else there is nothing to compare with.
    """
    if here.seen < 2:
        return None
    settled = now - purse.probed_at >= GAP_S or now < purse.probed_at
    best: Estimate | None = None
    best_pace = 0.0
    for other in known:
        if other.point == here.point or not (settled or other.seen == 0) or not may_win(here, other, margin):
            continue
        pace = other.tokens / other.seconds * exp(HOPE * sqrt(other.variance))
        if pace > best_pace and affordable(purse, PROBE_CYCLES * regret_seconds(here, other)):
            best, best_pace = other, pace
    return best
