"""Tokens per request and cycle, learned.

Belongs here: how the tokens that cycles yield become predictions, also for points that are not running. The formula
is in `acceptance`: log-odds are `prior of the block length + level + shape of the point`.
"""

from __future__ import annotations

from dataclasses import dataclass

from trimode_api.modes import Mode, OperatingPoint

from .acceptance import expected_tokens, log_odds_for, prior_tokens, tokens_slope
from .tracker import Drift, Shape, Tracker

SPREAD = 0.85
"""Standard deviation over mean of one request's tokens in one cycle."""
DRIFT = Drift(level_start=1.0, shape_start=0.2, level_per_s=0.03, shape_per_s=0.01, reset=0.3, clip=6.0)
"""Of log-odds; near typical values one unit is half of the tokens. Yields are bounded, so little is clipped."""
TOKENS_PER_ODDS = 0.5
"""Change of log tokens per unit of log-odds, near typical values: turns doubt of one into doubt of the other."""
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


class Gain:
    """Mutable and deterministic; holds no clock."""

    def __init__(self) -> None:
        self.tracker = Tracker(DRIFT)
        self._yields: list[Yield] = []

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
            known.tokens += DIFFUSION_STEP * (max(gained, 0.5) - known.tokens)
        elif known.speculates:
            expected = self.tokens(known)
            slope = max(tokens_slope(known.odds, length), 0.02)
            self.tracker.update(known.shape, gained - expected, slope, (SPREAD * expected) ** 2 / batch, now)
            self._keep_order(known)

    def _keep_order(self, sure: Yield) -> None:
        """A longer block begins with the shorter one's tokens, so it yields no fewer: what is known less well than
        `sure` and contradicts it gives way (one Newton step). Points that draft otherwise say nothing of it."""
        tokens, length = self.tokens(sure), sure.point.block_length
        for other in self._yields:
            if other is sure or other.shape.variance <= sure.shape.variance or not _alike(other.point, sure.point):
                continue
            gap = tokens - self.tokens(other)
            if gap * (other.point.block_length - length) > 0:
                slope = max(tokens_slope(other.odds, other.point.block_length), 0.5)
                other.shape.mean += gap / slope

    def tokens(self, known: Yield) -> float:
        """Predicted tokens per request and cycle; remembered until the log-odds move."""
        if known.speculates:
            odds = known.prior_odds + known.shape.mean + self.tracker.level
            if odds != known.odds:
                known.odds, known.tokens = odds, expected_tokens(odds, known.point.block_length)
        return known.tokens

    def variance(self, known: Yield, now: float | None) -> float:
        """Doubt of log tokens as of `now` (None: as of the last measurement), without what all lengths share."""
        if not known.speculates:
            return 0.0
        odds = known.shape.variance if now is None else self.tracker.variance(known.shape, now)
        return TOKENS_PER_ODDS**2 * odds

    def shared_variance(self, now: float | None) -> float:
        """The part of the doubt that all speculating points share, and AR does not have."""
        odds = self.tracker.level_variance if now is None else self.tracker.level_variance_at(now)
        return TOKENS_PER_ODDS**2 * min(odds, DRIFT.most**2)


def _alike(one: OperatingPoint, other: OperatingPoint) -> bool:
    """Whether the two draft in the same way, but for the block's length."""
    return one.mode is other.mode and one.threshold == other.threshold
