from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimode_api.modes import AR, Mode, OperatingPoint, diffusion, speculation
from trimode_policy.choose import (
    FREE_SWITCHES,
    PRICE_S,
    URGENT_SHARE,
    Batch,
    PointDecision,
    PointState,
    Reason,
    Switching,
    choose_point,
)
from trimode_policy.curves import Curves, Observation
from trimode_policy.probing import MAX_BUDGET_S, MAX_PROBE_CYCLES, ProbeBudget
from trimode_policy.roofline import Roofline

S8, S16, S32, D32 = speculation(8), speculation(16), speculation(32), diffusion(32, 0.9)
POINTS = (AR, S8, S16, S32)
SWITCHING = Switching(margin=0.05, min_dwell_s=0.5, fallback=AR)


def taught(prior: Roofline, seconds: dict[OperatingPoint, float], batch: int = 8, tokens: float = 5.0) -> Curves:
    """Curves that measured each point at `batch` for a while, interleaved, until time 0."""
    curves = Curves(tuple(seconds), prior)
    for i in range(150 * len(seconds)):
        point = list(seconds)[i // 10 % len(seconds)]  # in turns of ten cycles
        gained = batch if point == AR else round(batch * tokens)
        curves.observe(Observation(point, batch, 100.0, 0, seconds[point], gained), i / 100 - 1.5 * len(seconds))
    return curves


def settled(point: OperatingPoint, since: float = -100.0) -> PointState:
    return replace(PointState.initial(point, 0.0), since=since, budget=ProbeBudget(at=0.0, probed_at=0.0))


def ask(
    curves: Curves, state: PointState, now: float = 0.1, batch: int = 8, switching: Switching = SWITCHING,
    points: tuple[OperatingPoint, ...] = (AR, S8),
) -> tuple[PointDecision, PointState]:  # fmt: skip
    return choose_point(Batch(batch, 100.0), points, curves, state, switching, now)


# What a fresh engine starts with, pinned because others count on it.


def test_defaults() -> None:
    assert Switching() == Switching(margin=0.05, min_dwell_s=0.5, fallback=AR, fixed=None, dry_run=False)
    state = PointState.initial(AR, 7.0)
    assert (state.point, state.switches, state.probes, state.probe) == (AR, 0, 0, None)
    assert {str(r) for r in Reason} == {
        "PredictedGain", "Kept", "WithinMargin", "Dwell", "Unsure", "Probe", "NoData", "Manual", "Idle", "NotAllowed"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"), [("margin", -0.1), ("margin", 1.0), ("min_dwell_s", -1), ("min_dwell_s", math.inf)]
)
def test_switching_refuses_nonsense_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        Switching(**{field: value})


# One decision.


def test_a_clear_gain_is_taken_and_explained(tiny_prior: Roofline) -> None:
    curves = taught(tiny_prior, {AR: 0.003, S8: 0.010})
    decision, state = ask(curves, settled(AR))
    assert (decision.point, decision.reason) == (S8, Reason.PREDICTED_GAIN)
    assert decision.predicted_gain == pytest.approx(0.5, rel=0.05)
    assert "S8 2.0" in decision.detail
    assert "AR 3.0" in decision.detail
    assert (state.point, state.switches, state.since) == (S8, 1, 0.1)


def test_the_best_is_kept(tiny_prior: Roofline) -> None:
    curves = taught(tiny_prior, {AR: 0.003, S8: 0.010})
    decision, state = ask(curves, settled(S8))
    assert (decision.point, decision.reason, decision.predicted_gain) == (S8, Reason.KEPT, 0.0)
    assert state == replace(settled(S8), asked_at=0.1)


def held_until(curves: Curves, state: PointState, needed_s: float = math.inf) -> float:
    """Seconds until the point is left, asked every 50 ms."""
    now = 0.0
    while now < 60.0:
        _, state = choose_point(Batch(8, 100.0, needed_s), (AR, S8), curves, state, SWITCHING, now)
        if state.point != AR:
            return now
        now += 0.05
    return now


def test_after_many_switches_the_next_one_must_have_cost_something_first(tiny_prior: Roofline) -> None:
    curves = taught(tiny_prior, {AR: 0.003, S8: 0.010})  # a third of AR's time is lost
    calm, restless = settled(AR), replace(settled(AR, since=-1.0), recent=FREE_SWITCHES + 2.0)
    assert held_until(curves, calm) == 0.0
    price = PRICE_S * 2.0**2
    assert held_until(curves, restless) == pytest.approx(3 * price, rel=0.2)
    # Where someone in the batch misses the objective, a tenth of that is enough.
    assert held_until(curves, restless, needed_s=0.0025) == pytest.approx(3 * URGENT_SHARE * price, abs=0.15)
    assert held_until(curves, replace(restless, since=-5000.0)) == 0.0  # long ago


def test_what_is_lost_is_forgotten_while_the_point_is_the_better_one(tiny_prior: Roofline) -> None:
    curves = taught(tiny_prior, {AR: 0.002, S8: 0.015})
    state = replace(settled(AR, since=-1.0), lost_s=1.0, asked_at=0.0)
    _, later = ask(curves, state, now=0.5)
    assert 0.0 < later.lost_s < 1.0
    _, jumped = ask(curves, state, now=1e9)
    assert jumped.lost_s >= 0.0
    _, back = ask(curves, state, now=-1e9)
    assert back.lost_s == 1.0


def test_a_gain_within_the_margin_is_not(tiny_prior: Roofline) -> None:
    curves = taught(tiny_prior, {AR: 0.00206, S8: 0.010})
    decision, _ = ask(curves, settled(AR, since=0.0))
    assert (decision.point, decision.reason) == (AR, Reason.WITHIN_MARGIN)


def test_dwell_holds(tiny_prior: Roofline) -> None:
    curves = taught(tiny_prior, {AR: 0.003, S8: 0.010})
    decision, state = ask(curves, settled(AR, since=-0.3))
    assert (decision.point, decision.reason) == (AR, Reason.DWELL)
    assert ask(curves, state, now=0.21)[0].reason is Reason.PREDICTED_GAIN


def test_a_lasting_small_gain_is_taken_at_last(tiny_prior: Roofline) -> None:
    curves = taught(tiny_prior, {AR: 0.00208, S8: 0.010}, batch=64)
    assert ask(curves, settled(AR, since=0.0), batch=64)[0].reason is Reason.WITHIN_MARGIN
    assert ask(curves, settled(AR, since=-300.0), batch=64)[0].reason is Reason.PREDICTED_GAIN


def test_going_back_under_the_same_load_takes_the_full_margin(tiny_prior: Roofline) -> None:
    curves = taught(tiny_prior, {AR: 0.00208, S8: 0.010}, batch=64)
    back = replace(settled(AR, since=-300.0), left=S8, at_batch=64)
    assert ask(curves, back, batch=64)[0].reason is Reason.WITHIN_MARGIN


def test_a_fresh_engine_measures_where_it_stands_then_looks_around(tiny_prior: Roofline) -> None:
    curves, state = Curves(POINTS, tiny_prior), PointState.initial(AR, 0.0)
    for now in (0.0, 0.01):
        decision, state = ask(curves, state, now=now, points=POINTS)
        assert decision.point == AR
        curves.observe(Observation(AR, 8, 100.0, 0, 0.003, 8), now)
    decision, state = ask(curves, state, now=0.02, points=POINTS)
    assert decision.reason is Reason.PROBE
    assert decision.point != AR
    assert (state.point, state.switches, state.probes) == (AR, 0, 1)


def test_nothing_decodes(tiny_prior: Roofline) -> None:
    decision, state = ask(Curves(POINTS, tiny_prior), settled(S8), batch=0)
    assert (decision.point, decision.reason, state.point) == (S8, Reason.IDLE, S8)


def test_fixed(tiny_prior: Roofline) -> None:
    curves = taught(tiny_prior, {AR: 0.003, S8: 0.010})
    decision, state = ask(curves, settled(AR), switching=replace(SWITCHING, fixed=S16))
    assert (decision.point, decision.reason, state.switches) == (S16, Reason.MANUAL, 1)
    assert ask(curves, state, switching=replace(SWITCHING, fixed=S16))[1].switches == 1
    assert ask(curves, state, batch=0, switching=replace(SWITCHING, fixed=S16))[0].point == S16


def test_orders_do_not_make_later_switches_dear(tiny_prior: Roofline) -> None:
    curves, state = Curves(POINTS, tiny_prior), settled(AR)
    for point in (S16, AR) * 10:
        _, state = ask(curves, state, switching=replace(SWITCHING, fixed=point))
    assert (state.switches, state.recent) == (20, 0.0)


def test_missing_curves_mean_the_fallback() -> None:
    decision, _ = ask(Curves(POINTS, None), settled(S8))
    assert (decision.point, decision.reason) == (AR, Reason.NO_DATA)
    blind = Curves(POINTS, None)
    blind.observe(Observation(S8, 8, 100.0, 0, 0.01, 40), 0.0)  # only a rival of the fallback is known
    assert ask(blind, settled(S8))[0].reason is Reason.NO_DATA


def test_a_point_without_a_curve_is_never_run() -> None:
    curves = Curves(POINTS, None)
    now = 0.0
    state = PointState.initial(AR, now)
    for _ in range(300):
        decision, state = ask(curves, state, now=now)
        assert decision.point == AR
        now += 0.5
        curves.observe(Observation(AR, 8, 100.0, 0, 0.003, 8), now)


def test_a_point_no_longer_allowed_is_left_for_the_best(tiny_prior: Roofline) -> None:
    curves = taught(tiny_prior, {AR: 0.003, S8: 0.010, S16: 0.040})
    decision, _ = ask(curves, settled(S16, since=0.0))
    assert (decision.point, decision.reason) == (S8, Reason.NOT_ALLOWED)


def test_no_points_at_all_mean_the_fallback(tiny_prior: Roofline) -> None:
    assert ask(Curves(POINTS, tiny_prior), settled(S8), points=())[0].point == AR


def test_dry_run_decides_by_prediction_and_never_probes(tiny_prior: Roofline) -> None:
    curves = Curves(POINTS, tiny_prior)
    for i in range(50):
        curves.observe(Observation(AR, 1, 100.0, 0, tiny_prior.seconds(AR, 1, 100.0), 1), i / 100)
    decision, state = ask(
        curves, settled(AR), now=0.6, batch=1, switching=replace(SWITCHING, dry_run=True), points=POINTS
    )
    assert decision.reason is Reason.PREDICTED_GAIN
    assert decision.point.mode is Mode.SELF_SPECULATION
    assert state.probes == 0


# Probes.


def test_a_hopeless_probe_ends_early_and_is_paid_for(tiny_prior: Roofline) -> None:
    curves = taught(tiny_prior, {AR: 0.003, S8: 0.010})
    state = settled(S8)
    now, asked = 40.0, 0  # by now S16, which never ran, may be anything
    while asked < 100:
        decision, state = ask(curves, state, now=now, points=(AR, S8, S16))
        if decision.reason is not Reason.PROBE and asked:
            break
        slow = decision.reason is Reason.PROBE
        asked += slow
        cycle = 0.5 if slow else 0.010
        now += cycle
        curves.observe(Observation(decision.point, 8, 100.0, 0, cycle, 40), now)
    assert 1 <= asked <= 3
    assert state.budget.seconds < MAX_BUDGET_S - 0.3
    assert (state.point, state.switches) == (S8, 0)


def test_a_probe_that_measures_nothing_ends(tiny_prior: Roofline) -> None:
    curves = taught(tiny_prior, {AR: 0.003, S8: 0.010})
    state, reasons = settled(S8), []
    for i in range(3 * MAX_PROBE_CYCLES):
        decision, state = ask(curves, state, now=200.0 + i / 1000, points=POINTS)
        reasons.append(decision.reason)
    assert reasons[0] is Reason.PROBE
    assert reasons.count(Reason.PROBE) == MAX_PROBE_CYCLES
    assert ask(curves, state, now=206.0, points=POINTS)[0].reason is Reason.PROBE


def test_an_idle_mode_gets_its_turn_although_it_looks_bad(tiny_prior: Roofline) -> None:
    curves = taught(tiny_prior, {AR: 0.001, S8: 0.030})
    state = settled(AR)
    probed = []
    for i in range(1, 130):
        curves.observe(Observation(AR, 8, 100.0, 0, 0.001, 8), i - 0.5)
        decision, state = ask(curves, state, now=float(i))
        if decision.reason is Reason.PROBE:
            curves.observe(Observation(S8, 8, 100.0, 0, 0.030, 40), float(i))
            probed.append(i)
    assert probed
    assert 55 <= probed[0] <= 65
    assert probed[-1] >= 110


def test_a_clock_that_jumps_back_or_far_ahead_does_no_harm(tiny_prior: Roofline) -> None:
    curves = taught(tiny_prior, {AR: 0.003, S8: 0.010})
    state = settled(S8)
    for now in (1e9, -1e9, 0.0, 1e9):
        decision, state = ask(curves, state, now=now)
        assert decision.point in (AR, S8)
        curves.observe(Observation(decision.point, 8, 100.0, 0, 0.010, 40), now)
    assert state.budget.seconds <= MAX_BUDGET_S


# Properties.

COSTLY = settings(max_examples=settings.default.max_examples * 2 // 5)
"""Each case is a whole run: fewer of them, but as the profile goes so do these."""

seconds = st.floats(1e-4, 10.0)
rooflines = st.builds(
    Roofline, st.floats(1e9, 1e13), st.floats(1e9, 1e15), st.floats(0, 0.01),
    st.floats(1e6, 1e11), st.floats(1e6, 1e12), st.floats(0, 1e6),
)  # fmt: skip


def run(curves: Curves, truth: Roofline, state: PointState, batches: list[int], now: float, tokens: float) -> list[
    tuple[int, PointDecision]
]:  # fmt: skip
    """Follow the decisions through an engine without noise."""
    made = []
    for batch in batches:
        decision, state = choose_point(Batch(batch, 500.0), POINTS, curves, state, SWITCHING, now)
        cycle = truth.seconds(decision.point, batch, 500.0)
        gained = batch if decision.point == AR else round(batch * min(tokens, decision.point.block_length))
        now += cycle
        curves.observe(Observation(decision.point, batch, 500.0, 0, cycle, gained), now)
        made.append((batch, decision))
    return made


@COSTLY
@given(rooflines, rooflines, st.floats(1.0, 8.0))
def test_past_the_crossover_more_load_never_goes_back(truth: Roofline, prior: Roofline, tokens: float) -> None:
    """For any hardware and any prior: once AR is chosen under rising load, nothing slower is more than probed."""
    loads = [b for b in (1, 2, 4, 8, 16, 32, 64, 128, 256) for _ in range(40)]
    made = run(Curves(POINTS, prior), truth, PointState.initial(AR, 0.0), loads, 0.0, tokens)
    chosen = [(b, d.point) for b, d in made if d.reason is not Reason.PROBE and b > 1]
    left = next((i for i, ((_, p), (_, q)) in enumerate(pairwise(chosen)) if p != AR and q == AR), len(chosen))
    for batch, point in chosen[left + 1 :]:
        gained = 1.0 if point == AR else min(tokens, point.block_length)
        assert truth.seconds(point, batch, 500.0) / gained <= truth.seconds(AR, batch, 500.0) * (1 + 1e-9)


@COSTLY
@given(st.lists(st.tuples(st.integers(0, 300), seconds, st.integers(1, 32)), min_size=1, max_size=200), st.floats(0, 3))
def test_switches_are_bounded_by_time_over_dwell(load: list[tuple[int, float, int]], dwell: float) -> None:
    """Whatever load, speed and acceptance do."""
    curves = Curves(POINTS, Roofline(1e10, 8e10, 2e-3, 7e6, 3.5e6, 2048))
    switching, state, now = Switching(min_dwell_s=dwell), PointState.initial(AR, 0.0), 0.0
    for batch, cycle, tokens in load:
        decision, state = choose_point(Batch(batch, 100.0), POINTS, curves, state, switching, now)
        assert decision.point in POINTS
        now += cycle
        gained = batch * min(tokens, decision.point.block_length)
        curves.observe(Observation(decision.point, batch, 100.0, 0, cycle, gained), now)
    assert dwell == 0 or state.switches <= now / dwell + 1


@COSTLY
@given(st.lists(st.tuples(st.floats(-1e9, 1e9), st.integers(0, 300), seconds), min_size=1, max_size=60), st.booleans())
def test_whatever_the_clock_does_a_point_is_chosen_and_the_budget_stays_bounded(
    load: list[tuple[float, int, float]], mad_machine: bool
) -> None:
    """What is best is promised to be found soon only where the machine was itself: one that was ten times slower for a
    moment is believed for as long as the budget needs to fill."""
    curves, state = Curves(POINTS, Roofline(1e10, 8e10, 2e-3, 7e6, 3.5e6, 2048)), PointState.initial(AR, 0.0)
    for now, batch, cycle in load:
        decision, state = choose_point(Batch(batch, 100.0), POINTS, curves, state, SWITCHING, now)
        assert decision.point in POINTS
        assert state.budget.seconds <= MAX_BUDGET_S
        took = cycle if mad_machine else 0.1 if decision.point == AR else 0.5
        curves.observe(Observation(decision.point, batch, 100.0, 0, took, batch), now + took)
    after = load[-1][0]
    for cycle in range(400):  # then it behaves again: what is best is found
        decision, state = choose_point(Batch(8, 100.0), POINTS, curves, state, SWITCHING, after + cycle / 10)
        slow = 0.1 if decision.point == AR else 0.5
        curves.observe(Observation(decision.point, 8, 100.0, 0, slow, 8), after + cycle / 10)
    assert mad_machine or state.point == AR


@COSTLY
@given(st.tuples(seconds, seconds, seconds, seconds), st.sampled_from(POINTS))
def test_what_is_chosen_is_within_the_margin_of_the_best(
    cycles: tuple[float, float, float, float], start: OperatingPoint
) -> None:
    curves = taught(Roofline(1e10, 8e10, 2e-3, 7e6, 3.5e6, 2048), dict(zip(POINTS, cycles, strict=True)))
    decision, _ = ask(curves, settled(start), points=POINTS)
    known = curves.estimates(POINTS, 8, 100.0, 0.1)
    pace = {e.point: e.pace for e in known}
    if decision.reason in (Reason.KEPT, Reason.WITHIN_MARGIN, Reason.PREDICTED_GAIN):
        assert pace[decision.point] <= 1.05 * min(pace.values()) * (1 + 1e-9)


@COSTLY
@given(st.tuples(seconds, seconds, seconds, seconds), st.permutations(POINTS), st.sampled_from(POINTS))
def test_the_order_of_points_does_not_matter(
    cycles: tuple[float, ...], order: list[OperatingPoint], start: OperatingPoint
) -> None:
    curves = taught(Roofline(1e10, 8e10, 2e-3, 7e6, 3.5e6, 2048), dict(zip(POINTS, cycles, strict=True)))
    paces = [e.pace for e in curves.estimates(POINTS, 8, 100.0, 0.1)]
    if len(set(paces)) == len(paces):
        assert ask(curves, settled(start), points=POINTS)[0] == ask(curves, settled(start), points=tuple(order))[0]


@COSTLY
@given(st.tuples(seconds, seconds, seconds, seconds))
def test_scaling_every_cycle_time_changes_nothing(cycles: tuple[float, ...]) -> None:
    prior = Roofline(1e10, 8e10, 2e-3, 7e6, 3.5e6, 2048)
    plain = taught(prior, dict(zip(POINTS, cycles, strict=True)))
    scaled = taught(prior, {p: 8 * c for p, c in zip(POINTS, cycles, strict=True)})
    one, other = ask(plain, settled(AR), points=POINTS)[0], ask(scaled, settled(AR), points=POINTS)[0]
    assert one.reason in (other.reason, Reason.PROBE) or other.reason is Reason.PROBE
    if Reason.PROBE not in (one.reason, other.reason):
        assert one.point == other.point


@COSTLY
@given(rooflines, rooflines, st.integers(1, 200), st.floats(1.0, 8.0))
def test_under_constant_load_switches_end(truth: Roofline, prior: Roofline, batch: int, tokens: float) -> None:
    made = run(Curves(POINTS, prior), truth, PointState.initial(AR, 0.0), [batch] * 600, 0.0, tokens)
    late = [d.point for _, d in made[300:] if d.reason is not Reason.PROBE]
    changes = sum(1 for p, q in pairwise(late) if p != q)
    assert changes <= 1
