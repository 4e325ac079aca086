"""Events: transitions, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trimode_lab.doubles.kubernetes.cluster import MemoryCluster
from trimode_lab.doubles.kubernetes.fleet import fleets, replica, view
from trimode_operator.apply.events import EventRecord, post, transitions
from trimode_operator.errors import ApiFailure
from trimode_operator.observe.observations import Observations, Ray, Rollout
from trimode_operator.status.readiness import readiness_of
from trimode_operator.status.status import status_of

WELL = Observations(
    generation=1,
    routers=Rollout(1, 1, True),
    ray=Ray(True),
    fleets=fleets(view(replica())),
    minimum={"flex": 1},
    policy_version=1,
)
BAD = replace(WELL, problems=("spec.pools: wrong",), generation=2)


def told(before: Observations | None, after: Observations) -> list[tuple[bool, str]]:
    old = None if before is None else status_of(None, before, readiness_of(before), 1.0)
    new = status_of(old, after, readiness_of(after), 2.0)
    return [(one.warning, one.reason) for one in transitions(old, new)]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param(WELL, WELL, [], id="nothing happened"),
        pytest.param(None, WELL, [], id="the first look is no transition"),
        pytest.param(None, BAD, [(True, "InvalidSpec")], id="bad from the start"),
        pytest.param(WELL, BAD, [(True, "InvalidSpec")], id="became bad"),
        pytest.param(BAD, replace(BAD, generation=3), [], id="still bad in the same way"),
        pytest.param(BAD, replace(BAD, problems=("spec.tiers: wrong",)), [(True, "InvalidSpec")], id="bad otherwise"),
        pytest.param(BAD, WELL, [(False, "Ready")], id="good again"),
        pytest.param(
            WELL,
            replace(WELL, fleets=fleets(view())),
            [(True, "NotReady"), (True, "NotServing")],
            id="the last replica is gone",
        ),
        pytest.param(WELL, replace(WELL, policy_version=2), [], id="a policy on its way"),
        pytest.param(replace(WELL, policy_version=2), WELL, [], id="a policy that has arrived"),
        pytest.param(WELL, replace(WELL, deleting="drains"), [(False, "NotReady")], id="it goes, as asked"),
        pytest.param(
            WELL,
            replace(WELL, attainment={"a": 50}, objectives={"a": 95}),
            [(True, "NotSLOMet")],
            id="an objective is missed",
        ),
    ],
)
def test_transitions(before: Observations | None, after: Observations, expected: list[tuple[bool, str]]) -> None:
    assert told(before, after) == expected


RESOURCE = {"metadata": {"name": "nemo", "namespace": "default", "uid": "u1"}}


async def test_an_event_names_the_resource() -> None:
    cluster = MemoryCluster()
    await post(cluster, RESOURCE, EventRecord(True, "InvalidSpec", "x" * 5000))
    (event,) = cluster.objects.values()
    assert event["involvedObject"]["name"] == "nemo"
    assert event["involvedObject"]["uid"] == "u1"
    assert (event["type"], event["reason"]) == ("Warning", "InvalidSpec")
    assert len(event["message"]) == 1024


async def test_an_event_that_is_refused_is_lost_and_nothing_else() -> None:
    cluster = MemoryCluster()
    cluster.refuse = lambda *_: ApiFailure(403, "Forbidden", "no events for you")
    await post(cluster, RESOURCE, EventRecord(False, "Ready", ""))
    assert not cluster.objects
