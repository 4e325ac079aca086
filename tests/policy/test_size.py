"""Sizes of pools: up at once, down after a calm."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode_policy.size import Calm, PoolLoad, Sizing, size_pool

SIZING = Sizing(target=0.7, calm_s=300.0)


def load(fullness: list[float], target: int, running: int | None = None, highest: int = 4) -> PoolLoad:
    return PoolLoad(fullness, target if running is None else running, target, 1, highest)


@pytest.mark.parametrize(
    ("fullness", "target", "wanted"),
    [([], 2, 2), ([], 9, 4), ([0.7], 1, 1), ([0.71], 1, 2), ([1.0, 1.0], 2, 3), ([5.0], 1, 4)],
)
def test_up_at_once(fullness: list[float], target: int, wanted: int) -> None:
    assert size_pool(load(fullness, target), None, SIZING, 0.0)[0] == wanted


def test_down_to_the_most_that_was_needed_and_only_after_a_calm() -> None:
    wanted, calm = size_pool(load([0.2] * 4, 4), None, SIZING, 0.0)
    assert (wanted, calm) == (4, Calm(0.0, 2))
    wanted, calm = size_pool(load([0.5] * 4, 4), calm, SIZING, 100.0)
    assert (wanted, calm) == (4, Calm(0.0, 3))
    wanted, calm = size_pool(load([0.1] * 4, 4), calm, SIZING, 300.0)
    assert (wanted, calm) == (3, None)


def test_a_burst_ends_the_calm() -> None:
    _, calm = size_pool(load([0.2] * 4, 4), None, SIZING, 0.0)
    _, calm = size_pool(load([0.7] * 4, 4), calm, SIZING, 299.0)
    assert calm is None
    assert size_pool(load([0.2] * 4, 4), calm, SIZING, 301.0)[0] == 4


def test_replicas_on_their_way_are_not_ordered_twice() -> None:
    """Two full ones need three; with the third ordered, nothing more is."""
    assert size_pool(load([1.0, 1.0], 3, running=2), None, SIZING, 0.0)[0] == 3


@pytest.mark.parametrize(("field", "value"), [("target", 0.0), ("target", 1.1), ("calm_s", -1.0), ("calm_s", math.inf)])
def test_nonsense_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        Sizing(**{field: value})


loads = st.builds(load, st.lists(st.floats(0, 5), max_size=6), st.integers(0, 6), st.integers(0, 6), st.integers(1, 6))


@given(loads, st.one_of(st.none(), st.builds(Calm, st.floats(-1e9, 1e9), st.integers(0, 6))), st.floats(-1e9, 1e9))
def test_always_within_bounds_and_never_down_at_once(load: PoolLoad, calm: Calm | None, now: float) -> None:
    wanted, after = size_pool(load, calm, SIZING, now)
    assert load.lowest <= wanted <= load.highest
    if wanted < min(load.target, load.highest):
        assert calm is not None
        assert now - calm.since >= SIZING.calm_s
        assert after is None
