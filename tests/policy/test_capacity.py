"""Rows that leave everyone in time, which replica is kept fast for whom, and routing by both."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode_api.modes import AR, speculation
from trimode_policy.capacity import (
    SLACK,
    Paces,
    PromptPrice,
    max_concurrency_within,
    needed_seconds,
    paces,
    utilization,
)
from trimode_policy.curves import Curves
from trimode_policy.roofline import Roofline
from trimode_policy.route import ReplicaView, RequestView, RouteReason, SloState, Staleness, route
from trimode_policy.tier_fairness import (
    MIX_S,
    STARVED_S,
    TTFT_USE,
    StarvationGuard,
    TierMix,
    reservations,
    slo_state_of,
)
from trimode_policy.views import LATE_SHARE

STALENESS = Staleness(2.0, 10.0)
FAST, SLOW = "premium", "standard"
PREMIUM, STANDARD = RequestView(tier=FAST, priority=10), RequestView(tier=SLOW)


def replica(name: str, load: int = 0, reserved_for: str | None = SLOW, **changes: object) -> ReplicaView:
    view = ReplicaView(
        replica_id=name, pool="flex", ready=True, draining=False, age_s=0.1, in_flight=load, running=load, waiting=0,
        queued_prompt_tokens=0, capacity=64, points=(AR,), rows={FAST: 10, SLOW: 40}, reserved_for=reserved_for,
        prompt_tokens_per_second=10_000.0,
    )  # fmt: skip
    return replace(view, **changes)  # type: ignore[arg-type]


def picked(request: RequestView, *replicas: ReplicaView) -> str | None:
    return route(request, replicas, STALENESS, 0).replica_id


# Rows.


def test_rows_are_where_the_pace_and_the_prompts_of_others_meet_the_objective() -> None:
    known: Paces = ((1, 0.001), (2, 0.002), (4, 0.004), (8, 0.008))
    assert max_concurrency_within(known, 0.0, 0.004 / SLACK, 8) == 4
    assert max_concurrency_within(known, 0.0, 0.006 / SLACK, 8) in (5, 6)
    assert max_concurrency_within(known, 0.001, 0.004 / SLACK, 8) == 2  # as much again goes to prompts
    assert max_concurrency_within(known, 0.0, 1.0, 8) == 8
    assert max_concurrency_within(known, 0.0, 0.0009, 8) == 0
    assert max_concurrency_within((), 0.0, 0.0009, 8) == 8


def test_a_replica_is_full_where_one_more_would_make_somebody_fall_behind() -> None:
    known, strict, lax = ((1, 0.001), (8, 0.008)), 0.004 / SLACK, 0.008 / SLACK
    assert utilization([], known, 0.0, 64) == 0.0
    assert utilization([strict] * 4, known, 0.0, 64) == pytest.approx(1.0)
    assert utilization([lax] * 32, known, 0.0, 64) == pytest.approx(32 / max_concurrency_within(known, 0.0, lax, 64))
    assert utilization([strict] * 2 + [0.0] * 32, known, 0.0, 64) == pytest.approx(1.0)
    assert utilization([0.0005] * 8, known, 0.0, 64) == pytest.approx(8 / 64)  # out of reach: nothing to protect
    assert utilization([strict] * 8, (), 0.0, 64) == pytest.approx(8 / 64)


def test_paces_are_those_of_the_best_point_at_every_size(tiny_prior: Roofline) -> None:
    curves, points = Curves((AR, speculation(8)), tiny_prior), (AR, speculation(8))
    known = paces(curves, points, 100.0, 48)
    assert [batch for batch, _ in known] == [1, 2, 4, 8, 16, 32, 48]
    for batch, pace in known:
        best = min(estimate.pace for estimate in curves.estimates(points, batch, 100.0, None))
        assert pace >= best
    assert known[0][1] == min(estimate.pace for estimate in curves.estimates(points, 1, 100.0, None))
    assert paces(Curves((AR,), None), (AR,), 100.0, 48) == ()


def test_the_price_of_prompts_is_a_fading_mean() -> None:
    price = PromptPrice()
    assert (price.per_token, price.tokens_per_s) == (0.0, 0.0)
    for _ in range(100):
        price.spent(0.5, 1000.0, 100.0, 1.0)
    assert (price.per_token, price.tokens_per_s) == (pytest.approx(0.005), pytest.approx(2000.0))
    for _ in range(200):
        price.spent(0.0, 0.0, 100.0, 1.0)
    assert price.per_token < 1e-4


curves_of = st.lists(st.floats(1e-4, 1e-2), min_size=1, max_size=8).map(
    lambda steps: tuple((2**i, sum(steps[: i + 1])) for i in range(len(steps)))
)


@given(curves_of, st.floats(0, 1e-3), st.floats(1e-4, 1.0), st.integers(1, 200))
def test_rows_keep_the_objective_and_one_more_would_not(known: Paces, price: float, tpot_s: float, most: int) -> None:
    def pace(batch: int) -> float:
        lower = [pair for pair in known if pair[0] <= batch][-1]
        upper = next((pair for pair in known if pair[0] > batch), lower)
        share = 0.0 if upper == lower else (batch - lower[0]) / (upper[0] - lower[0])
        return lower[1] + share * (upper[1] - lower[1])

    rows = max_concurrency_within(known, price, tpot_s, min(most, known[-1][0]))
    assert 0 <= rows <= min(most, known[-1][0])
    if rows:
        assert pace(rows) <= needed_seconds(tpot_s, rows, price) * (1 + 1e-9)
    if rows < min(most, known[-1][0]):
        assert pace(rows + 1) > needed_seconds(tpot_s, rows + 1, price) * (1 - 1e-9)


@given(curves_of, st.floats(0, 1e-3), st.floats(1e-4, 1.0), st.floats(1.0, 10.0), st.floats(0.1, 10.0))
def test_a_laxer_objective_never_means_fewer_rows_and_the_unit_does_not_matter(
    known: Paces, price: float, tpot_s: float, laxer: float, unit: float
) -> None:
    rows = max_concurrency_within(known, price, tpot_s, 64)
    assert max_concurrency_within(known, price, tpot_s * laxer, 64) >= rows
    scaled = tuple((batch, pace * unit) for batch, pace in known)
    assert abs(max_concurrency_within(scaled, price * unit, tpot_s * unit, 64) - rows) <= 1  # a rounding at the edge


# Who keeps whose pace.


def test_replicas_are_shared_out_by_what_is_asked_for() -> None:
    rows = {name: {FAST: 10, SLOW: 40} for name in "abcd"}
    kept = reservations(rows, {FAST: 0.3, SLOW: 0.7})
    assert sorted(kept.values()) == [FAST, SLOW, SLOW, SLOW]
    assert set(reservations(rows, {FAST: 1.0, SLOW: 0.0}).values()) == {FAST}
    assert reservations(rows, {}) == {}
    assert set(reservations(rows, {FAST: 0.02, SLOW: 0.98}).values()) == {SLOW}


def test_a_tier_that_nobody_can_serve_in_time_is_not_kept_for() -> None:
    rows = {name: {FAST: 0, SLOW: 40} for name in "abcd"}
    assert set(reservations(rows, {FAST: 0.6, SLOW: 0.4}).values()) == {SLOW}
    rows["c"] = {FAST: 5, SLOW: 40}
    assert reservations(rows, {FAST: 0.3, SLOW: 0.7})["c"] == FAST


@given(
    st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(0, 9), max_size=9),
    st.floats(0, 1),
    st.randoms(use_true_random=False),
)
def test_keepers_do_not_depend_on_the_order_and_more_demand_never_keeps_fewer(
    known: dict[str, int], share: float, rng: object
) -> None:
    rows = {name: {FAST: fast, SLOW: 20} for name, fast in known.items()}
    names = list(rows)
    rng.shuffle(names)  # type: ignore[attr-defined]
    found = reservations(rows, {FAST: share, SLOW: 1 - share})
    assert found == reservations({name: rows[name] for name in names}, {FAST: share, SLOW: 1 - share})
    more = reservations(rows, {FAST: (1 + share) / 2, SLOW: (1 - share) / 2})
    assert sum(tier == FAST for tier in more.values()) >= sum(tier == FAST for tier in found.values())


def test_the_mix_follows_and_survives_a_clock_that_jumps() -> None:
    mix = TierMix([FAST, SLOW])
    assert mix.shares() == {}
    for second in range(100):
        mix.asked(SLOW, float(second))
    for second in range(100, 100 + int(5 * MIX_S)):
        mix.asked(FAST, float(second))
    assert mix.shares()[FAST] > 0.98
    mix.asked(SLOW, 3.0)  # back in time: counted, nothing fades
    mix.asked(SLOW, 1e12)  # far ahead: only this one is left
    assert mix.shares()[SLOW] == pytest.approx(1.0)
    assert list(mix.shares()) == [FAST, SLOW]


def test_a_request_is_late_once_its_wait_has_used_up_its_objective() -> None:
    assert slo_state_of(TTFT_USE * 0.5 - 0.01, 0.5) is SloState.ON_TIME
    assert slo_state_of(TTFT_USE * 0.5 + 0.01, 0.5) is SloState.LATE


def test_a_tier_that_waits_gets_a_place_each_second() -> None:
    turns = StarvationGuard()
    turns.served(SLOW, 10.0)
    assert not turns.starved(SLOW, 10.0 + STARVED_S / 2)
    assert turns.starved(SLOW, 10.0 + STARVED_S)
    turns.served(SLOW, 12.0)
    assert not turns.starved(SLOW, 12.5)
    assert not turns.starved(SLOW, 3.0)  # the clock was set back: it counts from there
    assert turns.starved(SLOW, 3.0 + STARVED_S)
    assert not turns.starved(FAST, 50.0)
    assert turns.starved(FAST, 50.0 + STARVED_S)


@given(st.lists(st.tuples(st.floats(-1e9, 1e9), st.booleans()), max_size=20), st.floats(-1e9, 1e9))
def test_a_tier_that_waits_is_due_in_a_second_whatever_the_clock_did(
    past: list[tuple[float, bool]], now: float
) -> None:
    turns = StarvationGuard()
    for at, served in past:
        if served:
            turns.served(SLOW, at)
        else:
            turns.starved(SLOW, at)
    assert any(turns.starved(SLOW, now + step * STARVED_S / 4) for step in range(6))


# Routing by both.


def test_each_tier_goes_to_its_own_replicas_first_and_spills_where_there_is_room() -> None:
    fast, slow = replica("f", 3, FAST), replica("s", 3)
    assert picked(PREMIUM, fast, slow) == "f"
    assert picked(STANDARD, fast, slow) == "s"
    assert picked(PREMIUM, replica("f", 10, FAST), slow) == "s"  # still quick enough there
    assert picked(PREMIUM, replica("f", 10, FAST), replica("s", 10)) is None  # too slow: it waits
    assert picked(STANDARD, fast, replica("s", 40)) == "f"
    assert picked(STANDARD, replica("f", 10, FAST), replica("s", 40)) is None  # would slow the premium ones down


def test_where_no_replica_reaches_the_pace_a_request_takes_what_is_left() -> None:
    hopeless = {"rows": {FAST: 0, SLOW: 40}}
    assert picked(PREMIUM, replica("a", 39, **hopeless)) == "a"
    assert picked(PREMIUM, replica("a", 40, **hopeless)) is None
    assert picked(PREMIUM, replica("a", 0, **hopeless), replica("b", 9)) == "b"


def test_who_is_late_leaves_room_for_those_in_time_and_who_is_in_mid_sentence_always_goes_on() -> None:
    late, resumed = replace(STANDARD, slo_state=SloState.LATE), replace(STANDARD, slo_state=SloState.RESUMED)
    half = int(LATE_SHARE * 40)
    assert picked(late, replica("a", half - 1)) == "a"
    assert picked(late, replica("a", half)) is None
    assert picked(resumed, replica("a", 63)) == "a"
    assert picked(resumed, replica("a", 64)) is None
    assert picked(late, replica("a", 63, rows={})) == "a"  # nothing is known, nothing is held back


def test_a_long_line_of_prompts_is_passed_by_where_it_would_make_the_first_token_late() -> None:
    busy, calm = replica("a", 1, queued_prompt_tokens=9_000), replica("b", 20, queued_prompt_tokens=0)
    request = replace(STANDARD, prompt_tokens=2_000, left_s=1.0)
    assert picked(request, busy, calm) == "b"
    assert picked(replace(request, left_s=2.0), busy, calm) == "b"  # over half of the time left
    assert picked(replace(request, left_s=3.0), busy, calm) == "a"
    assert picked(request, replace(busy, prompt_tokens_per_second=0.0), calm) == "a"


def test_stale_reports_limit_nothing_but_the_capacity() -> None:
    assert picked(STANDARD, replica("a", 50, age_s=5.0)) == "a"


tiered = st.builds(
    replica, name=st.text("abcdefgh", min_size=1, max_size=4), load=st.integers(0, 70),
    reserved_for=st.sampled_from((None, FAST, SLOW)), age_s=st.sampled_from((0.0, 3.0, 10.1)),
    rows=st.one_of(
        st.just({}), st.tuples(st.integers(0, 20), st.integers(0, 60)).map(lambda r: {FAST: min(r), SLOW: max(r)})
    ),
    queued_prompt_tokens=st.sampled_from((0, 100, 50_000)),
)  # fmt: skip
fleets = st.lists(tiered, max_size=6, unique_by=lambda r: r.replica_id)
asked = st.builds(
    RequestView, tier=st.sampled_from((FAST, SLOW)), prompt_tokens=st.integers(1, 5000),
    slo_state=st.sampled_from(tuple(SloState)), left_s=st.sampled_from((0.1, 1.0, math.inf)),
)  # fmt: skip


@given(asked, fleets, st.integers(0, 9))
def test_nobody_is_made_to_fall_behind(request: RequestView, fleet: list[ReplicaView], seed: int) -> None:
    decision = route(request, fleet, STALENESS, seed)
    if decision.replica_id is None or request.slo_state is SloState.RESUMED:
        return
    view = next(view for view in fleet if view.replica_id == decision.replica_id)
    if view.age_s <= 2.0 and view.rows:
        kept = view.rows.get(view.reserved_for or "", 0)
        assert not kept or view.in_flight < kept
        if request.slo_state is SloState.ON_TIME and any(
            not v.rows or v.rows[request.tier] for v in fleet if v.age_s <= 10
        ):
            assert view.in_flight < view.rows[request.tier]


@given(asked, fleets, st.integers(0, 9))
def test_work_conserving(request: RequestView, fleet: list[ReplicaView], seed: int) -> None:
    """Nobody waits while an idle replica could serve it in time."""
    idle = [v for v in fleet if v.in_flight == 0 and v.age_s <= 2.0 and not v.queued_prompt_tokens]
    if any(not v.rows or v.rows[request.tier] > 0 for v in idle):
        assert route(request, fleet, STALENESS, seed).replica_id is not None


@given(asked, fleets, st.integers(0, 9))
def test_in_mid_sentence_no_objective_stands_in_the_way(
    request: RequestView, fleet: list[ReplicaView], seed: int
) -> None:
    resumed = replace(request, slo_state=SloState.RESUMED)
    room = any(v.in_flight < v.capacity and v.age_s <= 10 for v in fleet)
    decision = route(resumed, fleet, STALENESS, seed)
    assert (decision.replica_id is not None) == room
    if fleet and not room:
        assert decision.reason in (RouteReason.ALL_BUSY, RouteReason.NONE_READY)


@given(asked, fleets, st.integers(0, 9))
def test_less_load_never_sheds(request: RequestView, fleet: list[ReplicaView], seed: int) -> None:
    lighter = [replace(v, in_flight=v.in_flight // 2, running=v.running // 2, queued_prompt_tokens=0) for v in fleet]
    if route(request, fleet, STALENESS, seed).replica_id is not None:
        assert route(request, lighter, STALENESS, seed).replica_id is not None


@given(asked, fleets, st.integers(0, 9), st.randoms(use_true_random=False))
def test_order_does_not_matter(request: RequestView, fleet: list[ReplicaView], seed: int, rng: object) -> None:
    shuffled = list(fleet)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert route(request, fleet, STALENESS, seed) == route(request, shuffled, STALENESS, seed)


@given(asked, fleets, st.integers(0, 9))
def test_a_killed_replica_gets_nothing_and_its_return_restores_the_pick(
    request: RequestView, fleet: list[ReplicaView], seed: int
) -> None:
    before = route(request, fleet, STALENESS, seed)
    killed = [replace(v, ready=False) if v.replica_id == before.replica_id else v for v in fleet]
    if before.replica_id is not None:
        assert route(request, killed, STALENESS, seed).replica_id != before.replica_id
        assert route(request, list(reversed(fleet)), STALENESS, seed) == before


@given(fleets, st.integers(0, 9), st.integers(0, 20))
def test_no_priority_inversion(fleet: list[ReplicaView], seed: int, needed: int) -> None:
    """Of two requests that need the same rows, priority never makes the higher one the one that waits."""
    same = [replace(v, rows={FAST: needed, SLOW: needed}, reserved_for=None) if v.rows else v for v in fleet]
    if route(STANDARD, same, STALENESS, seed).replica_id is not None:
        assert route(PREMIUM, same, STALENESS, seed).replica_id is not None


# Pools of one mode.


@pytest.mark.parametrize(("load", "expected"), [(0, "ar"), (13, "ar"), (15, "fast"), (40, "fast")])
def test_a_replica_that_loses_least_is_preferred_within_its_guard(load: int, expected: str) -> None:
    """AR keeps only the standard pace: what it takes leaves room where the strict tier needs it."""
    ar, fast = replica("ar", load, rows={FAST: 0, SLOW: 40}), replica("fast", 4)
    assert picked(STANDARD, ar, fast) == expected
    assert picked(PREMIUM, ar, fast) == "fast"


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 40), st.integers(0, 40))
def test_lending_never_fills_a_replica_nor_turns_a_request_away(a: int, b: int, slow: int, strict: int) -> None:
    ar, fast = replica("ar", a, rows={FAST: 0, SLOW: slow}), replica("fast", b, rows={FAST: strict, SLOW: slow})
    able = {each.replica_id for each in (ar, fast) if each.load < slow}
    found = picked(STANDARD, ar, fast)
    assert found in able if able else found is None
