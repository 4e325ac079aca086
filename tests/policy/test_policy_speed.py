"""Benchmarks without limits: `pytest tests/policy/test_policy_speed.py --benchmark-only` prints them.

Aims on an idle core: choose_point 20 us at 6 points, route 30 us at 64 replicas and 200 us at 1,000.
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from trimode_api.modes import AR, speculation
from trimode_policy.choose import Batch, PointState, Reason, Switching, choose_point
from trimode_policy.curves import Curves, Observation
from trimode_policy.roofline import Roofline
from trimode_policy.route import ReplicaView, RequestView, RouteReason, Staleness, route

POINTS = (AR, *(speculation(length) for length in (4, 8, 16, 32, 64)))


def taught(prior: Roofline) -> Curves:
    curves = Curves(POINTS, prior)
    for i in range(600):
        point = POINTS[i % 6]
        seconds = prior.seconds(point, 16, 150.0)
        gained = 16 * min(5, point.block_length)
        curves.observe(Observation(point, 16, 150.0, 0, seconds, gained), i / 100)
    return curves


def test_choose_point_of_six(benchmark: BenchmarkFixture, tiny_prior: Roofline) -> None:
    curves = taught(tiny_prior)
    best = min(curves.estimates(POINTS, 16, 150.0, 6.0), key=lambda e: e.pace).point
    state, switching, batch = PointState.initial(best, 6.0), Switching(), Batch(16, 150.0)
    decision, _ = benchmark(choose_point, batch, POINTS, curves, state, switching, 6.0)
    assert decision.reason in (Reason.KEPT, Reason.PROBE)


def test_observe(benchmark: BenchmarkFixture, tiny_prior: Roofline) -> None:
    curves = taught(tiny_prior)
    observation = Observation(speculation(8), 16, 150.0, 0, 0.01, 80)
    benchmark(curves.observe, observation, 7.0)
    assert curves.observed_cycles(speculation(8)) > 100


@pytest.mark.parametrize("busy", [0, 7], ids=["idle", "mixed"])
@pytest.mark.parametrize("rows", [{}, {"standard": 40, "premium": 12}], ids=["capacity", "paces"])
@pytest.mark.parametrize("replicas", [64, 1000])
def test_route(benchmark: BenchmarkFixture, replicas: int, rows: dict[str, int], busy: int) -> None:
    """`idle`: all are equals, which is the dearest case."""
    tiers = ("premium", "standard", "standard")
    loads = [(i % busy, i % 5) if busy else (0, 0) for i in range(replicas)]
    fleet = [
        ReplicaView(f"r{i}", "p", True, False, 0.1, *load, 0, 0, 64, POINTS, 100.0, rows, tiers[i % 3])
        for i, load in enumerate(loads)
    ]
    decision = benchmark(route, RequestView(), fleet, Staleness(), 1)
    assert decision.reason is RouteReason.LEAST_LOADED
