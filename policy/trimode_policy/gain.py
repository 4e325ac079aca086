"""Tokens per request and cycle, learned.

Belongs here: how the tokens that cycles yield become predictions, also for points that are not running. The formula
is in `acceptance`: log-odds are `prior of the block length + level + shape of the point + mean over the batch's
workloads`; requests that name one (coding, chat) teach how much better or worse than others it is drafted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trimode_api.modes import Mode, OperatingPoint
from trimode_policy.acceptance import expected_tokens, log_odds_for, prior_tokens, tokens_slope
from trimode_policy.tracker import Drift, Shape, Tracker

# 0.6, tried first, trusted few samples of acceptance too much.
SPREAD = 0.85
"""Standard deviation over mean of one request's tokens in one cycle."""
DRIFT = Drift(level_start=1.0, shape_start=0.2, level_per_s=0.03, shape_per_s=0.01, reset=0.3, clip=6.0)
"""Of log-odds; near typical values one unit is half of the tokens. Yields are bounded, so little is clipped."""
TOKENS_PER_ODDS = 0.5
"""Change of log tokens per unit of log-odds, near typical values: converts the standard deviation of one into that
of the other."""
WORKLOADS, OTHER = 16, "other"
"""Workloads told apart; further ones share one name. Clients choose the names, so their number needs a bound."""
WORKLOAD_START, WORKLOAD_CYCLES, WORKLOAD_MOST = 30.0, 300.0, 3.0
"""Cycles of one request that a new workload's log-odds of 0 weigh, over which they are averaged later, and the largest
they can be."""
DIFFUSION_STEP = 0.02
"""EWMA step per cycle for diffusion, whose blocks are whole but for the last of an answer."""


@dataclass(slots=True)
class Yield:
    """What one operating point yields; `tokens` is the prediction (per request and cycle). `speculates`: as its mode
    does; asking the mode each time costs more than the prediction."""

    point: OperatingPoint
    speculates: bool
    prior_odds: float
    shape: Shape
    tokens: float
    odds: float


@dataclass(slots=True)
class Workload:
    """What a workload adds to a draft's log-odds, and from how many cycles of one request (faded) that is known."""

    odds: float = 0.0
    cycles: float = 0.0


class Gain:
    """Mutable and deterministic; holds no clock."""

    def __init__(self) -> None:
        self.tracker = Tracker(DRIFT)
        self._yields: list[Yield] = []
        self._offset = 0.0
        self._workloads: dict[str, Workload] = {}

    def mix(self, running: Mapping[str, int]) -> None:
        """The batch that predictions are for from now on: requests by workload, '' for those that name none."""
        count = sum(running.values())
        offsets = (self._workload(name).odds * number for name, number in running.items() if name)
        self._offset = sum(offsets) / count if count else 0.0

    def learn_workload(self, known: Yield, name: str, tokens: float, batch: int) -> None:
        """Fold in what `batch` requests of one workload gained on average in a cycle of speculation."""
        if not known.speculates or batch < 1:
            return
        workload, length = self._workload(name), known.point.block_length
        odds = known.prior_odds + known.shape.mean + self.tracker.level + workload.odds
        slope = max(tokens_slope(odds, length), 0.1)
        # The level, shared by all, is updated first and quickly; a workload's offset is what is left, and moves slowly.
        step = batch / (workload.cycles + batch + WORKLOAD_START)
        workload.cycles = min(workload.cycles + batch, WORKLOAD_CYCLES)
        moved = workload.odds + step * (min(max(tokens, 0.0), float(length)) - expected_tokens(odds, length)) / slope
        workload.odds = min(max(moved, -WORKLOAD_MOST), WORKLOAD_MOST)

    def workload_tokens(self, known: Yield, name: str) -> float:
        """Predicted tokens per request and cycle of one workload, of a point that speculates."""
        odds = known.prior_odds + known.shape.mean + self.tracker.level + self._workload(name).odds
        return expected_tokens(odds, known.point.block_length)

    @property
    def workloads(self) -> tuple[str, ...]:
        """Those that were named so far."""
        return tuple(self._workloads)

    def _workload(self, name: str) -> Workload:
        # The same bound as in the router's histograms, so that both tell the same workloads apart.
        if name not in self._workloads and len(self._workloads) >= WORKLOADS:
            name = OTHER
        return self._workloads.setdefault(name, Workload())

    def start(self, point: OperatingPoint) -> Yield:
        """A point before anything was measured."""
        prior = prior_tokens(point)
        speculates = point.mode.speculates
        odds = log_odds_for(prior, point.block_length) if speculates else 0.0
        known = Yield(point, speculates, odds, self.tracker.start(0.0, DRIFT.shape_start**2, 0.0), prior, odds)
        if speculates:
            self._yields.append(known)
        return known

    def learn(self, known: Yield, tokens: float, batch: int, now: float) -> None:
        """Fold in a cycle in which each of `batch` requests gained `tokens` on average."""
        length = known.point.block_length
        gained = min(max(tokens, 0.0), float(length))
        if known.point.mode is Mode.DIFFUSION:
            # Never towards 0, by which a pace is divided: the last block of an answer may yield next to nothing.
            known.tokens += DIFFUSION_STEP * (max(gained, 0.5) - known.tokens)
        elif known.speculates:
            expected = self.tokens(known)
            slope = max(tokens_slope(known.odds, length), 0.02)
            self.tracker.update(known.shape, gained - expected, slope, (SPREAD * expected) ** 2 / batch, now)
            self._keep_order(known)

    def _keep_order(self, measured: Yield) -> None:
        """Move yields that are known less well than `measured` and contradict it, by one Newton step."""
        # A longer block begins with the shorter one's tokens, so it never yields fewer. Without this a point that was
        # last measured on other traffic stayed above or below all others until its next probe.
        tokens, point = self.tokens(measured), measured.point
        for other in self._yields:
            if other is measured or other.shape.variance <= measured.shape.variance:
                continue
            # A block drafted in steps (`S16@0.9`) or by a quadratic forward accepts other tokens than one drafted at
            # once: a shorter one may well yield more.
            if other.point.mode is not point.mode or other.point.threshold != point.threshold:
                continue
            gap = tokens - self.tokens(other)
            if gap * (other.point.block_length - point.block_length) > 0:
                slope = max(tokens_slope(other.odds, other.point.block_length), 0.5)
                other.shape.mean += gap / slope

    def tokens(self, known: Yield) -> float:
        """Predicted tokens per request and cycle; remembered until the log-odds move."""
        if known.speculates:
            odds = known.prior_odds + known.shape.mean + self.tracker.level + self._offset
            if odds != known.odds:
                known.odds, known.tokens = odds, expected_tokens(odds, known.point.block_length)
        return known.tokens

    def variance(self, known: Yield, now: float | None) -> float:
        """Variance of log tokens as of `now` (None: as of the last measurement), without what all lengths share."""
        if not known.speculates:
            return 0.0
        odds = known.shape.variance if now is None else self.tracker.variance(known.shape, now)
        return TOKENS_PER_ODDS**2 * odds

    def shared_variance(self, now: float | None) -> float:
        """The part of that variance that all speculating points share, and AR does not have."""
        # Kept apart, because it cancels where two speculating points are compared: only AR against one of them is
        # less certain for it.
        odds = self.tracker.level_variance if now is None else self.tracker.level_variance_at(now)
        return TOKENS_PER_ODDS**2 * min(odds, DRIFT.most**2)
