"""Statuses as KubeRay's controllers write them, and what is said of the resource while one replica serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from trimode_lab.doubles.kubernetes.fleet import fleets, replica, view
from trimode_operator.observe.observations import Observations, Rollout, overdue, ray_of
from trimode_operator.status import status as made
from trimode_operator.status.readiness import readiness_of
from trimode_operator.status.reasons import ConditionType, Verdict


def verdicts(seen: Observations) -> Mapping[ConditionType, Verdict]:
    return made.verdicts(seen, readiness_of(seen))


APPLICATIONS = {"flex": {"status": "RUNNING", "serveDeploymentStatuses": {"flex": {"status": "HEALTHY"}}}}


def condition(kind: str, status: str, reason: str, message: str, generation: int = 2) -> dict[str, Any]:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": generation,
        "lastTransitionTime": "2026-11-28T12:00:00Z",
    }


SERVES = condition("Ready", "True", "NonZeroServeEndpoints", "Number of serve endpoints is greater than 0")
ALONE = condition(
    "UpgradeInProgress", "False", "NoPendingCluster", "Active Ray cluster exists and no pending Ray cluster"
)
BOTH = condition(
    "UpgradeInProgress", "True", "BothActivePendingClustersExist", "Both active and pending Ray clusters exist"
)
STARTS = [
    condition(kind, "False", "Initializing", "RayService is initializing", 1) for kind in ("Ready", "UpgradeInProgress")
]
INVALID = condition("Ready", "False", "ValidationFailed", "spec.rayClusterConfig.headGroupSpec: no containers")
ACTIVE = {"rayClusterName": "tiny-kkk5n", "applicationStatuses": APPLICATIONS, "rayClusterStatus": {"state": "ready"}}
PENDING = {"rayClusterName": "tiny-tbv77", "rayClusterStatus": {"desiredWorkerReplicas": 1}}


def status(observed: int, *conditions: dict[str, Any], **parts: Any) -> dict[str, Any]:
    return {"observedGeneration": observed, "numServeEndpoints": 1, "conditions": list(conditions), **parts}


STATES: list[tuple[str, dict[str, Any], bool, tuple[str, str]]] = [
    ("all done", status(2, SERVES, ALONE, activeServiceStatus=ACTIVE), False, ("True", "AsSpecified")),
    (
        "the first cluster's replicas serve, and KubeRay does not call it active yet",
        status(2, SERVES, ALONE, pendingServiceStatus=ACTIVE),
        False,
        ("False", "WorkersRollout"),
    ),
    (
        "the new cluster gets no pods",
        status(2, SERVES, BOTH, activeServiceStatus=ACTIVE, pendingServiceStatus=PENDING),
        False,
        ("False", "WorkersRollout"),
    ),
    (
        "Serve refuses the configuration, or the dashboard is away: the status stays",
        status(1, SERVES, ALONE, activeServiceStatus=ACTIVE),
        True,
        ("False", "WorkersRollout"),
    ),
    (
        "KubeRay's validation refuses the RayService",
        status(1, INVALID, ALONE, activeServiceStatus=ACTIVE),
        True,
        ("False", "ValidationFailed"),
    ),
    (
        "the first cluster starts, an edit came meanwhile",
        status(1, *STARTS, pendingServiceStatus=PENDING),
        False,
        ("False", "WorkersRollout"),
    ),
    ("KubeRay has not looked", {}, True, ("False", "WorkersRollout")),
]


@pytest.mark.parametrize(("told", "owed", "ready"), [pytest.param(*case[1:], id=case[0]) for case in STATES])
def test_what_kuberay_says(told: dict[str, Any], owed: bool, ready: tuple[str, str]) -> None:
    service = {"metadata": {"name": "tiny", "namespace": "llm", "generation": 2}, "spec": {}, "status": told}
    seen = Observations(
        generation=2,
        routers=Rollout(1, 1, True),
        ray=ray_of(service),
        fleets=fleets(view(replica(policy_version=2), policy_version=2)),
        minimum={"flex": 1},
        policy_version=2,
    )
    found = verdicts(seen)
    assert (found[ConditionType.READY].status.value, str(found[ConditionType.READY].reason)) == ready
    assert found[ConditionType.SERVING].status.value == "True"
    assert overdue(service) is owed


@pytest.mark.parametrize("held", ["service", "service's clusters", "active", "pending"])
def test_a_cluster_that_kueue_holds_is_told_by_its_queue(held: str) -> None:
    bodies: dict[str, dict[str, Any]] = {
        name: {"metadata": {}, "spec": {}} for name in ("service", "active", "pending")
    }
    bodies["service"]["metadata"] = {"generation": 1, "labels": {"kueue.x-k8s.io/queue-name": "gpus"}}
    bodies["service"]["status"] = status(1, *STARTS, pendingServiceStatus=PENDING)
    name, _, inside = held.partition("'")
    bodies[name]["spec"] = {"rayClusterConfig": {"suspend": True}} if inside else {"suspend": True}
    ray = ray_of(bodies["service"], bodies["active"], bodies["pending"])
    found = verdicts(Observations(generation=1, routers=Rollout(1, 0, True), ray=ray, minimum={"flex": 1}))
    for kind in (ConditionType.READY, ConditionType.PROGRESSING):
        assert (found[kind].status.value, str(found[kind].reason)) == ("False", "WaitingForQuota")
        assert "queue gpus" in found[kind].message
    bodies[name]["spec"] = {"rayClusterConfig": {"suspend": False}} if inside else {"suspend": False}
    ray = ray_of(bodies["service"], bodies["active"], bodies["pending"])
    assert ray is not None
    assert ray.queue == ""


def test_a_ray_service_that_goes_is_not_what_is_asked_for() -> None:
    metadata = {"name": "tiny", "namespace": "llm", "generation": 2, "deletionTimestamp": "2026-11-28T12:00:00Z"}
    ray = ray_of({"metadata": metadata, "spec": {}, "status": status(2, SERVES, ALONE)})
    assert ray is not None
    assert not ray.current
