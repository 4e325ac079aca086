"""Sizes of pools."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode_policy.capacity import TARGET_UTILIZATION, PoolLoad, size_pool


def load(utilization: list[float], ordered: int, running: int | None = None, highest: int = 4) -> PoolLoad:
    return PoolLoad(utilization, ordered if running is None else running, ordered, 1, highest)


@pytest.mark.parametrize(
    ("utilization", "ordered", "wanted"),
    [([], 2, 2), ([], 9, 4), ([0.7], 1, 1), ([0.71], 1, 2), ([1.0, 1.0], 2, 3), ([5.0], 1, 4), ([0.0, 0.0], 2, 1)],
)
def test_the_load_decides(utilization: list[float], ordered: int, wanted: int) -> None:
    assert size_pool(load(utilization, ordered)) == wanted


def test_replicas_on_their_way_are_not_ordered_twice() -> None:
    """Two full ones need three; with the third ordered, nothing more is."""
    assert size_pool(load([1.0, 1.0], 3, running=2)) == 3


def test_who_runs_and_does_not_report_is_taken_to_be_like_the_others() -> None:
    assert size_pool(load([0.7], 3, running=3)) == 3


def test_a_pool_may_sleep_and_a_waiting_request_wakes_it() -> None:
    asleep = PoolLoad([], 0, 0, 0, 4)
    assert size_pool(asleep) == 0
    assert size_pool(replace(asleep, wanted=True)) == 1
    assert size_pool(PoolLoad([0.0], 1, 1, 0, 4)) == 0
    assert size_pool(PoolLoad([0.01], 1, 1, 0, 4)) == 1, "as long as anybody is served"


@given(st.lists(st.floats(0, 5), max_size=6), st.integers(0, 6), st.integers(0, 6), st.integers(1, 9), st.floats(1, 3))
def test_within_bounds_and_more_load_never_means_fewer(
    utilization: list[float], ordered: int, running: int, highest: int, more: float
) -> None:
    wanted = size_pool(load(utilization, ordered, running, highest))
    assert 1 <= wanted <= highest
    assert size_pool(load([min(f * more, 1e6) for f in utilization], ordered, running, highest)) >= wanted
    if utilization and 1 < wanted < highest:
        replicas = max(running, len(utilization))
        assert sum(utilization) / len(utilization) * replicas / wanted <= TARGET_UTILIZATION + 1e-5
