"""Why pods do not run, and when the operator asks."""

from __future__ import annotations

from typing import Any

import pytest

from trimode_lab.doubles.kubernetes.fleet import fleets, replica, view
from trimode_lab.doubles.kubernetes.stage import Stage
from trimode_operator.observe.observations import Observations, Ray, Rollout
from trimode_operator.observe.pods import PodsSeen, pods_seen
from trimode_operator.status.readiness import readiness_of

PULL = 'Back-off pulling image "registry.invalid/none:1": ErrImagePull: no such host'
NODES = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
LABELS = {"app.kubernetes.io/managed-by": "trimode-operator", "app.kubernetes.io/instance": "nemo"}


def pod(name: str, *containers: dict[str, Any], going: bool = False, **status: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default", "labels": LABELS}
    if going:
        metadata["deletionTimestamp"] = "2026-11-28T12:00:00Z"
    told = {"containerStatuses": list(containers), **status}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": told}


def container(ready: bool = False, last: str = "", **state: Any) -> dict[str, Any]:
    before = {"lastState": {"terminated": {"reason": last, "exitCode": 137}}} if last else {}
    return {"name": "ray-worker", "ready": ready, "state": state, **before}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return container(waiting={"reason": reason, **({"message": message} if message else {})})


def scheduled(status: str, reason: str = "", message: str = "") -> list[dict[str, Any]]:
    return [{"type": "PodScheduled", "status": status, "reason": reason, "message": message}]


KILLED = "container ray-worker was killed for memory: it needs more than its limit (OOMKilled)"


@pytest.mark.parametrize(
    ("pods", "found"),
    [
        ([], PodsSeen()),
        ([pod("a", container(ready=True, running={}))], PodsSeen()),
        ([pod("a", waiting("ContainerCreating"))], PodsSeen()),
        ([pod("a", waiting("PodInitializing"))], PodsSeen()),
        ([pod("a", container(running={}))], PodsSeen()),
        ([{"metadata": {"name": "a"}}], PodsSeen()),
        (
            [pod("a", waiting("ImagePullBackOff", PULL))],
            PodsSeen((f"pod a: container ray-worker: ImagePullBackOff: {PULL}",)),
        ),
        ([pod("a", waiting("ImagePullBackOff", PULL), going=True)], PodsSeen()),
        ([pod("a", waiting("CrashLoopBackOff"))], PodsSeen(("pod a: container ray-worker: CrashLoopBackOff",))),
        (
            [pod("a", initContainerStatuses=[waiting("CreateContainerConfigError", 'secret "x" not found')])],
            PodsSeen(('pod a: container ray-worker: CreateContainerConfigError: secret "x" not found',)),
        ),
        ([pod("a", container(terminated={"reason": "OOMKilled"}))], PodsSeen((f"pod a: {KILLED}",))),
        ([pod("a", container(last="OOMKilled", running={}))], PodsSeen((f"pod a: {KILLED}",))),
        ([pod("a", container(ready=True, last="OOMKilled", running={}))], PodsSeen()),
        ([pod("a", container(last="Error", running={}))], PodsSeen()),
        (
            [pod(name, container(last="OOMKilled", running={})) for name in ("c", "b", "d")],
            PodsSeen((f"pod b and 2 more: {KILLED}",)),
        ),
        (
            [pod("a", conditions=scheduled("False", "Unschedulable", NODES))],
            PodsSeen(unplaced=(f"pod a: no node takes it: {NODES}",)),
        ),
        ([pod("a", conditions=scheduled("False", "SchedulingGated"))], PodsSeen()),
        ([pod("a", conditions=scheduled("True"))], PodsSeen()),
    ],
)
def test_what_keeps_pods_from_running(pods: list[dict[str, Any]], found: PodsSeen) -> None:
    assert pods_seen(pods) == found


def test_a_line_and_their_number_are_bounded() -> None:
    many = pods_seen(pod(f"p{n}", waiting("RunContainerError", f"{n}" * 9000)) for n in range(9)).failing
    assert len(many) == 4
    assert all(len(line) < 400 for line in many)


DIED = "flex UNHEALTHY: The actor died unexpectedly before finishing this task."
SERVES_ONE = Observations(
    generation=1,
    routers=Rollout(wanted=1, ready=1, current=True),
    ray=Ray(ready=True, failed=(DIED,)),
    fleets=fleets(view(replica())),
    minimum={"flex": 2},
)


@pytest.mark.parametrize(
    ("pods", "reason", "last_line"),
    [
        (PodsSeen((f"pod a: {KILLED}",)), "PodsFailing", f"pod a: {KILLED}"),
        (
            PodsSeen(unplaced=(f"pod a: no node takes it: {NODES}",)),
            "DeployFailed",
            f"pod a: no node takes it: {NODES}",
        ),
        (PodsSeen(), "DeployFailed", DIED),
    ],
    ids=["killed-for-memory", "no-node", "pods-run"],
)
def test_a_replica_that_died_is_explained_by_its_pod(pods: PodsSeen, reason: str, last_line: str) -> None:
    ready = readiness_of(SERVES_ONE).explained_by(pods).ready
    assert (ready.status.value, str(ready.reason)) == ("False", reason)
    assert ready.message.splitlines()[1] == DIED
    assert ready.message.splitlines()[-1] == last_line


async def serving(stage: Stage) -> None:
    stage.resource()
    await stage.reconcile()
    stage.serve(replica())
    stage.settle()
    await stage.reconcile()


async def test_ready_names_the_pod_that_cannot_start() -> None:
    stage = Stage()
    await serving(stage)
    stage.serve()
    stage.cluster.put(pod("nemo-worker-x", waiting("ErrImagePull", PULL)))
    await stage.reconcile()
    assert stage.conditions()["Ready"] == ("False", "PodsFailing")
    (ready,) = [
        each
        for each in stage.cluster.named("NemotronDeployment", "nemo")["status"]["conditions"]
        if each["type"] == "Ready"
    ]
    assert ready["message"].splitlines() == [
        "replicas that take requests: flex has 0 of at least 1",
        f"pod nemo-worker-x: container ray-worker: ErrImagePull: {PULL}",
    ]


async def test_pods_that_no_node_takes_change_the_words_only() -> None:
    stage = Stage()
    await serving(stage)
    stage.serve()
    stage.cluster.put(pod("nemo-worker-x", conditions=scheduled("False", "Unschedulable", NODES)))
    await stage.reconcile()
    assert stage.conditions()["Ready"] == ("False", "PoolsNotReady")
    assert NODES in str(stage.cluster.named("NemotronDeployment", "nemo")["status"])


async def test_a_fleet_that_is_as_specified_has_no_pods_looked_at() -> None:
    stage = Stage()
    await serving(stage)
    stage.cluster.put(pod("nemo-worker-x", container(last="OOMKilled", running={})))
    await stage.reconcile()
    assert stage.conditions()["Ready"] == ("True", "AsSpecified")
