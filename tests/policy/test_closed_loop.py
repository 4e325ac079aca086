"""The policy in a loop with an engine whose curves are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from trimode_api.modes import AR, Mode, speculation
from trimode_policy.choose import Reason
from trimode_policy.roofline import Roofline

RISE = (1, 2, 4, 8, 16, 24, 32, 48, 64)
FALL = tuple(reversed(RISE[:-1]))
WRONG = {
    "compute five times too slow": Roofline(10e9, 15e9, 2e-4, 7e6, 3.5e6, 2048),
    "a GPU's": Roofline(3e12, 4e14, 1e-5, 7e6, 3.5e6, 2048),
}
Make = Callable[..., Any]


@pytest.mark.parametrize("seed", range(3))
def test_rise_and_fall_is_within_five_percent_of_the_best_static_point(engine: Make, seed: int) -> None:
    run = engine(seed=seed)
    run.stage(1, 5.0)  # a fresh engine learns
    for batch in RISE + FALL:
        stage = run.stage(batch, 10.0)
        assert stage.settled_ratio >= 0.95, stage
        assert stage.ratio >= 0.94, stage
        assert stage.switches <= 2, stage
        assert stage.late_switches <= 1, stage


@pytest.mark.parametrize("seed", range(3))
def test_start_up_costs_little(engine: Make, seed: int) -> None:
    assert engine(seed=seed).stage(1, 5.0).ratio >= 0.87


@pytest.mark.parametrize("prior", WRONG.values(), ids=WRONG.keys())
@pytest.mark.parametrize("batch", [1, 16, 64])
def test_a_wrong_prior_is_overcome(engine: Make, prior: Roofline, batch: int) -> None:
    run = engine(seed=7, prior=prior)
    run.stage(batch, 15.0)
    assert run.stage(batch, 30.0).ratio >= 0.95


@pytest.mark.parametrize("batch", [1, 12, 64])
@pytest.mark.parametrize("seed", range(2))
def test_at_most_one_switch_in_two_minutes_of_constant_load(engine: Make, batch: int, seed: int) -> None:
    run = engine(seed=seed, wander=0.2)
    run.stage(batch, 8.0)
    stage = run.stage(batch, 120.0)
    assert stage.switches <= 1
    assert stage.late_switches == 0
    assert stage.ratio >= 0.96


@pytest.mark.parametrize("seed", range(3))
def test_past_the_crossover_more_load_never_returns_to_speculation(engine: Make, seed: int) -> None:
    run = engine(seed=seed)
    crossed = False
    for batch in RISE:
        stage = run.stage(batch, 6.0)
        assert not crossed or stage.seen == {AR}
        crossed = run.state.point == AR
    assert crossed


def test_probes_cost_at_most_two_percent_and_are_no_switches(engine: Make) -> None:
    run = engine(seed=3)
    run.stage(8, 10.0)
    start, switches = run.now, run.state.switches
    wasted = 0.0
    best = run.best_rate(8)
    while run.now < start + 150.0:
        ideal, tokens = run.cycle(8)
        if run.decisions[-1][1].reason is Reason.PROBE:
            wasted += max(0.0, ideal - tokens / best)
    assert run.state.switches == switches
    assert wasted < 0.02 * 150.0
    idle_modes = {d.point.mode for t, d in run.decisions if t > start and d.reason is Reason.PROBE}
    assert Mode.AR in idle_modes  # speculation runs, and AR had its turn


def test_falling_acceptance_leads_to_ar_and_its_return_back(engine: Make) -> None:
    run = engine(seed=5)
    run.stage(4, 10.0)
    assert run.state.point.mode is Mode.SELF_SPECULATION
    usual = dict(run.tokens)
    run.tokens.update({p: 1.3 for p in usual if p != AR})
    run.stage(4, 15.0)
    assert run.state.point == AR
    assert run.stage(4, 30.0).settled_ratio >= 0.97
    run.tokens.update(usual)
    run.stage(4, 70.0)
    assert run.state.point.mode is Mode.SELF_SPECULATION


def test_a_point_that_turns_slow_is_left(engine: Make) -> None:
    run = engine(seed=2)
    run.stage(16, 10.0)
    assert run.state.point == speculation(8)
    run.slowdown[speculation(8)] = 2.5
    run.stage(16, 10.0)
    assert run.stage(16, 10.0).ratio >= 0.95
    assert run.curves.alarms >= 1


def test_a_machine_that_turns_slow_as_a_whole_changes_nothing(engine: Make) -> None:
    run = engine(seed=2)
    run.stage(8, 15.0)
    switches, point = run.state.switches, run.state.point
    run.slowdown.update(dict.fromkeys(run.points, 1.6))
    run.stage(8, 20.0)
    assert (run.state.switches, run.state.point) == (switches, point)


def test_a_sudden_jump_of_load_is_followed_within_a_second(engine: Make) -> None:
    run = engine(seed=1)
    run.stage(1, 10.0)
    assert run.state.point.mode is Mode.SELF_SPECULATION
    run.stage(64, 1.5)
    assert run.state.point == AR


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("slow", [5.0, 20.0])
def test_two_equal_points_do_not_hide_a_third_that_has_become_fast(engine: Make, seed: int, slow: float) -> None:
    """Cycles of half a second, which comparing two equals used to pay for with all of the budget."""
    s8, s16 = speculation(8), speculation(16)
    run = engine(seed=seed, points=(AR, s8, s16), wander=0.05)
    run.slowdown.update({s8: 40.0, s16: 33.0, AR: 40.0 * slow})
    run.stage(16, 60.0)
    run.slowdown[AR] = 10.0
    run.stage(16, 130.0)
    assert run.state.point == AR
