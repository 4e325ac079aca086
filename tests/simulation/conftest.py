"""A small world to simulate: an 8B model on H200-like replicas, two tiers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

import pytest

from trimode_api.modes import AR, speculation
from trimode_policy.roofline import ModelShape, Roofline
from trimode_tools.simulator.cost_model import Truth
from trimode_tools.simulator.fleet import Fleet
from trimode_tools.simulator.policies import fleet_for
from trimode_tools.simulator.rows import EngineLimits
from trimode_tools.simulator.scenario import Scenario
from trimode_tools.simulator.workload import Goal, Job

ROOFLINE = Roofline.for_model(
    ModelShape(parameters=8_000_000_000, layers=34, kv_heads=8, head_dim=128, bytes_per_value=2),
    flops_per_s=6e14,
    bytes_per_s=4e12,
    overhead_s=2e-4,
)
GOALS = (Goal("premium", 0.5, 0.004, 10), Goal("standard", 1.0, 0.012, 0))
POINTS = (AR, speculation(8), speculation(16), speculation(32))


@pytest.fixture
def scenario() -> Scenario:
    """Four replicas, no noise in what happens, the right prior."""
    return Scenario(Truth(ROOFLINE, (7.0, 5.0)), ROOFLINE, GOALS, POINTS, 4, EngineLimits(64, 500_000.0))


@pytest.fixture
def run() -> Callable[[str, Scenario, Iterable[Job], int], Fleet]:
    """Run all jobs through a fresh fleet."""

    def go(policy: str, scenario: Scenario, jobs: Iterable[Job], seed: int = 0) -> Fleet:
        fleet = fleet_for(policy, scenario, Random(seed))
        for job in jobs:
            fleet.offer(job)
        fleet.settle()
        return fleet

    return go
