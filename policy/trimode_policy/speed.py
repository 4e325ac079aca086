"""Seconds per cycle, learned: `prior x exp(level + shape of the cell)`.

Belongs here: how measured durations become predictions. A cell is an operating point at one power of two of the
batch. A cell that was never measured leans on those that were, weighted by how alike their forwards are: the time
of a forward is mostly a function of the tokens in it (`batch x width`), whatever the mode.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import log2

from trimode_api.modes import OperatingPoint
from trimode_policy.tracker import Drift, Shape, Tracker

BUCKETS = 16
"""Batch buckets: the powers of two from 1 to 32,768; a batch belongs to the nearest in logarithm."""
OCTAVE_SIGMA = 0.3
"""Standard deviation (log seconds) per factor of two in tokens between a cell and the one it leans on."""
OTHER_POINT = 0.5
"""Distance, in factors of two, between the same number of tokens in two operating points."""
GUESS_CYCLES = 16
"""A guess for an unmeasured cell is renewed after this many measurements: it reads every cell that was measured."""
DRIFT = Drift(level_start=1.0, shape_start=0.7, level_per_s=0.1, shape_per_s=0.01, reset=0.3)
"""Of log seconds: a machine's speed wanders by 10 % in a second, one cell against another by 8 % in a minute."""
NOISE_START, NOISE_LEAST, NOISE_MOST = 0.1, 0.02, 0.4
"""Standard deviation of one cycle's log seconds: at the start, and the bounds of what is learned."""


@dataclass(slots=True)
class Row:
    """The cells of one operating point by batch bucket: measured ones, and guesses for the others.

    `width_log2`: of the tokens in one of its forwards per request. `measured`: the cells that are, by bucket.
    """

    width_log2: float
    cells: list[Shape | None]
    guesses: list[Shape | None]
    measured: list[tuple[int, Shape]]
    guessed_at: int = 0


class Speed:
    """Mutable and deterministic; holds no clock."""

    def __init__(self) -> None:
        self.tracker = Tracker(DRIFT)
        self._noise = NOISE_START**2
        self._rows: list[Row] = []
        self._learned = 0

    def start(self, point: OperatingPoint) -> Row:
        """Begin to learn about `point`; each point is started once."""
        row = Row(log2(point.width), [None] * BUCKETS, [None] * BUCKETS, [])
        self._rows.append(row)
        return row

    def shape(self, row: Row, bucket: int) -> Shape:
        """What is known of a cell: measured, or guessed from the others (then `seen` is 0)."""
        measured = row.cells[bucket]
        if measured is not None:
            return measured
        if self._learned - row.guessed_at >= GUESS_CYCLES:
            row.guesses, row.guessed_at = [None] * BUCKETS, self._learned
        guess = row.guesses[bucket]
        if guess is None:
            guess = row.guesses[bucket] = _guess(row, bucket, self._rows)
        return guess

    def learn(self, row: Row, batch: int, log_ratio: float, noise_factor: float, now: float) -> None:
        """Fold in one cycle. `log_ratio`: logarithm of measured over prior.

        `noise_factor`: factor on the standard deviation of this measurement, 1 for a clean one.
        """
        if self.tracker.untouched:
            # Taken over whole, not filtered: a prior may be wrong by any factor that all points share.
            self.tracker.level = log_ratio
        bucket = bucket_of(batch)
        shape = row.cells[bucket]
        if shape is None:
            guess = self.shape(row, bucket)
            shape = row.cells[bucket] = self.tracker.start(guess.mean, guess.variance, now)
            row.measured.append((bucket, shape))
            row.measured.sort(key=lambda cell: cell[0])
            # The first measurement of a cell says more than any number of guesses: none that was made without it is
            # kept.
            for other in self._rows:
                other.guesses = [None] * BUCKETS
        surprise = log_ratio - shape.mean - self.tracker.level
        settled = shape.variance + self.tracker.level_variance < self._noise
        score = self.tracker.update(shape, surprise, 1.0, noise_factor**2 * self._noise, now)
        # The noise is learned from clean cycles of cells that are already known better than it: else what is not
        # known yet, or prefill, would count as noise and keep it large.
        if settled and noise_factor == 1.0:
            bounded = surprise * min(1.0, 2.5 / max(abs(score), 1e-9))
            noise = 0.98 * self._noise + 0.02 * bounded**2
            self._noise = min(max(noise, NOISE_LEAST**2), NOISE_MOST**2)
        # The dropped cross terms make early estimates look more certain than a mean of so many measurements can be.
        shape.variance = max(shape.variance, self._noise / shape.seen)
        self._learned += 1


def bucket_of(batch: int) -> int:
    """Index of the power of two nearest to `batch` in logarithm."""
    return min(BUCKETS - 1, int(log2(batch) + 0.5)) if batch > 1 else 0


def _guess(own: Row, bucket: int, rows: Iterable[Row]) -> Shape:
    """Mean of the measured cells, weighted by likeness; its variance is that of the most alike."""
    weights, total, least = 0.0, 0.0, DRIFT.shape_start**2
    size = bucket + own.width_log2
    for row in rows:
        further, width_log2 = 0.0 if row is own else OTHER_POINT, row.width_log2
        for other, shape in row.measured:
            distance = abs(size - other - width_log2) + further
            stddev = shape.variance + (OCTAVE_SIGMA * distance) ** 2
            # Squared, so that one like cell outweighs a crowd of unlike ones.
            weight = 1.0 / (stddev + NOISE_LEAST**2) ** 2
            weights += weight
            total += weight * shape.mean
            least = min(least, stddev)
    return Shape(total / weights if weights else 0.0, least, float("inf"))
