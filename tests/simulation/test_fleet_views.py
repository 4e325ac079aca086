"""What is kept up to date change by change is what looking at the whole fleet would say."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from trimode_api.modes import AR
from trimode_policy.route import RequestView, spare
from trimode_tools.simulator.policies import fleet_for
from trimode_tools.simulator.pools import AR_POOL, fixed_spec
from trimode_tools.simulator.ports import Outage, Phase
from trimode_tools.simulator.production import ProductionDispatcher
from trimode_tools.simulator.scenario import Scenario
from trimode_tools.simulator.workload import steps


@pytest.mark.parametrize("policy", ["trimode", "static:S8"])
def test_kept_views_and_sums_are_those_of_the_whole_fleet(scenario: Scenario, policy: str) -> None:
    world = replace(scenario, outages=(Outage(1, 3.0, 6.0),), switch_s=1.0)
    fleet = fleet_for(policy, world, Random(0))
    assert isinstance(fleet.dispatcher, ProductionDispatcher)
    dispatcher, kept = fleet.dispatcher, fleet.dispatcher.sight
    compared = 0
    for job in steps(60.0, 8.0).jobs(2, 2, Random(1)):
        fleet.offer(job)
        if compared == 60:
            fleet.convert(fleet.members[2], fixed_spec(AR_POOL, AR))
        views = kept.update(fleet, dispatcher.mix)
        assert [(v.replica_id, v.pool, v.ready, v.draining, v.in_flight, v.running) for v in views] == [
            (str(m.index), m.pool, m.phase is Phase.READY, m.phase is Phase.DRAINING, m.engine.in_flight, m.running)
            for m in fleet.members
        ]
        ready = [view for view in views if view.ready]
        assert kept.in_flight == sum(view.in_flight for view in ready)
        assert (kept.ready, kept.paced) == (len(ready), sum(bool(view.rows) for view in ready))
        assert kept.spare == spare(RequestView(), ready)
        for tier in kept.tiers:
            assert kept.capacity[tier] == sum(view.tier_capacity.get(tier, view.capacity) for view in ready)
        compared += 1
    assert compared > 100
    assert fleet.members[2].pool == AR_POOL
