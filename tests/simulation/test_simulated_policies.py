"""What the comparison must be able to show."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from trimode_api.modes import AR, speculation
from trimode_tools.simulator.bound import upper_bound
from trimode_tools.simulator.cost_model import ProfiledHardware, Truth
from trimode_tools.simulator.measures import Histogram, Series
from trimode_tools.simulator.oracle import Search, best_found, searches
from trimode_tools.simulator.policies import fleet_for, policy_names
from trimode_tools.simulator.scenario import Scenario
from trimode_tools.simulator.workload import steps

Run = Any


def test_names(scenario: Scenario) -> None:
    assert policy_names(scenario) == (
        "static:AR",
        "static:S8",
        "static:S16",
        "static:S32",
        "split",
        "hysteresis",
        "trimode",
        "oracle",
    )
    with pytest.raises(ValueError, match="'static' is not one of static:AR"):
        fleet_for("static", scenario, Random(0))


def test_a_split_begins_as_trimode_does_and_stays(scenario: Scenario, run: Run) -> None:
    world = replace(scenario, switch_s=5.0)
    begun = [member.pool for member in fleet_for("trimode", world, Random(0)).members]
    fleet = run("split:S16", world, steps(45.0, 16.0).jobs(2, 2, Random(2)))
    assert [member.pool for member in fleet.members] == begun
    assert set(fleet.account.seconds_at) == {AR, speculation(16)}
    assert fleet.account.moves == fleet.account.switches == 0


def test_few_users_make_trimode_speculate_and_many_make_it_leave(scenario: Scenario, run: Run) -> None:
    def mean_block(rate: float) -> float:
        account = run("trimode", scenario, steps(rate, 30.0).jobs(2, 2, Random(2))).account
        total = sum(account.seconds_at.values())
        return sum(point.block_length * seconds for point, seconds in account.seconds_at.items()) / total

    calm, busy = mean_block(8.0), mean_block(120.0)
    assert calm > 16.0
    assert busy < 0.6 * calm


def test_trimode_beats_the_wrong_static_choice(scenario: Scenario, run: Run) -> None:
    load = list(steps(35.0, 40.0).jobs(2, 2, Random(2)))
    good = {name: sum(run(name, scenario, load).account.good) for name in ("static:AR", "trimode")}
    assert good["trimode"] > 1.2 * good["static:AR"]


@pytest.mark.parametrize("switch_s", [0.0, 5.0])
def test_the_oracle_lies_between_the_policies_and_the_bound(scenario: Scenario, run: Run, switch_s: float) -> None:
    world = replace(scenario, switch_s=switch_s)
    load = list(steps(45.0, 16.0).jobs(2, 2, Random(2)))
    search, done = Search(window_s=4.0, width=1), []
    found = best_found(world, load, search, lambda: (Random(0), Series(1.0, 16)), lambda: done.append(1))
    best = sum(found.account.good)
    # A search of one plan at a time over pools is no bound: one that lets AR take the standard requests first was 1.5 %
    # better, which the comparison counts as the oracle's.
    for policy in ("static:AR", "static:S8", "trimode"):
        assert sum(run(policy, world, load).account.good) <= 1.02 * best
    bound = upper_bound(world, load)
    assert bound is not None
    assert best <= bound + 1e-6
    assert abs(len(done) - searches(world, search, 16.0)) <= 1


def test_the_bound_bites_when_nothing_could_carry_the_load(scenario: Scenario) -> None:
    load = list(steps(400.0, 10.0).jobs(2, 2, Random(2)))
    bound = upper_bound(scenario, load)
    assert bound is not None
    assert bound < 0.85 * len(load)
    half = upper_bound(replace(scenario, replicas=2), load)
    assert half is not None
    assert half < bound


def test_no_bound_where_the_truth_is_no_roofline(scenario: Scenario) -> None:
    world = replace(scenario, truth=Truth(ProfiledHardware(scenario.prior, {}), (5.0,)))
    assert upper_bound(world, []) is None


def test_drift_changes_what_is_accepted(scenario: Scenario) -> None:
    truth = Truth(scenario.prior, (7.0,), drift=((10.0, 0.5),))
    assert truth.tokens(speculation(32), 0.0) == (7.0,)
    assert truth.tokens(speculation(32), 10.0) == (4.0,)
    assert truth.tokens(AR, 10.0) == (1.0,)


def test_percentiles_are_within_their_bucket() -> None:
    histogram = Histogram()
    for i in range(1, 1001):
        histogram.add(i / 1000.0)
    assert histogram.percentile(50) == pytest.approx(0.5, rel=0.01)
    assert histogram.percentile(99) == pytest.approx(0.99, rel=0.01)
    assert Histogram().percentile(50) == 0.0
