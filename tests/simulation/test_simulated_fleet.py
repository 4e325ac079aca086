"""The simulated fleet: nothing is lost, everything repeats, queues obey theory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trimode_api.modes import AR, OperatingPoint
from trimode_policy import fair_queue
from trimode_policy.fair_queue import FairQueue
from trimode_tools.simulator.cost_model import Truth
from trimode_tools.simulator.fleet import Fleet
from trimode_tools.simulator.policies import fleet_for, policy_names
from trimode_tools.simulator.ports import Outage
from trimode_tools.simulator.rows import EngineLimits, Request, is_late, join
from trimode_tools.simulator.scenario import Scenario
from trimode_tools.simulator.workload import Goal, Job, spikes, steps

Run = Any


def jobs(rate: float, seconds: float, seed: int = 1) -> list[Job]:
    return list(steps(rate, seconds).jobs(2, 2, Random(seed)))


def ended(fleet: Fleet) -> tuple[int, int]:
    account = fleet.account
    return sum(account.offered), sum(account.finished) + sum(account.refused)


@pytest.mark.parametrize("switch_s", [0.0, 5.0])
def test_every_policy_ends_every_request_once(scenario: Scenario, run: Run, switch_s: float) -> None:
    world = replace(scenario, switch_s=switch_s, outages=(Outage(1, 5.0, 12.0),))
    load = jobs(40.0, 20.0)
    for policy in policy_names(world)[:-1]:
        offered, over = ended(run(policy, world, load))
        assert offered == over == len(load), policy


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    arrivals=st.lists(
        st.tuples(st.floats(0, 5), st.integers(1, 3000), st.integers(1, 300), st.integers(0, 1), st.integers(0, 1)),
        max_size=60,
    ),
    rows=st.integers(1, 8),
    capacity=st.integers(3500, 12000),
    outage=st.tuples(st.integers(0, 1), st.floats(0, 4), st.floats(0.1, 4)),
    policy=st.sampled_from(["static:S8", "split", "hysteresis", "trimode"]),
    switch_s=st.sampled_from([0.0, 2.0]),
)
def test_conservation(
    scenario: Scenario,
    arrivals: list[tuple[float, int, int, int, int]],
    rows: int,
    capacity: int,
    outage: tuple[int, float, float],
    policy: str,
    switch_s: float,
) -> None:
    index, since, length = outage
    world = replace(
        scenario,
        replicas=2,
        limits=EngineLimits(rows, float(capacity)),
        outages=(Outage(index, since, since + length),),
        switch_s=switch_s,
        max_queued=10,
    )
    fleet = fleet_for(policy, world, Random(0))
    for row in sorted(arrivals):
        fleet.offer(Job(*row))
    fleet.settle()
    offered, over = ended(fleet)
    assert offered == over == len(arrivals)
    assert fleet.account.ttft.total == sum(fleet.account.finished)
    assert all(member.engine.in_flight == 0 for member in fleet.members)
    assert all(member.engine.context == pytest.approx(0.0, abs=1e-3) for member in fleet.members)


def test_the_same_seed_gives_the_same_run(scenario: Scenario, run: Run) -> None:
    load = jobs(40.0, 15.0)
    once, again, other = (run("trimode", scenario, load, seed) for seed in (3, 3, 4))
    assert once.account == again.account
    assert once.account != other.account


def test_a_dead_replica_gets_nothing_and_its_requests_end_elsewhere(scenario: Scenario) -> None:
    world = replace(scenario, outages=(Outage(0, 2.0, 1e6),))
    fleet = fleet_for("static:S8", world, Random(0))
    load = jobs(24.0, 10.0)  # what three replicas carry without refusing anybody
    for job in load:
        fleet.offer(job)
        if job.at > 2.0:
            assert fleet.members[0].engine.in_flight == 0
    fleet.settle()
    assert sum(fleet.account.finished) == len(load)


def test_a_conversion_drains_then_takes_its_seconds(scenario: Scenario) -> None:
    from trimode_tools.simulator.pools import AR_POOL, fixed_spec
    from trimode_tools.simulator.ports import Phase

    fleet = fleet_for("static:S8", replace(scenario, switch_s=5.0), Random(0))
    fleet.offer(Job(0.0, 1000, 200, 0, 0))
    member = next(m for m in fleet.members if m.engine.in_flight)
    fleet.convert(member, fixed_spec(AR_POOL, AR))
    assert member.phase is Phase.DRAINING
    fleet.advance(1.0)
    assert member.phase is Phase.LOADING
    assert sum(fleet.account.finished) == 1  # it finished what it held
    fleet.advance(5.0)
    assert member.phase is Phase.LOADING
    fleet.advance(7.0)
    assert member.phase is Phase.READY
    assert member.pool == AR_POOL
    assert fleet.account.moves == 1


def test_memory_does_not_grow_with_the_load(scenario: Scenario, run: Run) -> None:
    """What a fleet holds at the end is the same after ten times the requests."""

    def held(seconds: float) -> int:
        fleet = fleet_for("static:S8", scenario, Random(0))
        most = 0
        for job in spikes(25.0, seconds).jobs(2, 2, Random(0)):
            fleet.offer(job)
            most = max(most, len(fleet.events) + sum(len(h) for m in fleet.members for h in m.engine.ends))
        fleet.settle()
        buckets = len(fleet.account.ttft.counts) + len(fleet.account.tpot.counts)
        assert buckets < 2000
        return most

    assert held(240.0) < 2.0 * held(80.0)


@dataclass(frozen=True)
class OneSecond:
    """Every cycle takes a second, prompts nothing."""

    def seconds(self, point: OperatingPoint, batch: int, context_tokens: float) -> float:
        return 1.0

    def prefill_seconds(self, tokens: int, point: OperatingPoint | None = None) -> float:
        return 0.0


def test_one_row_is_an_m_d_1_queue(scenario: Scenario) -> None:
    """Mean wait of M/D/1 at load 0.6: rho / (2 (1 - rho)) services (Pollaczek and Khinchine)."""
    world = replace(
        scenario,
        truth=Truth(OneSecond(), (5.0,)),
        replicas=1,
        limits=EngineLimits(1, 1e9, noise=0.0),
        goals=(Goal("all", 1e9, 1e9, 0),),
        max_wait_s=1e9,
        max_queued=10**9,
    )
    fleet = fleet_for("static:AR", world, Random(0))
    rng, now, rho, waits = Random(5), 0.0, 0.6, 0.0
    starts = 0.0
    count = 10_000
    for _ in range(count):
        now += rng.expovariate(rho)
        starts = max(starts, now) + 1.0  # Lindley's recursion, the judge
        waits += starts - now - 1.0
        fleet.offer(Job(now, 1, 1, 0, 0))
    fleet.settle()
    mean_ttft = (
        sum(
            n * 1e-5 * 2.718281828459045 ** ((b + 0.5) * 0.009950330853168092)
            for b, n in fleet.account.ttft.counts.items()
        )
        / fleet.account.ttft.total
    )
    assert mean_ttft - 1.0 == pytest.approx(waits / count, rel=0.02)
    assert mean_ttft - 1.0 == pytest.approx(rho / (2 * (1 - rho)), rel=0.15)


def test_priority_goes_first_in_the_router_queue(scenario: Scenario) -> None:
    world = replace(scenario, replicas=1, limits=EngineLimits(1, 1e9, noise=0.0))
    fleet = fleet_for("static:AR", world, Random(0))
    fleet.offer(Job(0.0, 10, 200, 1, 0))
    fleet.offer(Job(0.001, 10, 5, 1, 0))
    fleet.offer(Job(0.002, 10, 5, 0, 0))
    assert sorted(ticket.item.job.tier for ticket in fleet.queue) == [0, 1]
    fleet.settle()
    assert fleet.account.refused == [0, 0]


def test_where_more_come_than_can_be_served_short_prompts_pass_long_ones(
    scenario: Scenario, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the prompts are ten times as long: more requests are in time than by age alone."""
    load = [replace(job, prompt=200 if i % 2 else 2000) for i, job in enumerate(jobs(90.0, 30.0))]
    by_length = run("trimode", scenario, load).account
    monkeypatch.setattr(fair_queue, "PROMPT_WEIGHT", 0.0)
    by_age = run("trimode", scenario, load).account
    assert by_length.good[0] > 1.1 * by_age.good[0]
    assert sum(by_length.good) > sum(by_age.good)


def test_who_waits_is_served_by_claim_then_priority_and_passes_by_who_fits_nowhere() -> None:
    goals = (Goal("premium", 0.5, 0.004, 10), Goal("standard", 1.0, 0.012, 0))
    queue: FairQueue[Request] = FairQueue()
    asked = [Request(Job(at, 10, 5, tier, 0), order) for order, (at, tier) in enumerate([(0.0, 1), (9.8, 1), (9.9, 0)])]
    resumed = Request(Job(0.0, 10, 5, 1, 0), 3, emitted=2.0, first_at=0.5)
    for request in (*asked, resumed):
        join(queue, request, goals[request.job.tier], max_wait_s=0.2)
    served: list[int] = []

    def put(request: Request) -> bool:
        if request.order == 2:
            return False  # the premium one fits nowhere
        served.append(request.order)
        return True

    queue.offer(lambda request: is_late(request, goals[request.job.tier], 10.0), put)
    assert served == [3, 1, 0]  # in mid-sentence, in time, late
    assert [ticket.item.order for ticket in queue] == [2]
    assert queue.below(10) == 0
    assert [ticket.item.order for ticket in queue.expired(10.2)] == [2]
    assert len(queue) == 0


def test_premium_requests_get_their_pace_beside_standard_ones(scenario: Scenario, run: Run) -> None:
    """Under overload the strict tier keeps what its share of the replicas carries."""
    load = jobs(70.0, 40.0)
    account = run("trimode", scenario, load).account
    assert account.attainment(0) > 50.0
    assert account.attainment(1) > 50.0


def test_a_flood_of_urgent_requests_starves_nobody(scenario: Scenario, run: Run) -> None:
    """One full replica that reports no paces, so that priority alone decides: the others still get a place a second."""
    world = replace(scenario, replicas=1, limits=EngineLimits(4, 500_000.0), max_wait_s=3.0, max_queued=100_000)
    flood = [Job(0.02 * i, 200, 40, 0, 0) for i in range(1000)]
    calm = [Job(1.0 + 2.0 * i, 200, 40, 1, 0) for i in range(8)]
    account = run("hysteresis", world, sorted(flood + calm, key=lambda job: job.at)).account
    assert account.refused[0] + account.finished[0] == 1000
    assert account.refused[0] > 100  # it really was a flood
    assert account.finished[1] >= 7
