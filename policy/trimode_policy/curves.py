"""Predicted seconds and tokens per cycle of each operating point, corrected by what is measured.

Belongs here: turning one cycle's measurement into knowledge, and knowledge into a prediction with its doubt.
Which point to run is decided in `choose`.

Seconds are `roofline prior x exp(level + shape of (point, batch bucket))`; a bucket that was never measured takes
its nearest measured neighbour's shape. Tokens per cycle follow `acceptance` with log-odds
`prior + level + shape of the point`. Level and shape: see `tracker`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, isfinite, log, log2
from typing import NamedTuple

from trimode_api.modes import Mode, OperatingPoint

from .acceptance import expected_tokens, log_odds_for, prior_tokens, tokens_slope
from .roofline import Roofline
from .tracker import Drift, Shape, Tracker

BUCKETS = 16
"""Batch buckets: the powers of two from 1 to 32,768; a batch belongs to the nearest in logarithm."""
BUCKET_DOUBT = 0.12
"""Standard deviation (log seconds) added per bucket between a prediction and the measurement it leans on."""
TOKENS_SPREAD = 0.6
"""Standard deviation over mean of one request's tokens in one cycle."""
SECONDS_DRIFT = Drift(level_start=1.0, shape_start=0.7, level_per_s=0.1, shape_per_s=0.01, reset=0.2)
"""Of log seconds: a machine's speed wanders by 10 % in a second, one point against another 8 % in a minute."""
TOKENS_DRIFT = Drift(level_start=1.0, shape_start=0.25, level_per_s=0.05, shape_per_s=0.01, reset=0.3)
"""Of log-odds; near typical values one unit is half of the tokens."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One cycle as it was run.

    `batch`: decoding requests. `context_tokens`: cached tokens per request, mean. `prefill_tokens`: prompt tokens
    that shared the cycle (such cycles teach acceptance, not seconds). `seconds`: wall clock of the cycle.
    `tokens`: emitted by the whole batch in this cycle, by decoding only.
    """

    point: OperatingPoint
    batch: int
    context_tokens: float
    prefill_tokens: int
    seconds: float
    tokens: int


class Estimate(NamedTuple):
    """A point's prediction at one batch: `seconds` and `tokens` (per request) of a cycle, and their doubt.

    `variance`: of the logarithm of seconds per token, without what all points share. `seen`: cycles measured in
    this very bucket.
    """

    point: OperatingPoint
    seconds: float
    tokens: float
    variance: float
    seen: int

    @property
    def seconds_per_token(self) -> float:
        """Predicted seconds between a request's tokens."""
        return self.seconds / self.tokens


@dataclass(slots=True)
class _Point:
    """What one operating point has been seen to do."""

    point: OperatingPoint
    prior_log_odds: float
    buckets: list[Shape | None]
    tokens: Shape
    mean_tokens: float
    cycles: int = 0
    ran_at: float | None = None


class Curves:
    """Mutable and deterministic; holds no clock. Points not announced are learned when first observed."""

    def __init__(self, points: Iterable[OperatingPoint], prior: Roofline | None) -> None:
        """Without a prior a point can be predicted only after it has run."""
        self.prior = prior
        self._seconds = Tracker(SECONDS_DRIFT)
        self._tokens = Tracker(TOKENS_DRIFT)
        self._noise = 0.1**2
        self._last: OperatingPoint | None = None
        self._points: dict[OperatingPoint, _Point] = {}
        for point in points:
            self._known(point)

    def observe(self, o: Observation, now: float) -> None:
        """Learn from one cycle. A cycle without requests, or without a positive duration, teaches nothing."""
        if o.batch < 1 or not (isfinite(o.seconds) and o.seconds > 0):
            return
        known = self._known(o.point)
        warm, self._last = self._last == o.point, o.point
        known.ran_at = now
        self._learn_tokens(known, o, now)
        if o.prefill_tokens == 0:
            known.cycles += 1
            self._learn_seconds(known, o, warm, now)

    def cycle_seconds(self, point: OperatingPoint, batch: int, context_tokens: float) -> float | None:
        """Predicted seconds of one cycle, or None where nothing allows a prediction."""
        prediction = self.estimate(point, batch, context_tokens, None)
        return None if prediction is None else prediction.seconds

    def tokens_per_cycle(self, point: OperatingPoint) -> float:
        """Predicted tokens per request and cycle."""
        return self._tokens_of(self._known(point))

    def tokens_per_second(self, point: OperatingPoint, batch: int, context_tokens: float) -> float | None:
        """Predicted tokens per second of the whole batch, or None where nothing allows a prediction."""
        prediction = self.estimate(point, batch, context_tokens, None)
        return None if prediction is None else batch * prediction.tokens / prediction.seconds

    def observed_cycles(self, point: OperatingPoint) -> int:
        """Cycles of `point` whose duration was learned from (prefill shared none of them)."""
        known = self._points.get(point)
        return 0 if known is None else known.cycles

    def idle_seconds(self, point: OperatingPoint, now: float) -> float:
        """Seconds since `point` last ran, infinite if it never did."""
        known = self._points.get(point)
        return float("inf") if known is None or known.ran_at is None else max(0.0, now - known.ran_at)

    @property
    def alarms(self) -> int:
        """How often a sustained shift of speed or acceptance reset the trust in what was learned."""
        return self._seconds.alarms + self._tokens.alarms

    def estimates(
        self, points: Sequence[OperatingPoint], batch: int, context_tokens: float, now: float | None
    ) -> list[Estimate]:
        """Predictions of those `points` that can be predicted, in the order given."""
        found = (self.estimate(point, batch, context_tokens, now) for point in points)
        return [estimate for estimate in found if estimate is not None]

    def estimate(self, point: OperatingPoint, batch: int, context_tokens: float, now: float | None) -> Estimate | None:
        """Prediction of one point with its doubt as of `now` (None: as of its last measurement)."""
        known = self._points.get(point) or self._known(point)
        base = self._base(point, batch, context_tokens)
        bucket = bucket_of(batch)
        shape, distance = _nearest(known.buckets, bucket)
        if shape is None:
            if self.prior is None:
                return None
            mean, variance, seen = 0.0, SECONDS_DRIFT.shape_start**2, 0
        else:
            mean, seen = shape.mean, 0 if distance else shape.seen
            variance = shape.variance if now is None else self._seconds.variance(shape, now)
            variance += (BUCKET_DOUBT * distance) ** 2
        if point.mode is not Mode.AR:
            doubt = known.tokens.variance if now is None else self._tokens.variance(known.tokens, now)
            variance += 0.25 * doubt
        return Estimate(point, base * exp(mean + self._seconds.level), self._tokens_of(known), variance, seen)

    def _known(self, point: OperatingPoint) -> _Point:
        known = self._points.get(point)
        if known is None:
            odds = 0.0 if point.mode is Mode.AR else log_odds_for(prior_tokens(point), point.block_length)
            shape = self._tokens.start(point, 0.0, TOKENS_DRIFT.shape_start**2, 0.0)
            known = _Point(point, odds, [None] * BUCKETS, shape, prior_tokens(point))
            self._points[point] = known
        return known

    def _base(self, point: OperatingPoint, batch: int, context_tokens: float) -> float:
        return 1.0 if self.prior is None else self.prior.seconds(point, batch, context_tokens)

    def _learn_seconds(self, known: _Point, o: Observation, warm: bool, now: float) -> None:
        bucket = bucket_of(o.batch)
        shape = known.buckets[bucket]
        if shape is None:
            near, distance = _nearest(known.buckets, bucket)
            mean, variance = (0.0, SECONDS_DRIFT.shape_start**2) if near is None else (
                near.mean, self._seconds.variance(near, now) + (BUCKET_DOUBT * distance) ** 2)  # fmt: skip
            shape = known.buckets[bucket] = self._seconds.start((known.point, bucket), mean, variance, now)
        measured = log(o.seconds / self._base(o.point, o.batch, o.context_tokens))
        if self._seconds.untouched:
            self._seconds.level = measured  # a prior may be wrong by any factor that all points share
        surprise = measured - shape.mean - self._seconds.level
        # The first cycle after a change of point pays for cold caches: it counts for less.
        noise = self._noise if warm else 4 * self._noise
        settled = shape.variance + self._seconds.level_variance < self._noise
        score = self._seconds.update(shape, surprise, 1.0, noise, now)
        if settled and warm:
            bounded = surprise * min(1.0, 2.5 / max(abs(score), 1e-9))
            self._noise = min(max(0.98 * self._noise + 0.02 * bounded**2, 0.02**2), 0.4**2)

    def _learn_tokens(self, known: _Point, o: Observation, now: float) -> None:
        length = o.point.block_length
        gained = min(max(o.tokens / o.batch, 0.0), float(length))
        if o.point.mode is Mode.DIFFUSION:
            known.mean_tokens += 0.02 * (max(gained, 0.5) - known.mean_tokens)
        elif o.point.mode is Mode.SELF_SPECULATION:
            odds = known.prior_log_odds + known.tokens.mean + self._tokens.level
            expected, slope = expected_tokens(odds, length), tokens_slope(odds, length)
            noise = (TOKENS_SPREAD * expected) ** 2 / o.batch
            self._tokens.update(known.tokens, gained - expected, max(slope, 0.02), noise, now)

    def _tokens_of(self, known: _Point) -> float:
        if known.point.mode is not Mode.SELF_SPECULATION:
            return known.mean_tokens
        odds = known.prior_log_odds + known.tokens.mean + self._tokens.level
        return expected_tokens(odds, known.point.block_length)


def bucket_of(batch: int) -> int:
    """Index of the power of two nearest to `batch` in logarithm."""
    return min(BUCKETS - 1, int(log2(batch) + 0.5)) if batch > 1 else 0


def _nearest(buckets: Sequence[Shape | None], bucket: int) -> tuple[Shape | None, int]:
    """The measured bucket nearest to `bucket` (the larger batch wins a tie) and how far it is."""
    for distance in range(BUCKETS):
        above, below = bucket + distance, bucket - distance
        if above < BUCKETS and buckets[above] is not None:
            return buckets[above], distance
        if below >= 0 and buckets[below] is not None:
            return buckets[below], distance
    return None, 0
