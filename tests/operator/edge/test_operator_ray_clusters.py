"""Ray clusters that run: bounds reach them, and going back takes the active one back."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest

from trimode_lab.doubles.kubernetes.fleet import replica
from trimode_lab.doubles.kubernetes.stage import Stage
from trimode_operator.errors import ApiFailure, NotMade
from trimode_operator.kube.client import Object
from trimode_operator.observe.ray_clusters import KUBERAYS_HASH, RunningClusters, bounds_operations, superfluous, to_fit
from trimode_operator.plan.kuberay import SHAPE_ANNOTATION, shape_of


def group(name: str, least: int, most: int, replicas: int | None = None) -> dict[str, Any]:
    counts = {} if replicas is None else {"replicas": replicas}
    return {"groupName": name, "minReplicas": least, "maxReplicas": most, **counts}


def service(*groups: Mapping[str, Any], shape: str = "") -> Object:
    return {
        "metadata": {"name": "nemo", "annotations": {SHAPE_ANNOTATION: shape}},
        "spec": {"rayClusterConfig": {"workerGroupSpecs": list(groups)}},
    }


def ray_cluster(*groups: Mapping[str, Any], shape: str = "", kuberays: str = "") -> Object:
    annotations = {SHAPE_ANNOTATION: shape, KUBERAYS_HASH: kuberays}
    return {"metadata": {"annotations": annotations}, "spec": {"workerGroupSpecs": list(groups)}}


def to(index: int, name: str, least: int, most: int) -> list[dict[str, Any]]:
    path = f"/spec/workerGroupSpecs/{index}"
    return [
        {"op": "test", "path": f"{path}/groupName", "value": name},
        {"op": "add", "path": f"{path}/minReplicas", "value": least},
        {"op": "add", "path": f"{path}/maxReplicas", "value": most},
    ]


BOUNDS: list[tuple[str, Object, list[dict[str, Any]], list[dict[str, Any]]]] = [
    ("equal", service(group("a", 1, 3)), [group("a", 1, 3, 2)], []),
    ("raised", service(group("a", 1, 3)), [group("a", 1, 1, 1)], to(0, "a", 1, 3)),
    ("asleep", service(group("a", 0, 1)), [group("a", 1, 1, 1)], to(0, "a", 0, 1)),
    ("by name", service(group("a", 1, 1), group("b", 2, 2)), [group("b", 1, 1), group("a", 1, 1)], to(0, "b", 2, 2)),
    ("a group that is to go", service(group("a", 1, 1)), [group("b", 1, 5), group("a", 1, 1)], []),
    ("a group that is to come", service(group("a", 1, 1), group("b", 1, 1)), [group("a", 1, 1)], []),
    ("pods go before their bound", service(group("a", 1, 2)), [group("a", 1, 4, 3)], to(0, "a", 1, 3)),
    ("no bound below what runs", service(group("a", 1, 2)), [group("a", 1, 3, 3)], []),
    ("the server's defaults", service(group("a", 1, 2)), [{"groupName": "a"}], to(0, "a", 1, 2)),
]  # fmt: skip


@pytest.mark.parametrize(("wanted", "live", "operations"), [pytest.param(*case[1:], id=case[0]) for case in BOUNDS])
def test_bounds(wanted: Object, live: list[dict[str, Any]], operations: list[dict[str, Any]]) -> None:
    assert bounds_operations(wanted, ray_cluster(*live)) == operations


def counted(pods: int, *groups: Mapping[str, Any]) -> Object:
    """A RayCluster with so many worker pods in all."""
    return ray_cluster(*groups) | {"status": {"availableWorkerReplicas": pods}}


PODS: list[tuple[str, Object, int]] = [
    ("a minimum brought them: replicas is still 0", counted(2, group("a", 2, 2, 0)), 2),
    ("one has gone", counted(1, group("a", 1, 2, 0)), 1),
    ("none is left over by the other group", counted(4, group("a", 1, 3, 1), group("b", 3, 5, 0)), 1),
    ("one is left over by the other group", counted(5, group("a", 1, 3, 0), group("b", 3, 5, 0)), 2),
    ("never above the present bound", counted(9, group("a", 1, 3, 0)), 3),
    ("KubeRay has counted none yet", ray_cluster(group("a", 1, 3, 2)), 2),
    ("KubeRay has not counted the last one yet", counted(1, group("a", 2, 2, 0)), 2),
]


@pytest.mark.parametrize(("live", "pods"), [pytest.param(*case[1:], id=case[0]) for case in PODS])
def test_no_upper_bound_goes_below_the_pods_that_there_are(live: Object, pods: int) -> None:
    others = [each for each in live["spec"]["workerGroupSpecs"] if each["groupName"] != "a"]
    (most,) = [
        each["value"] for each in bounds_operations(service(group("a", 0, 0), *others), live) if "max" in each["path"]
    ]
    assert most == pods


A, B = ray_cluster(shape="a", kuberays="ha"), ray_cluster(shape="b", kuberays="hb")
SUPERFLUOUS: list[tuple[str, str, Object | None, Object | None, bool]] = [
    ("an upgrade", "b", A, B, False),
    ("back to what runs", "a", A, B, True),
    ("on to a third", "c", A, B, False),
    ("no upgrade", "a", A, None, False),
    ("the first one still starts", "a", None, A, False),
    ("KubeRay made the wanted one again: by its digest", "a", A, ray_cluster(shape="a", kuberays="ha"), True),
    ("KubeRay's digest has changed: it would make another", "a", A, ray_cluster(shape="a", kuberays="hz"), False),
    ("without our digests, KubeRay's are the same", "", ray_cluster(kuberays="h"), ray_cluster(kuberays="h"), True),
    ("without any digest", "", ray_cluster(), ray_cluster(), False),
]


@pytest.mark.parametrize(
    ("wanted", "active", "pending", "expected"), [pytest.param(*case[1:], id=case[0]) for case in SUPERFLUOUS]
)
def test_a_pending_cluster_without_a_purpose(
    wanted: str, active: Object | None, pending: Object | None, expected: bool
) -> None:
    assert superfluous(service(shape=wanted), RunningClusters(active, pending)) is expected


def test_the_active_cluster_keeps_its_bounds_until_it_is_known_to_stay() -> None:
    waiting, looked = service(shape="b"), service(shape="b")
    looked["status"] = {"observedGeneration": 1}
    upgrading = service(shape="b")
    upgrading["status"] = {"observedGeneration": 1, "pendingServiceStatus": {"rayClusterName": "nemo-b"}}
    assert to_fit(waiting, RunningClusters(A)) is None
    assert to_fit(service(shape="a"), RunningClusters(A)) is A
    assert to_fit(looked, RunningClusters(A)) is A, "KubeRay found no difference that asks for another cluster"
    assert to_fit(upgrading, RunningClusters(A, B)) is B
    assert to_fit(upgrading, RunningClusters(A)) is None, "it is being made"
    assert to_fit(looked, RunningClusters()) is None


def test_the_shape_is_all_but_counts() -> None:
    config = {"rayVersion": "2", "workerGroupSpecs": [group("a", 1, 2), group("b", 1, 2)]}
    same = {"rayVersion": "2", "workerGroupSpecs": [group("a", 0, 9, 4), group("b", 1, 2)]}
    assert shape_of(config) == shape_of(same)
    assert shape_of(config) != shape_of({**config, "rayVersion": "3"})
    assert shape_of(config) != shape_of({**config, "workerGroupSpecs": config["workerGroupSpecs"][:1]})


# Visits.


async def running(stage: Stage) -> None:
    """Serving from the cluster nemo-old."""
    stage.resource()
    await stage.reconcile()
    stage.serve(replica())
    stage.make_cluster("nemo-old")
    stage.settle(active="nemo-old")
    await stage.reconcile()
    assert stage.conditions()["Ready"] == ("True", "AsSpecified")


def flex(least: int, most: int) -> list[dict[str, Any]]:
    return [{"name": "flex", "modes": ["AR"], "replicas": {"min": least, "max": most}}]


def bounds(stage: Stage, name: str) -> tuple[int, int]:
    (found,) = stage.cluster.named("RayCluster", name)["spec"]["workerGroupSpecs"]
    return found["minReplicas"], found["maxReplicas"]


async def test_bounds_reach_the_cluster_that_runs() -> None:
    stage = Stage()
    await running(stage)
    stage.resource(pools=flex(1, 3))
    await stage.reconcile()
    assert bounds(stage, "nemo-old") == (1, 3)
    stage.settle(active="nemo-old")
    await stage.reconcile()
    await stage.reconcile()
    assert [write for write in stage.cluster.writes if write[0] == "patch"] == []


async def test_in_an_upgrade_bounds_reach_the_cluster_that_is_to_take_over() -> None:
    stage = Stage()
    await running(stage)
    stage.resource(pools=flex(1, 2), model={"uri": "file:///other"})
    await stage.reconcile()
    stage.settle(active="nemo-old", pending="nemo-new")
    await stage.reconcile()  # KubeRay has written its name, and makes it next
    stage.make_cluster("nemo-new")
    stage.resource(pools=flex(2, 4), model={"uri": "file:///other"})
    await stage.reconcile()
    assert bounds(stage, "nemo-new") == (2, 4)
    assert bounds(stage, "nemo-old") == (1, 1)


async def upgrading(stage: Stage) -> None:
    """From nemo-old to nemo-new, which does not come."""
    await running(stage)
    stage.resource(model={"uri": "file:///other"})
    await stage.reconcile()
    stage.make_cluster("nemo-new")
    stage.settle(active="nemo-old", pending="nemo-new")
    await stage.reconcile()
    assert stage.conditions()["Ready"] == ("False", "WorkersRollout")


async def test_a_pool_that_comes_back_has_its_place_in_the_cluster_that_serves() -> None:
    first, second = flex(1, 1)[0] | {"name": "first"}, flex(1, 1)[0] | {"name": "second"}
    stage = Stage()
    stage.resource(pools=[first, second])
    await stage.reconcile()
    stage.make_cluster("nemo-old")
    stage.settle(active="nemo-old")
    await stage.reconcile()
    stage.resource(pools=[second])
    await stage.reconcile()
    stage.make_cluster("nemo-new")
    stage.settle(active="nemo-old", pending="nemo-new")
    await stage.reconcile()
    stage.resource(pools=[first, second])
    await stage.reconcile()
    groups = stage.cluster.named("RayService", "nemo")["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert [each["groupName"] for each in groups] == ["first", "second"]
    assert pending(stage) is None


def pending(stage: Stage) -> Any:
    return stage.cluster.named("RayService", "nemo")["status"].get("pendingServiceStatus")


async def test_going_back_gives_the_pending_cluster_up() -> None:
    stage = Stage()
    await upgrading(stage)
    await stage.reconcile()
    assert pending(stage), "an upgrade goes on"
    stage.resource()
    await stage.reconcile()
    assert pending(stage) is None
    assert ("merge status", "RayService", "nemo") in stage.cluster.writes
    stage.serve(replica(policy_version=3), policy_version=3)
    stage.settle(active="nemo-old")
    await stage.reconcile()
    assert stage.conditions()["Ready"] == ("True", "AsSpecified")


async def test_kuberay_was_quicker_and_the_next_visit_looks_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    await upgrading(stage)
    apply = stage.cluster.apply

    async def overtaken(*arguments: Any) -> Object:
        result = await apply(*arguments)
        if result["kind"] == "RayService":
            stage.cluster.put(copy.deepcopy(result))
        return result

    monkeypatch.setattr(stage.cluster, "apply", overtaken)
    stage.resource()
    await stage.reconcile()
    assert pending(stage), "written since it was read"
    await stage.reconcile()
    assert pending(stage) is None


async def test_a_refusal_is_told() -> None:
    stage = Stage()
    await running(stage)
    refusal = ApiFailure(403, "Forbidden", "rayclusters is forbidden")
    stage.cluster.refuse = lambda verb, kind, _: refusal if (verb, kind) == ("patch", "RayCluster") else None
    stage.resource(pools=flex(1, 3))
    with pytest.raises(NotMade):
        await stage.reconcile()
    assert stage.conditions()["Ready"] == ("False", "Forbidden")
