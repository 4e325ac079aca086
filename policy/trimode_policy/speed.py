"""Seconds per cycle, learned: `prior x exp(level + shape of the cell)`.

Belongs here: how measured durations become predictions. A cell is an operating point at one power of two of the
batch. A cell that was never measured leans on those that were, weighted by how alike their forwards are: the time
of a forward is mostly a function of the tokens in it (`batch x block length`), whatever the mode.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import log2

from trimode_api.modes import OperatingPoint

from .tracker import Drift, Shape, Tracker

BUCKETS = 16
"""Batch buckets: the powers of two from 1 to 32,768; a batch belongs to the nearest in logarithm."""
OCTAVE_DOUBT = 0.3
"""Standard deviation (log seconds) per factor of two in tokens between a cell and the one it leans on."""
OTHER_POINT = 0.5
"""Distance, in factors of two, between the same number of tokens in two operating points."""
GUESS_CYCLES = 16
"""A guess for an unmeasured cell is made anew after this many measurements."""
DRIFT = Drift(level_start=1.0, shape_start=0.7, level_per_s=0.1, shape_per_s=0.01, reset=0.2)
"""Of log seconds: a machine's speed wanders by 10 % in a second, one cell against another by 8 % in a minute."""
NOISE_START, NOISE_LEAST, NOISE_MOST = 0.1, 0.02, 0.4
"""Standard deviation of one cycle's log seconds: at the start, and the bounds of what is learned."""


@dataclass(slots=True)
class Cell:
    """One operating point at one batch bucket; `size` is the logarithm of the tokens in one of its forwards."""

    point: OperatingPoint
    size: float
    shape: Shape


class Speed:
    """Mutable and deterministic; holds no clock."""

    def __init__(self) -> None:
        self.tracker = Tracker(DRIFT)
        self._noise = NOISE_START**2
        self._cells: dict[tuple[OperatingPoint, int], Cell] = {}
        self._guesses: dict[tuple[OperatingPoint, int], tuple[int, Shape]] = {}
        self._learned = 0

    def shape(self, point: OperatingPoint, bucket: int) -> Shape:
        """What is known of a cell: measured, or guessed from the others (then `seen` is 0)."""
        cell = self._cells.get((point, bucket))
        if cell is not None:
            return cell.shape
        made, guess = self._guesses.get((point, bucket), (-GUESS_CYCLES, None))
        if guess is None or self._learned - made >= GUESS_CYCLES:
            guess = _guess(point, _size(point, bucket), self._cells.values())
            self._guesses[point, bucket] = (self._learned, guess)
        return guess

    def measured(self, point: OperatingPoint) -> bool:
        """Whether any cell of `point` was measured."""
        return any(cell.point == point for cell in self._cells.values())

    def learn(self, point: OperatingPoint, batch: int, log_ratio: float, warm: bool, now: float) -> None:
        """Fold in one cycle. `log_ratio`: logarithm of measured over prior. `warm`: the point ran before, too.

        The first cycle after a change of point pays for cold caches and counts for less.
        """
        if self.tracker.untouched:
            self.tracker.level = log_ratio  # a prior may be wrong by any factor that all points share
        shape = self._cell(point, bucket_of(batch), now)
        surprise = log_ratio - shape.mean - self.tracker.level
        settled = shape.variance + self.tracker.level_variance < self._noise
        score = self.tracker.update(shape, surprise, 1.0, self._noise if warm else 4 * self._noise, now)
        if settled and warm:
            bounded = surprise * min(1.0, 2.5 / max(abs(score), 1e-9))
            noise = 0.98 * self._noise + 0.02 * bounded**2
            self._noise = min(max(noise, NOISE_LEAST**2), NOISE_MOST**2)
        self._learned += 1

    def _cell(self, point: OperatingPoint, bucket: int, now: float) -> Shape:
        cell = self._cells.get((point, bucket))
        if cell is None:
            guess = self.shape(point, bucket)
            shape = self.tracker.start((point, bucket), guess.mean, guess.variance, now)
            cell = self._cells[point, bucket] = Cell(point, _size(point, bucket), shape)
            self._guesses.clear()
        return cell.shape


def bucket_of(batch: int) -> int:
    """Index of the power of two nearest to `batch` in logarithm."""
    return min(BUCKETS - 1, int(log2(batch) + 0.5)) if batch > 1 else 0


def _size(point: OperatingPoint, bucket: int) -> float:
    return bucket + log2(point.block_length)


def _guess(point: OperatingPoint, size: float, cells: Iterable[Cell]) -> Shape:
    """Mean of the measured cells, weighted by likeness; as sure as the most alike of them allows."""
    weights, total, least = 0.0, 0.0, DRIFT.shape_start**2
    for cell in cells:
        distance = abs(size - cell.size) + (0.0 if cell.point == point else OTHER_POINT)
        doubt = cell.shape.variance + (OCTAVE_DOUBT * distance) ** 2
        # Squared, so that one like cell outweighs a crowd of unlike ones.
        weight = 1.0 / (doubt + NOISE_LEAST**2) ** 2
        weights += weight
        total += weight * cell.shape.mean
        least = min(least, doubt)
    return Shape(total / weights if weights else 0.0, least, float("inf"))
