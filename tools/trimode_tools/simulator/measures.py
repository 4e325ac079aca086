"""What is counted, in memory that does not grow with the number of requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp, log

from trimode_api.modes import OperatingPoint
from trimode_tools.simulator.workload import Goal

_RATIO = log(1.01)
_LEAST = 1e-5


@dataclass(slots=True)
class Histogram:
    """Durations in buckets 1 % wide: percentiles are within 0.5 %. Seconds."""

    counts: dict[int, int] = field(default_factory=dict)
    total: int = 0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        bucket = int(log(seconds / _LEAST) / _RATIO) if seconds > _LEAST else 0
        self.counts[bucket] = self.counts.get(bucket, 0) + 1
        self.total += 1

    def percentile(self, percent: float) -> float:
        """The duration that `percent` of those counted do not exceed; 0 where nothing was counted."""
        wanted, seen = percent / 100.0 * self.total, 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= wanted:
                return _LEAST * exp((bucket + 0.5) * _RATIO) if bucket else _LEAST
        return 0.0


@dataclass(slots=True)
class Account:
    """One run. Counts are per tier; every offered request ends in exactly one of `finished` and `refused`.

    `good`: finished within both objectives. `refused`: by admission, at its first attempt or after waiting too long.
    `seconds_at`: replica seconds spent per point. `busy_s`, `up_s`: replica seconds decoding or prefilling, and
    paid for. `switches`, `moves`: of operating points inside engines, and of replicas between pools. `latency`: from
    asking to the last token.
    """

    goals: tuple[Goal, ...]
    offered: list[int]
    finished: list[int]
    good: list[int]
    refused: list[int]
    ttft: Histogram = field(default_factory=Histogram)
    tpot: Histogram = field(default_factory=Histogram)
    latency: Histogram = field(default_factory=Histogram)
    tokens: int = 0
    switches: int = 0
    moves: int = 0
    preemptions: int = 0
    busy_s: float = 0.0
    up_s: float = 0.0
    seconds_at: dict[OperatingPoint, float] = field(default_factory=dict)

    @classmethod
    def empty(cls, goals: Sequence[Goal]) -> Account:
        """Nothing counted yet."""
        zeros = [0] * len(goals)
        return cls(tuple(goals), list(zeros), list(zeros), list(zeros), list(zeros))

    def finish(self, tier: int, output: int, ttft_s: float, tpot_s: float) -> bool:
        """Count a request that got its last token; returns whether it met its objectives."""
        goal = self.goals[tier]
        good = ttft_s <= goal.ttft_s and tpot_s <= goal.tpot_s
        self.finished[tier] += 1
        self.good[tier] += good
        self.tokens += output
        self.ttft.add(ttft_s)
        self.tpot.add(tpot_s)
        self.latency.add(ttft_s + tpot_s * (output - 1))
        return good

    def attainment(self, tier: int) -> float:
        """Share of the tier's offered requests that met both objectives, in percent; 100 where none came."""
        return 100.0 * self.good[tier] / self.offered[tier] if self.offered[tier] else 100.0


@dataclass(slots=True)
class Series:
    """Sums per slice of time, for plots: `every_s` wide, `slices` of them.

    `offered`, `good`: requests by their arrival. `at`: by point, replica seconds run.
    """

    every_s: float
    slices: int
    offered: list[int] = field(default_factory=list)
    good: list[int] = field(default_factory=list)
    at: dict[OperatingPoint, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.offered = [0] * self.slices
        self.good = [0] * self.slices

    def slice_of(self, now: float) -> int:
        """Index of the slice, the last one for everything later."""
        return min(self.slices - 1, max(0, int(now / self.every_s)))

    def ran(self, point: OperatingPoint, now: float, seconds: float) -> None:
        """A replica ran `point` for `seconds`, from `now` on."""
        row = self.at.get(point)
        if row is None:
            row = self.at[point] = [0.0] * self.slices
        row[self.slice_of(now)] += seconds
