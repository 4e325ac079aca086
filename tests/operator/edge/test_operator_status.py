"""The status over time: nothing moves that has not changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from trimode_api.status import DecisionStatus, Status, format_time, parse_time
from trimode_lab.doubles.kubernetes.fleet import change, fleets, replica, view
from trimode_operator.observe.observations import (
    Observations,
    Ray,
    Rollout,
    minimum_of,
    ray_of,
    rollout_of,
)
from trimode_operator.status import status as made
from trimode_operator.status.readiness import readiness_of
from trimode_operator.status.reasons import ConditionType
from trimode_operator.status.status import (
    AT_ONCE_S,
    HISTORY,
    LIVELY_S,
    SOON_S,
    STEADY_S,
    condition,
    requeue_after_s,
)


def status_of(before: Status | None, seen: Observations, now: float) -> Status:
    return made.status_of(before, seen, readiness_of(seen), now)


SEEN = Observations(
    generation=1,
    routers=Rollout(1, 1, True),
    ray=Ray(True),
    fleets=fleets(view(replica())),
    minimum={"flex": 1},
    policy_version=1,
    url="http://nemo",
)


def test_an_unchanged_resource_keeps_its_status_to_the_letter() -> None:
    first = status_of(None, SEEN, 2000.0)
    # Later, and with the small differences in time that every look at a router shows.
    again = replace(SEEN, fleets=fleets(view(replica(decided_for=65.4, age_seconds=0.2), time=1060.7)))
    assert status_of(first, again, 2060.0) == first


def test_only_the_condition_that_moved_gets_a_new_time() -> None:
    first = status_of(None, SEEN, 2000.0)
    second = status_of(first, replace(SEEN, minimum={"flex": 2}), 2100.0)
    moved = {one.type for one in second.conditions if one.last_transition_time == format_time(2100)}
    assert moved == {"Ready", "WorkersReady", "Progressing"}


def test_a_new_reason_is_no_transition() -> None:
    first = status_of(None, replace(SEEN, minimum={"flex": 2}), 2000.0)
    second = status_of(first, replace(SEEN, problems=("bad",)), 2100.0)
    old, new = condition(first, ConditionType.READY), condition(second, ConditionType.READY)
    assert old is not None
    assert new is not None
    assert (old.reason, new.reason) == ("PoolsNotReady", "InvalidSpec")
    assert old.last_transition_time == new.last_transition_time


def test_every_condition_speaks_of_the_generation_that_was_looked_at() -> None:
    status = status_of(None, replace(SEEN, generation=7), 2000.0)
    assert status.observed_generation == 7
    assert {one.observed_generation for one in status.conditions} == {7}


def test_what_was_known_of_the_fleet_stays_while_no_router_answers() -> None:
    first = status_of(None, SEEN, 2000.0)
    second = status_of(first, replace(SEEN, fleets=fleets(silent=1)), 2100.0)
    assert second.pools == first.pools
    assert second.decision == first.decision
    assert second.replica_summary == first.replica_summary == "1/1"
    found = condition(second, ConditionType.METRICS_FRESH)
    assert found is not None
    assert found.status.value == "False"


def test_suspended_pools_have_nothing() -> None:
    first = status_of(None, SEEN, 2000.0)
    status = status_of(first, replace(SEEN, suspend=True, fleets=fleets(), routers=Rollout(0, 0, True)), 2100.0)
    assert [(pool.name, pool.replicas, pool.ready) for pool in status.pools] == [("flex", 0, 0)]


def test_replicas_are_counted_once_however_many_routers_tell_of_them() -> None:
    both = fleets(view(replica("r1"), replica("r2", ready=False)), view(replica("r1", age_seconds=2.0)))
    (pool,) = status_of(None, replace(SEEN, fleets=both), 2000.0).pools
    assert (pool.replicas, pool.ready) == (2, 1)


BOTH = {"flex": 1, "fast": 2}
COUNTS: list[tuple[str, Observations, str]] = [
    ("all there", SEEN, "1/1"),
    ("two pools", replace(SEEN, minimum=BOTH, fleets=fleets(view(replica(), replica("r2", "fast")))), "2/3"),
    ("started and not ready yet", replace(SEEN, fleets=fleets(view(replica(), replica("r2", ready=False)))), "1/2"),
    (
        "one that leaves is not missed",
        replace(SEEN, fleets=fleets(view(replica(), replica("r2", draining=True)))),
        "1/1",
    ),
    ("asleep", replace(SEEN, minimum={"flex": 0}, fleets=fleets(view())), "0/0"),
    ("no router answers yet", replace(SEEN, minimum=BOTH, fleets=fleets(silent=1)), "0/3"),
    ("suspended", replace(SEEN, suspend=True, fleets=fleets()), "0/0"),
    ("a pool that is going still serves", replace(SEEN, fleets=fleets(view(replica(), replica("r2", "old")))), "2/2"),
]


@pytest.mark.parametrize(("seen", "expected"), [pytest.param(*case[1:], id=case[0]) for case in COUNTS])
def test_replicas_over_all_pools_in_one_column(seen: Observations, expected: str) -> None:
    assert status_of(None, seen, 2000.0).replica_summary == expected


def test_replicas_and_selector_are_for_autoscalers() -> None:
    seen = replace(
        SEEN,
        selector="a=b,c=d",
        fleets=fleets(view(replica(), replica("r2", ready=False), replica("r3", draining=True))),
    )
    first = status_of(None, seen, 2000.0)
    assert (first.replicas, first.selector) == (2, "a=b,c=d")
    unheard = status_of(first, replace(seen, selector=None, fleets=fleets(silent=1)), 2100.0)
    assert (unheard.replicas, unheard.selector) == (2, "a=b,c=d"), "what was known stays"
    suspended = status_of(first, replace(seen, suspend=True, fleets=fleets()), 2200.0)
    assert suspended.replicas == 0


def test_shares_of_points() -> None:
    seen = fleets(view(*(replica(f"r{n}", point="S8") for n in range(3)), replica("r9", point="AR")))
    (pool,) = status_of(None, replace(SEEN, fleets=seen), 2000.0).pools
    assert [(share.point, share.share_percent) for share in pool.points] == [("S8", 75), ("AR", 25)]


def test_pools_come_in_the_order_of_the_spec() -> None:
    seen = replace(SEEN, minimum={"z": 0, "a": 1}, fleets=fleets(view(replica("r1", "a"), replica("r2", "gone"))))
    assert [pool.name for pool in status_of(None, seen, 2000.0).pools] == ["z", "a", "gone"]


# The decision and its past.


def test_the_decision_is_what_most_replicas_run_and_since_when() -> None:
    seen = fleets(
        view(
            replica("r1", point="S8", decided_for=10.0),
            replica("r2", point="S8", decided_for=30.0),
            replica("r3", point="AR", decided_for=90.0),
            decisions=(change(969.9, "S8", "PredictedGain", "r2"),),
        )
    )
    decision = status_of(None, replace(SEEN, fleets=seen), 2000.0).decision
    assert decision == DecisionStatus(point="S8", reason="PredictedGain", since=format_time(969.9))


@pytest.mark.parametrize(
    ("changed_at", "moved"), [((), False), ((970.0,), False), ((970.0, 990.0, 998.0), True)], ids=str
)
def test_an_age_that_stands_still_is_no_news(changed_at: tuple[float, ...], moved: bool) -> None:
    """As of an idle engine, which sends no figures: only a change that the router has seen makes another decision."""
    begun = view(replica(point="AR", decided_for=29.9), decisions=(change(970.0, "AR"),))
    first = status_of(None, replace(SEEN, fleets=fleets(begun)), 2000.0)
    points = {970.0: "AR", 990.0: "S8", 998.0: "AR"}
    changes = tuple(change(at, points[at]) for at in changed_at)
    idle = fleets(view(replica(point="AR", decided_for=1.9), decisions=changes))
    second = status_of(first, replace(SEEN, fleets=idle), 2005.0)
    assert (second.decision != first.decision) is moved


def test_probes_are_no_decisions() -> None:
    first = status_of(None, SEEN, 2000.0)
    probing = fleets(view(replica(point="S8", reason="Probe", decided_for=0.1)))
    assert status_of(first, replace(SEEN, fleets=probing), 2001.0).decision == first.decision


def test_a_dry_run_shows_what_runs() -> None:
    dry = fleets(view(replica(point="AR", decided="S8"), dry_run=True))
    decision = status_of(None, replace(SEEN, fleets=dry), 2000.0).decision
    assert decision is not None
    assert decision.point == "AR"


def test_history_is_newest_first_and_bounded() -> None:
    changes = tuple(change(900.0 + n, "S8" if n % 2 else "AR") for n in range(20))
    seen = fleets(view(replica(point="S8", decided_for=81.0), decisions=changes))
    history = status_of(None, replace(SEEN, fleets=seen), 2000.0).mode_history
    assert len(history) == HISTORY
    assert [parse_time(entry.since) for entry in history] == [919.0 - n for n in range(HISTORY)]
    assert history[0].point == "S8"


def test_replicas_that_follow_one_another_make_one_entry() -> None:
    changes = (change(990.0, "S8", replica_id="r1"), change(990.3, "S8", replica_id="r2"))
    seen = fleets(view(replica("r1", point="S8"), replica("r2", point="S8"), decisions=changes))
    history = status_of(None, replace(SEEN, fleets=seen), 2000.0).mode_history
    assert [(entry.point, parse_time(entry.since)) for entry in history] == [("S8", 990.0)]


def test_history_goes_on_from_what_the_status_had() -> None:
    first = status_of(None, replace(SEEN, fleets=fleets(view(replica(), decisions=(change(950.0, "AR"),)))), 2000.0)
    later = view(replica(point="S8"), decisions=(change(950.0, "AR"), change(994.9, "S8")))
    second = status_of(first, replace(SEEN, fleets=fleets(later)), 2005.0)
    assert [entry.point for entry in second.mode_history] == ["S8", "AR"]
    # A router that has just started knows nothing of the past.
    third = status_of(second, replace(SEEN, fleets=fleets(view(replica(point="S8")))), 2010.0)
    assert third.mode_history == second.mode_history


def test_tiers_without_answers_keep_what_was_known() -> None:
    first = status_of(None, replace(SEEN, attainment={"a": 90, "b": None}, objectives={"a": 95, "b": 95}), 2000.0)
    assert [(tier.name, tier.attainment_percent) for tier in first.tiers] == [("a", 90)]
    second = status_of(first, replace(SEEN, attainment={"a": None}, objectives={"a": 95}), 2010.0)
    assert second.tiers == first.tiers


@pytest.mark.parametrize("seconds", [0.0, 1.5, 1763733600.0, 1763733600.123])
def test_times_survive_writing(seconds: float) -> None:
    assert parse_time(format_time(seconds)) == pytest.approx(seconds, abs=0.0005)
    assert format_time(seconds).endswith("Z")


def test_what_is_no_time_is_long_ago() -> None:
    assert parse_time("yesterday") == 0.0


# Reading live objects.


@pytest.mark.parametrize(
    ("status", "generation", "expected"),
    [
        ({}, 1, Rollout(2, 0, False)),
        ({"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2}, 1, Rollout(2, 2, True)),
        ({"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2}, 2, Rollout(2, 2, False)),
        ({"observedGeneration": 1, "replicas": 3, "updatedReplicas": 2, "readyReplicas": 3}, 1, Rollout(2, 3, False)),
    ],
)
def test_deployments(status: dict[str, Any], generation: int, expected: Rollout) -> None:
    assert rollout_of({"metadata": {"generation": generation}, "spec": {"replicas": 2}, "status": status}) == expected


def test_ray_services() -> None:
    assert ray_of(None) is None
    assert ray_of({"metadata": {"generation": 1}, "spec": {}}) == Ray(None, current=False)
    told = ray_of(
        {
            "metadata": {"generation": 2},
            "spec": {},
            "status": {
                "observedGeneration": 2,
                "conditions": [
                    {"type": "Ready", "status": "False", "reason": "ZeroServeEndpoints", "message": "none"},
                    {"type": "UpgradeInProgress", "status": "True"},
                ],
                "pendingServiceStatus": {
                    "applicationStatuses": {
                        "flex": {"status": "DEPLOY_FAILED", "message": "no such file"},
                        "other": {"status": "RUNNING"},
                    }
                },
            },
        }
    )
    failed = ("flex DEPLOY_FAILED: no such file",)
    assert told == Ray(False, "ZeroServeEndpoints", "none", upgrading=True, failed=failed, failed_upgrade=failed)


def test_the_last_good_pools_count_while_the_spec_is_bad() -> None:
    groups = [{"groupName": "flex", "minReplicas": 2}]
    service = {"spec": {"rayClusterConfig": {"workerGroupSpecs": groups}}}
    assert minimum_of(None, service) == {"flex": 2}
    assert minimum_of(None, None) == {}


@pytest.mark.parametrize(
    ("changes", "later", "expected"),
    [
        ({}, 0.0, STEADY_S),
        ({"minimum": {"flex": 2}}, 1.0, SOON_S),
        ({"policy_version": 2}, 1.0, AT_ONCE_S),
        ({"minimum": {"flex": 2}}, LIVELY_S + 1.0, STEADY_S),
    ],
)
def test_what_is_on_its_way_is_reconciled_soon(changes: dict[str, Any], later: float, expected: float) -> None:
    seen = replace(SEEN, **changes)
    status = status_of(None, seen, 2000.0)
    assert requeue_after_s(status, readiness_of(seen), 2000.0 + later) == expected
