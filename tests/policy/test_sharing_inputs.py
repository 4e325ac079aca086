"""What routers show of a fleet, read for those who split replicas between pools."""

from __future__ import annotations

import pytest

from trimode_api.fleet import Freshness
from trimode_api.resource import NemotronDeployment
from trimode_lab.doubles.kubernetes.fleet import replica, view
from trimode_policy.rebalance import Demand
from trimode_policy.sharing_inputs import LEAST_S, Sample, demand_of, merged, pace_of, sampled, shared_pools

PACES = ((1, 0.01), (4, 0.016))
SPEC = NemotronDeployment.parse(
    {
        "apiVersion": "trimode.dev/v1alpha1",
        "kind": "NemotronDeployment",
        "metadata": {"name": "n"},
        "spec": {
            "model": {"uri": "tiny://"},
            "pools": [
                {"name": "ar", "modes": ["AR"], "replicas": {"min": 1, "max": 3}},
                {"name": "fast", "modes": ["SelfSpeculation"], "replicas": {"min": 1, "max": 2}},
                {"name": "rough", "modes": ["Diffusion"]},
            ],
            "diffusion": {},
            "rebalancing": {"totalReplicas": 3},
        },
    }
).spec


def test_pools_as_the_routers_see_them() -> None:
    one = view(
        replica("a", "ar", paces=PACES),
        replica("b", "ar", draining=True),
        replica("c", "ar", freshness=Freshness.DEAD),
        replica("d", "fast", ready=False),
        replica("e", "rough"),
    )
    ar, fast = shared_pools(SPEC, [one])
    assert (ar.name, ar.there, ar.ready, ar.first, ar.most) == ("ar", 2, 1, True, 3)
    assert (fast.name, fast.there, fast.ready, fast.first) == ("fast", 1, 0, False)
    assert fast.pace(1) is None
    assert ar.pace(1) == 0.01


def test_what_a_pools_replicas_keep_of_prompts_in_the_seconds_it_took() -> None:
    kept = {"stored_pages": 500, "prompt_tokens_per_second": 4000.0}
    ar, fast = shared_pools(SPEC, [view(replica("a", "ar", **kept), replica("b", "ar"), replica("c", "fast"))])
    assert (ar.kept_s, fast.kept_s) == (500 * 16 / 4000.0 / 2, 0.0)


def test_a_replica_counts_once_as_seen_last() -> None:
    old = view(replica("a", "ar", age_seconds=2.0, running=5))
    new = view(replica("a", "ar", age_seconds=0.1, running=2))
    assert [found.running for found in merged([old, new])] == [2]


@pytest.mark.parametrize(("batch", "expected"), [(1, 0.01), (2, 0.012), (4, 0.016), (8, 0.016), (9, None)])
def test_paces_between_and_beyond_what_was_measured(batch: int, expected: float | None) -> None:
    found = pace_of([PACES, ()])(batch)
    assert found == (None if expected is None else pytest.approx(expected))


def test_the_demand_is_that_of_the_pools_and_of_those_who_wait() -> None:
    samples: tuple[Sample, ...] = ()
    one = view(replica("a", "ar", running=3, waiting=1), replica("e", "rough", running=50), queued=2)
    for second in range(int(LEAST_S) + 4):
        assert demand_of(samples) is None or second > LEAST_S
        samples = sampled(samples, [one], ["ar", "fast"], float(second))
    assert len(samples) < LEAST_S
    assert demand_of(samples) == Demand(6, 6)
    assert sampled(samples, [], ["ar"], 500.0) == samples, "nobody told anything"
    later = sampled(samples, [one], ["ar", "fast"], 500.0)
    assert [sample.at for sample in later] == [500.0]
