"""What is learned online, as one shared level and one shape per key.

Belongs here: the estimator and nothing about modes or seconds.

A measurement is explained as `level + shape[key]`. The level moves quickly and is common to all keys (a noisy
neighbour, another kind of traffic); a shape moves slowly and is what tells two keys apart. So two keys compare as
if they had been measured side by side, although one of them ran a minute ago. Both are scalar Kalman filters
(cross terms dropped): an EWMA whose gain follows from how much is known, how old that is, and how noisy one
measurement is. Single wild values are clipped; a run of them means that the world changed, and trust is reset.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

ALARM_SLACK = 1.0
"""Standard deviations per measurement that change detection forgives (CUSUM's k)."""
ALARM_LIMIT = 10.0
"""Accumulated excess at which a sustained shift is declared (CUSUM's h): seven wild values of one sign."""
MAX_AGE_S = 900.0
"""Ageing of one step is bounded by this, so that a clock that jumps does not wipe what is known."""


@dataclass(frozen=True, slots=True)
class Drift:
    """Standard deviations: at the start, and gained per square root of a second without a measurement.

    `reset`: the one given back to shapes when a sustained shift is detected; `most`: the largest that age gives a
    shape. `clip`: standard deviations beyond which one measurement moves the estimate no further and earns it no
    trust.
    """

    level_start: float
    shape_start: float
    level_per_s: float
    shape_per_s: float
    reset: float
    most: float = 0.6
    clip: float = 2.5


@dataclass(slots=True)
class Shape:
    """One key's estimate relative to the level: mean, variance at time `at`, and measurements seen."""

    mean: float
    variance: float
    at: float
    seen: int = 0


class Tracker:
    """Mutable estimator; holds no clock. `now` never needs to be monotonic."""

    def __init__(self, drift: Drift) -> None:
        self.drift = drift
        self.level = 0.0
        self._shape_drift, self._shape_most = drift.shape_per_s**2, drift.most**2
        self.level_variance = drift.level_start**2
        self.alarms = 0
        self._shapes: list[Shape] = []
        self._level_at: float | None = None
        self._above = 0.0
        self._below = 0.0

    @property
    def untouched(self) -> bool:
        """Whether nothing was ever measured."""
        return self._level_at is None

    def start(self, mean: float, variance: float, now: float) -> Shape:
        """Begin to track another key from a guess and how sure it is."""
        shape = Shape(mean, variance, now)
        self._shapes.append(shape)
        return shape

    def variance(self, shape: Shape, now: float) -> float:
        """Variance of `shape` as of `now`: it grows while nothing is measured, up to `drift.most` squared."""
        age = now - shape.at
        if age <= 0.0:
            return shape.variance
        grown = shape.variance + self._shape_drift * (age if age < MAX_AGE_S else MAX_AGE_S)
        if grown <= self._shape_most:
            return grown
        return shape.variance if shape.variance > self._shape_most else self._shape_most

    def update(self, shape: Shape, surprise: float, slope: float, noise: float, now: float) -> float:
        """Fold in one measurement; returns the surprise in standard deviations, before clipping.

        `surprise`: measured minus predicted. `slope`: change of the prediction per unit of level or shape.
        `noise`: variance of one measurement. Mutates `shape` and the level.
        """
        self.level_variance, self._level_at = self.level_variance_at(now), now
        shape.variance, shape.at = self.variance(shape, now), now
        total = slope * slope * (self.level_variance + shape.variance) + noise
        score = surprise / sqrt(total)
        clip = self.drift.clip
        # One cycle in 200 takes ten times as long on a shared machine: it may move the estimate, but by no more than a
        # bad one.
        clipped = min(max(score, -clip), clip)
        step = clipped * slope / sqrt(total)
        self.level += self.level_variance * step
        shape.mean += shape.variance * step
        if abs(score) <= clip:
            share = slope * slope / total
            # A clipped measurement moves the estimate by the bound and earns no trust: one cycle in 200 that takes ten
            # times as long (tests/policy/test_closed_loop.py) must not make the filter more certain of a wrong value.
            self.level_variance -= self.level_variance**2 * share
            shape.variance -= shape.variance**2 * share
        shape.seen += 1
        self._watch(clipped)
        return score

    def level_variance_at(self, now: float) -> float:
        """Variance of the level as of `now`: it grows while nothing is measured, up to what it started with."""
        # A clock that was set back earns no doubt and takes none: `now` is the caller's, and need not be monotonic.
        if self._level_at is None or now <= self._level_at:
            return self.level_variance
        grown = self.level_variance + self.drift.level_per_s**2 * min(now - self._level_at, MAX_AGE_S)
        return min(grown, max(self.level_variance, self.drift.level_start**2))

    def _watch(self, score: float) -> None:
        """Two-sided CUSUM (Page 1954): after many surprises of one sign in a row the variances start again."""
        # Without it a lasting change would be followed only as fast as the filters move, and those that are certain by
        # then move little.
        self._above = max(0.0, self._above + score - ALARM_SLACK)
        self._below = max(0.0, self._below - score - ALARM_SLACK)
        if max(self._above, self._below) < ALARM_LIMIT:
            return
        self._above = self._below = 0.0
        self.alarms += 1
        self.level_variance = max(self.level_variance, self.drift.level_start**2)
        # Only as far as `reset`, not to the start: how points compare with each other mostly survives a change of their
        # machine.
        for shape in self._shapes:
            shape.variance = max(shape.variance, self.drift.reset**2)
