"""Moving replicas between pools: properties and cases."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode_policy.rebalance import Demand, MoveReason, Moves, MoveState, PoolView, rebalance

MOVES = Moves(margin=0.1, every_s=60.0, switch_s=30.0, horizon_s=900.0)


def pool(name: str, replicas: int, slope: float, base: float, moving: int = 0, capacity: int = 64) -> PoolView:
    return PoolView(name, replicas, moving, lambda batch: base + slope * batch, capacity)


def ar(replicas: int, moving: int = 0) -> PoolView:
    return pool("ar", replicas, 0.05e-3, 4e-3, moving)


def fast(replicas: int, moving: int = 0) -> PoolView:
    return pool("fast", replicas, 0.3e-3, 1e-3, moving)  # faster below batch 12


def test_few_requests_move_a_replica_to_the_fast_pool_and_many_back() -> None:
    decision, state = rebalance([ar(3), fast(1)], Demand(8, 16), MOVES, MoveState(), 100.0)
    assert (decision.source, decision.target, decision.reason) == ("ar", "fast", MoveReason.PREDICTED_GAIN)
    assert state.moved_at == 100.0
    decision, _ = rebalance([ar(1), fast(3)], Demand(150, 180), MOVES, MoveState(), 100.0)
    assert (decision.source, decision.target) == ("fast", "ar")


def test_a_load_that_swings_over_the_crossover_moves_nothing() -> None:
    decision, _ = rebalance([ar(2), fast(2)], Demand(8, 220), MOVES, MoveState(), 100.0)
    assert decision.reason is MoveReason.KEPT


def test_one_move_per_interval() -> None:
    decision, _ = rebalance([ar(3), fast(1)], Demand(8, 16), MOVES, MoveState(70.0), 100.0)
    assert decision.reason is MoveReason.DWELL


def test_the_rest_must_carry_the_load() -> None:
    views = [pool("ar", 2, 0.0, 8e-3, capacity=64), pool("fast", 1, 0.0, 1e-3, capacity=64)]
    decision, _ = rebalance(views, Demand(150, 150), MOVES, MoveState(), 100.0)
    assert decision.reason is MoveReason.REST_CANNOT_CARRY


def test_a_short_gain_does_not_pay_for_a_long_absence() -> None:
    moves = Moves(margin=0.0, switch_s=180.0, horizon_s=10.0)
    decision, _ = rebalance([ar(1), fast(2)], Demand(90, 90), moves, MoveState(), 100.0)
    assert decision.reason is MoveReason.NOT_WORTH_IT


@pytest.mark.parametrize(("kept_s", "moves"), [(0.0, True), (30.0, True), (1e5, False)])
def test_prompts_that_would_be_computed_again_are_part_of_the_price(kept_s: float, moves: bool) -> None:
    views = [replace(ar(3), kept_s=kept_s), fast(1)]
    decision, _ = rebalance(views, Demand(8, 16), MOVES, MoveState(), 100.0)
    assert (decision.reason is MoveReason.PREDICTED_GAIN) is moves
    assert moves or "prompts computed again" in decision.detail


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_dearer_move_is_never_made_where_a_cheaper_one_is_not(one: float, other: float) -> None:
    made = []
    for kept_s in sorted((one, other)):
        decision, _ = rebalance([replace(ar(3), kept_s=kept_s), fast(1)], Demand(8, 16), MOVES, MoveState(), 100.0)
        made.append(decision.source is not None)
    assert made[0] or not made[1]


def test_no_data_moves_nothing() -> None:
    blind = PoolView("fast", 1, 0, lambda batch: None, 64)
    decision, _ = rebalance([ar(3), blind], Demand(8, 16), MOVES, MoveState(), 100.0)
    assert decision.reason is MoveReason.NO_DATA


@given(
    replicas=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    moving=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    calm=st.floats(0, 400),
    swing=st.floats(0, 200),
    moved_at=st.floats(-1e6, 1e3),
    now=st.floats(0, 1e3),
)
def test_properties(
    replicas: tuple[int, int],
    moving: tuple[int, int],
    calm: float,
    swing: float,
    moved_at: float,
    now: float,
) -> None:
    views = [ar(replicas[0], moving[0]), fast(replicas[1], moving[1])]
    decision, state = rebalance(views, Demand(calm, calm + swing), MOVES, MoveState(moved_at), now)
    assert decision.detail
    if decision.source is None:
        assert decision.target is None
        assert state.moved_at == moved_at
        return
    source = next(view for view in views if view.name == decision.source)
    assert decision.target not in (None, decision.source)
    assert source.replicas > 1, "never empties a pool"
    assert moving == (0, 0), "nothing while a transition is in flight"
    assert not 0 <= now - moved_at < MOVES.every_s, "one at a time"
    assert calm + swing <= 64 * (sum(replicas) - 1), "the rest can carry it"
