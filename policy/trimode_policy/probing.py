"""When it is worth a few cycles to probe a point that is not running, and what that may cost.

Belongs here: the budget and the choice of what to probe. Whether to switch is decided in `choose`.

A probe's price is its regret: the seconds by which its cycles are expected to be slower, token for token, than those
of the running point. A rival that is about as good costs next to nothing to probe; a hopeless one is not probed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import log, sqrt

from trimode_api.modes import OperatingPoint
from trimode_policy.curves import Estimate

OPTIMISM_SIGMAS = 1.5
"""A point may win if it does so when it is better than predicted by this many standard deviations."""
NEW_OPTIMISM_SIGMAS = 2.0
"""The same for a point that was never measured at this batch: its first probe is short if it disappoints."""
PROBE_CYCLES = 4
"""Measured cycles of a probe at least, unless it turns out hopeless; the first counts for less (see `speed`)."""
HERE_CYCLES = 8
"""Measured cycles of the running point at this batch before a point with a smaller variance is compared with it."""
MAX_PROBE_CYCLES = 32
"""Cycles after which a probe ends, whatever it measured; it goes beyond `PROBE_CYCLES` only while it is open which
point is faster."""
BUDGET_SHARE = 0.01
"""Share of busy time that may be spent on regret."""
MAX_BUDGET_S = 0.6
"""Seconds of regret that can be saved up: a minute's worth, and what a fresh engine starts with."""
# A fresh engine spends it at once: it reaches 0.87 to 0.95 of the best in its first five seconds at batch 1
# (tests/policy/test_closed_loop.py).
REPEATS_SHARE = 0.5
"""Share of the budget that may go to comparing again what was compared within `REVISIT_S`: the rest is saved for points
that wait for a look."""
# Without it two points that are about equal, compared again and again where cycles take tenths of a second, kept the
# budget empty, and a third that was measured while the machine was many times slower stayed out of use for minutes.
REVISIT_S = 60.0
"""Seconds without a mode after which it is probed again, even if it seems hopeless: what was learned of it may be out
of date, and nothing else would ever show that."""
OWN_REVISIT_S = 240.0
"""The same for a point of the running mode: its yield is known from the others, only its speed may be out of date."""
# Within about a third: a mode's own 60 s are too long for a point that is nearly as good as the running one.
RIVAL, RIVAL_S = 0.35, 15.0
"""A point whose pace is within this (logarithm) of the running one's is compared side by side each so many seconds:
a few unlucky cycles must not hide a rival for long."""
GAP_S = 0.25
"""Seconds between two probes of points already measured at this batch."""
INCONCLUSIVE_PAUSE_S = 5.0
"""Seconds before another probe of any point after one that measured nothing."""
# Where every cycle carries prompts no probe measures anything; without this pause they would follow one another.


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe in progress: the point, its measured cycles at the start, and cycles asked for so far.

    `revisit`: a first cycle that disappoints does not end it, because it checks what was measured long ago. `repeat`:
    it compares again what was compared a short while ago.
    """

    point: OperatingPoint
    seen_before: int
    revisit: bool = False
    asked: int = 1
    repeat: bool = False

    def cycles(self, observed: int) -> int:
        """Cycles it took so far: measured ones, or as many as were asked for if prefill hid them."""
        return max(self.asked, observed - self.seen_before)

    def goes_on(self, here: Estimate, target: Estimate, observed: int, available: float, margin: float) -> bool:
        """Whether it takes another cycle, after `observed` measured ones of its point since the start.

        Always up to `PROBE_CYCLES` measured, unless they leave no hope; then only while it is open which point is
        faster, and the budget bears it.
        """
        cycles = observed - self.seen_before
        better, stddev = advantage(here, target)
        # A single cycle has to be clearer: the first after a change of point pays for cold caches.
        optimism = OPTIMISM_SIGMAS if cycles > 1 else 2 * OPTIMISM_SIGMAS
        hopeless = cycles >= (PROBE_CYCLES if self.revisit else 1) and better + optimism * stddev < 0
        if hopeless or self.cycles(observed) >= MAX_PROBE_CYCLES:
            return False
        if cycles < PROBE_CYCLES:
            return True
        # Beyond that only while it is the probed point that needs to be known better, not the running one.
        is_open = (
            better + OPTIMISM_SIGMAS * stddev > margin
            and better - OPTIMISM_SIGMAS * stddev < margin
            and target.variance >= here.variance
        )
        return is_open and (self.cycles(observed) + 1) * regret_seconds(here, target) <= available


@dataclass(frozen=True, slots=True)
class ProbeBudget:
    """Seconds of regret that may be spent, `repeats` of them on repeated comparisons; `at`: when that was counted;
    `probed_at`: end of the last probe; `inconclusive`: it measured nothing."""

    seconds: float = MAX_BUDGET_S
    at: float = 0.0
    probed_at: float = float("-inf")
    inconclusive: bool = False
    repeats: float = REPEATS_SHARE * MAX_BUDGET_S

    def available(self, now: float, repeat: bool = False) -> float:
        """What may be spent now, in all or on a repeated comparison; a clock that jumps fills it at most once."""
        earned = BUDGET_SHARE * max(0.0, now - self.at)
        seconds = min(MAX_BUDGET_S, self.seconds + earned)
        if not repeat:
            return seconds
        return min(seconds, REPEATS_SHARE * MAX_BUDGET_S, self.repeats + REPEATS_SHARE * earned)

    def affords(self, cost: float, now: float, repeat: bool = False) -> bool:
        """Whether a probe of this cost fits into what is available; a full budget may be overdrawn."""
        # Without the overdraft a machine whose cycles take seconds could never afford one probe.
        available = self.available(now, repeat)
        return cost <= available or available >= (REPEATS_SHARE if repeat else 1.0) * MAX_BUDGET_S

    def pause(self, now: float) -> ProbeBudget:
        """No busy time since `at`: nothing is earned for it."""
        return replace(self, at=now)

    def pay(self, cost: float, now: float, inconclusive: bool, repeat: bool = False) -> ProbeBudget:
        """After a probe that cost this much; the budget may go below zero and is then filled again first."""
        earned = REPEATS_SHARE * BUDGET_SHARE * max(0.0, now - self.at)
        repeats = min(REPEATS_SHARE * MAX_BUDGET_S, self.repeats + earned) - (cost if repeat else 0.0)
        return ProbeBudget(self.available(now) - cost, now, now, inconclusive, repeats)

    def in_cooldown(self, now: float, new: bool) -> bool:
        """Whether it is too soon for another probe; of a point that is `new` here only after an inconclusive one."""
        rest_s = INCONCLUSIVE_PAUSE_S if self.inconclusive else 0.0 if new else GAP_S
        return 0 <= now - self.probed_at < rest_s


def regret_seconds(here: Estimate, other: Estimate) -> float:
    """Seconds that one cycle of `other` is expected to lose against making the same tokens at `here`'s pace.

    The expectation of the loss's positive part: a rival that looks as good but may be worse costs something, one that
    looks far better costs next to nothing.
    """
    # A hyperbola in place of the normal distribution's tail: the same at both ends, and no erf for every point in
    # every cycle. 0.8 is the mean distance of a normal variable from its mean, in standard deviations.
    loss = other.seconds - other.tokens * here.pace
    spread = 0.8 * other.seconds * stddev_between(here, other)
    return 0.5 * (loss + sqrt(loss * loss + spread * spread))


def advantage(here: Estimate, other: Estimate) -> tuple[float, float]:
    """How much better `other`'s pace is, as a logarithm, and the standard deviation of that."""
    return log(here.pace / other.pace), stddev_between(here, other)


def stddev_between(one: Estimate, other: Estimate) -> float:
    """Standard deviation of the logarithm of the ratio of two paces."""
    return sqrt(one.variance + other.variance + abs(one.shared - other.shared))


def is_old(here: Estimate, other: Estimate) -> bool:
    """Whether a probe of `other` checks what was measured long ago."""
    return _due(here, other) or REVISIT_S <= other.idle_s < float("inf")


def is_repeat(other: Estimate) -> bool:
    """Whether a probe of `other` compares again what was compared a short while ago."""
    return other.seen > 0 and other.idle_s < REVISIT_S


def _due(here: Estimate, other: Estimate) -> bool:
    return RIVAL_S <= other.idle_s < float("inf") and log(here.pace / other.pace) > -RIVAL


def candidate(
    here: Estimate, known: Iterable[Estimate], margin: float, budget: ProbeBudget, now: float
) -> Estimate | None:
    """The point most worth a probe, or None: the one with the best pace if it is as much better as it may well be.

    The running point must have been measured at this batch first, else there is nothing to compare with. A close
    rival that was not run for `RIVAL_S` is probed in any case. Where nothing may win but a rival that was compared a
    short while ago, one that has been out of use for long goes first (`_turn`).
    """
    # The first cycle after a change of point pays for cold caches: against it alone every rival looks good.
    if here.seen < 2:
        return None
    best: Estimate | None = None
    best_better = margin
    known, young = list(known), here.seen < HERE_CYCLES
    in_cooldown, new_in_cooldown = budget.in_cooldown(now, new=False), budget.in_cooldown(now, new=True)
    for other in known:
        if other is here:
            continue
        if (in_cooldown if other.seen else new_in_cooldown) or (young and here.variance > other.variance):
            continue
        better, stddev = advantage(here, other)
        better += (OPTIMISM_SIGMAS if other.seen else NEW_OPTIMISM_SIGMAS) * stddev
        if (better > best_better or (best is None and _due(here, other))) and _affords(here, other, budget, now):
            best, best_better = other, max(better, margin)
    if (best is None or is_repeat(best)) and not in_cooldown:
        waiting = _turn(here, known)
        if waiting is not None and _affords(here, waiting, budget, now):
            return waiting
    return best


def _affords(here: Estimate, other: Estimate, budget: ProbeBudget, now: float) -> bool:
    return budget.affords(PROBE_CYCLES * regret_seconds(here, other), now, is_repeat(other))


def _turn(here: Estimate, known: Iterable[Estimate]) -> Estimate | None:
    """Whose turn it is for a look even if it seems hopeless: the best of the other modes, where that has not run for
    `REVISIT_S`, else the point of the running mode that has not for longest, from `OWN_REVISIT_S` on."""
    others = [other for other in known if other is not here]
    elsewhere = [other for other in others if other.point.mode is not here.point.mode]
    best = min(elsewhere, key=lambda other: other.pace, default=None)
    if best is not None and best.idle_s >= REVISIT_S:
        return best
    # One that never ran waits for the uncertainty of its prediction, which grows meanwhile.
    idle = [o for o in others if o.point.mode is here.point.mode and OWN_REVISIT_S <= o.idle_s < float("inf")]
    return max(idle, key=lambda other: other.idle_s, default=None)
