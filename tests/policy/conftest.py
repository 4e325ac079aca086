"""A synthetic engine: known cycle times, known acceptance, seeded noise, virtual time."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import pytest
from hypothesis import HealthCheck, settings

from trimode_api.modes import AR, OperatingPoint, speculation
from trimode_policy.acceptance import log_odds_for
from trimode_policy.choose import Batch, PointDecision, PointState, Reason, Switching, choose_point
from trimode_policy.curves import Curves, Observation
from trimode_policy.profiles import generic_cpu
from trimode_policy.roofline import ModelShape, Roofline

# A busy machine is no reason to fail a property.
settings.register_profile("policy", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
# Thousands of cases each: TRIMODE_PROPERTIES=thorough pytest tests/policy
settings.register_profile("thorough", settings.get_profile("policy"), derandomize=False, max_examples=4000)
settings.load_profile(os.environ.get("TRIMODE_PROPERTIES", "policy"))

POINTS = (AR, speculation(8), speculation(16), speculation(32))
# Milliseconds per cycle by batch, in the order of POINTS: a real measurement of the packaged model on two cores.
CYCLE_MS = {
    1: (2.0, 5.6, 7.9, 9.4),
    4: (2.5, 9.0, 9.4, 14.6),
    8: (2.8, 9.9, 13.5, 23.0),
    16: (4.2, 13.8, 21.3, 39.8),
    32: (5.2, 22.4, 36.1, 76.4),
    64: (6.3, 36.3, 71.3, 173.7),
}
TOKENS = {AR: 1.0, speculation(8): 5.2, speculation(16): 6.6, speculation(32): 7.1}
TINY = ModelShape(parameters=1_770_000, layers=4, kv_heads=2, head_dim=32, bytes_per_value=4)


def true_seconds(point: OperatingPoint, batch: int) -> float:
    """Cycle time of `point`, interpolated in the logarithms."""
    index, batches = POINTS.index(point), sorted(CYCLE_MS)
    low = max(b for b in batches if b <= batch)
    high = min(b for b in batches if b >= batch)
    share = 0.0 if low == high else math.log(batch / low) / math.log(high / low)
    return 1e-3 * CYCLE_MS[low][index] ** (1 - share) * CYCLE_MS[high][index] ** share


@cache
def yields(point: OperatingPoint, mean: float) -> tuple[float, ...]:
    """Cumulative chances of 1, 2, ... tokens per cycle: each draft token is right with the same chance."""
    odds = log_odds_for(mean, point.block_length) if point.block_length > 1 else 0.0
    chance = 1 / (1 + math.exp(-odds))
    return (*(1 - chance**k for k in range(1, point.block_length)), 1.0)


@dataclass
class Stage:
    """What happened under one load."""

    batch: int
    ratio: float  # tokens against the best static point's, noise taken out
    settled_ratio: float  # the same over the second half
    switches: int
    late_switches: int  # in the second half
    seen: set[OperatingPoint] = field(default_factory=set)  # chosen points, probes left out


@dataclass
class SyntheticEngine:
    """Runs the policy against the curves above; time is virtual."""

    seed: int = 0
    prior: Roofline | None = None
    noise: float = 0.1  # of one cycle, log
    wander: float = 0.15  # of the whole machine, log, within seconds
    outliers: float = 0.005  # share of cycles that take ten times as long
    switching: Switching = field(default_factory=Switching)
    points: tuple[OperatingPoint, ...] = POINTS
    tokens: dict[OperatingPoint, float] = field(default_factory=lambda: dict(TOKENS))
    slowdown: dict[OperatingPoint, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.now, self.level = 1000.0, 0.0
        self.curves = Curves(self.points, self.prior or generic_cpu(2, 4).roofline(TINY))
        self.state = PointState.initial(AR, self.now)
        self.decisions: list[tuple[float, PointDecision]] = []

    def seconds(self, point: OperatingPoint, batch: int) -> float:
        return true_seconds(point, batch) * self.slowdown.get(point, 1.0)

    def best_rate(self, batch: int) -> float:
        """Tokens per second and request of the best static point."""
        return max(self.tokens[p] / self.seconds(p, batch) for p in self.points)

    def cycle(self, batch: int) -> tuple[float, float]:
        """One decision and one cycle; returns the noise-free seconds and expected tokens per request."""
        ask = Batch(batch, 150.0)
        decision, self.state = choose_point(ask, self.points, self.curves, self.state, self.switching, self.now)
        self.decisions.append((self.now, decision))
        point = decision.point
        ideal = self.seconds(point, batch)
        self.level += -self.level * ideal / 5 + self.wander * math.sqrt(2 * ideal / 5) * self.random.gauss(0, 1)
        seconds = ideal * math.exp(self.level + self.noise * self.random.gauss(0, 1))
        if self.random.random() < self.outliers:
            seconds *= 10
        self.now += seconds
        mean = self.tokens[point]
        total = sum(self.random.choices(range(1, point.block_length + 1), cum_weights=yields(point, mean), k=batch))
        self.curves.observe(Observation(point, batch, 150.0, 0, seconds, total), self.now)
        return ideal, mean

    def stage(self, batch: int, seconds: float) -> Stage:
        """Hold `batch` for `seconds`."""
        halves, switches, seen, start = [[0.0, 0.0], [0.0, 0.0]], [self.state.switches], set(), self.now
        for half in (0, 1):
            while self.now < start + (half + 1) * seconds / 2:
                ideal, tokens = self.cycle(batch)
                halves[half][0] += ideal
                halves[half][1] += tokens
                if self.decisions[-1][1].reason is not Reason.PROBE:
                    seen.add(self.decisions[-1][1].point)
            switches.append(self.state.switches)
        best = self.best_rate(batch)
        whole = (halves[0][1] + halves[1][1]) / (halves[0][0] + halves[1][0])
        late = halves[1][1] / halves[1][0]
        return Stage(batch, whole / best, late / best, switches[2] - switches[0], switches[2] - switches[1], seen)


@pytest.fixture
def engine() -> Callable[..., SyntheticEngine]:
    return SyntheticEngine


@pytest.fixture
def tiny_prior() -> Roofline:
    return generic_cpu(2, 4).roofline(TINY)
