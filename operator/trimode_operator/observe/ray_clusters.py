"""The Ray clusters that KubeRay has made of a RayService, as far as KubeRay leaves them to others.

Bounds of running worker groups, and going back to the active cluster. KubeRay finds a running cluster equal
to its RayService whatever the bounds are, and so leaves them as they were (ray-project/kuberay issues 2331 and 4568).
In an upgrade it compares with the pending cluster only: going back makes a third cluster, although the active one is
exactly what is wanted. Pure functions first, then the edge.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from trimode_api.status import Status, parse_time
from trimode_operator.errors import ApiFailure, NotMade
from trimode_operator.kube.cache import Cache, Key
from trimode_operator.kube.client import RAY_CLUSTER, Cluster, Object
from trimode_operator.metrics import Metrics
from trimode_operator.observe.observations import behind
from trimode_operator.plan.kuberay import SHAPE_ANNOTATION
from trimode_operator.plan.make import RAY_SERVICE
from trimode_operator.status.reasons import TRUE, ConditionType, Reason
from trimode_operator.status.status import condition

KUBERAYS_HASH = "ray.io/hash-without-replicas-and-workers-to-delete"
"""On every RayCluster: KubeRay's own digest of the shape that it was made in."""
PROMOTED_WITHIN_S = 60.0
RACED = (404, 409)
"""HTTP statuses of a write that another writer was quicker than: the next reconciliation reads the object again."""

Operations = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class RunningClusters:
    """Live RayClusters of one RayService. `active` serves, `pending` is to take over; None where there is none."""

    active: Object | None = None
    pending: Object | None = None

    @property
    def groups(self) -> tuple[str, ...]:
        """Worker groups of the active one, in its order."""
        spec = self.active["spec"] if self.active is not None else {}
        return tuple(str(group["groupName"]) for group in spec.get("workerGroupSpecs") or [])


NO_CLUSTERS = RunningClusters()


def cluster_name(service: Mapping[str, Any], part: str) -> str:
    """The cluster's name that KubeRay wrote into this part of a RayService's status; empty where there is none."""
    return str(((service.get("status") or {}).get(part) or {}).get("rayClusterName") or "")


def bounds_operations(service: Mapping[str, Any], cluster: Mapping[str, Any]) -> Operations:
    """A JSON patch that gives the cluster's worker groups the RayService's bounds; empty where they have them.

    By name, and refused where a group has moved meanwhile. The upper bound is not put below the pods that there are:
    Ray's autoscaler would end the surplus at once, whatever runs there (seen: it took the replica that Serve kept, and
    requests found none). Serve lets replicas go first, the autoscaler then their idle pods, and the bound follows at a
    later reconciliation.
    """
    wanted = {group["groupName"]: group for group in service["spec"]["rayClusterConfig"].get("workerGroupSpecs") or []}
    operations: Operations = []
    for index, group in enumerate(cluster["spec"].get("workerGroupSpecs") or []):
        bounds = wanted.get(group["groupName"])
        if bounds is None:
            continue
        least, most = bounds["minReplicas"], max(bounds["maxReplicas"], _pods(cluster, index))
        if (group.get("minReplicas"), group.get("maxReplicas")) == (least, most):
            continue
        path = f"/spec/workerGroupSpecs/{index}"
        operations += [
            {"op": "test", "path": f"{path}/groupName", "value": group["groupName"]},
            {"op": "add", "path": f"{path}/minReplicas", "value": least},
            {"op": "add", "path": f"{path}/maxReplicas", "value": most},
        ]
    return operations


def _pods(cluster: Mapping[str, Any], index: int) -> int:
    """Pods of a worker group, within its present bound: those it asks for, or more.

    KubeRay counts those of all groups only, and `replicas` of a group lags: where a minimum brought the pods, it may
    be 0. So: all there are, less what the other groups ask for. The count lags, too, which is why a minimum and its
    maximum are never lowered at the same reconciliation.
    """
    groups = cluster["spec"]["workerGroupSpecs"]
    asked = [max(int(each.get("replicas") or 0), int(each.get("minReplicas") or 0)) for each in groups]
    there = int((cluster.get("status") or {}).get("availableWorkerReplicas") or 0) - sum(asked) + asked[index]
    return max(asked[index], min(there, int(groups[index].get("maxReplicas") or 0)))


def to_fit(service: Mapping[str, Any], running: RunningClusters) -> Object | None:
    """The cluster that is to have the RayService's bounds.

    In an upgrade the active one keeps what it has, also before KubeRay has begun it: Serve there gets no other
    bounds either, and the GPUs of a raised minimum would be missing for the cluster that is to take over.
    """
    active = running.active
    if active is None or cluster_name(service, "pendingServiceStatus"):
        return running.pending
    same = _annotation(service, SHAPE_ANNOTATION) == _annotation(active, SHAPE_ANNOTATION)
    return active if same or not behind(service) else None


def superfluous(service: Mapping[str, Any], running: RunningClusters) -> bool:
    """Whether the pending cluster has no purpose, because the active one has the shape that is wanted.

    By our digest, while the pending one has another shape. Once it has the same, KubeRay did not take the active one
    for equal (its digest may change with its version), and would make the next one and the next: then only its own
    digest counts, which is the same on both where it would find the active cluster equal.
    """
    active, pending = running.active, running.pending
    if active is None or pending is None:
        return False
    if (digest := _annotation(active, KUBERAYS_HASH)) and digest == _annotation(pending, KUBERAYS_HASH):
        return True
    wanted = _annotation(service, SHAPE_ANNOTATION)
    return bool(wanted) and wanted == _annotation(active, SHAPE_ANNOTATION) != _annotation(pending, SHAPE_ANNOTATION)


def unpromoted(before: Status | None, service: Mapping[str, Any] | None, now: float) -> bool:
    """Whether replicas have served for a while (by the status; `now` in Unix seconds) from a Ray cluster that KubeRay
    has never called active. At an ordinary start that takes seconds."""
    serving = condition(before, ConditionType.SERVING)
    if service is None or cluster_name(service, "activeServiceStatus"):
        return False
    serves = serving is not None and serving.status is TRUE and serving.reason == Reason.REPLICAS_SERVE
    return serving is not None and serves and now - parse_time(serving.last_transition_time) > PROMOTED_WITHIN_S


class RayClusters:
    """Looks at one resource's Ray clusters at a time, and writes what KubeRay leaves undone."""

    def __init__(self, cluster: Cluster, cache: Cache, metrics: Metrics) -> None:
        self._cluster = cluster
        self._cache = cache
        self._metrics = metrics

    async def fit(self, key: Key, service: Object | None) -> RunningClusters:
        """The clusters that KubeRay says it has, after what it leaves undone was written.

        Raises ApiUnreachable, and NotMade for a refusal.
        """
        if service is None or service["metadata"].get("deletionTimestamp") is not None:
            return NO_CLUSTERS
        try:
            running = RunningClusters(
                await self._named(key, cluster_name(service, "activeServiceStatus")),
                await self._named(key, cluster_name(service, "pendingServiceStatus")),
            )
            if superfluous(service, running):
                # KubeRay 1.7.0 made a third cluster of the old shape, which waited for the GPUs of the first two; with
                # the pending one cleared its next pass finds the active one equal, stays with it, and removes the
                # others after their delay. The resourceVersion makes the API server refuse this where KubeRay has just
                # switched clusters.
                name, version = service["metadata"]["name"], service["metadata"]["resourceVersion"]
                patch = {"metadata": {"resourceVersion": version}, "status": {"pendingServiceStatus": None}}
                merge = self._cluster.merge(RAY_SERVICE, key.namespace, name, patch, "status")
                if (cleared := await self._unless_raced(merge)) is not None:
                    self._cache.put(cleared)
                    self._wrote("status", RAY_SERVICE.kind, key, name)
                    return RunningClusters(running.active)
            target = to_fit(service, running)
            if target is not None and (operations := bounds_operations(service, target)):
                name = target["metadata"]["name"]
                write = self._cluster.patch(RAY_CLUSTER, key.namespace, name, operations)
                if await self._unless_raced(write) is not None:
                    self._wrote("patch", RAY_CLUSTER.kind, key, name)
        except ApiFailure as failure:
            raise NotMade([failure]) from failure
        return running

    async def _named(self, key: Key, name: str) -> Object | None:
        return await self._cluster.get(RAY_CLUSTER, key.namespace, name) if name else None

    async def _unless_raced(self, write: Awaitable[Object]) -> Object | None:
        """What the write has left; None where another writer was quicker."""
        try:
            return await write
        except ApiFailure as failure:
            if failure.status not in RACED:
                raise
            return None

    def _wrote(self, verb: str, kind: str, key: Key, name: str) -> None:
        self._metrics.writes.labels(verb, kind).inc()
        structlog.get_logger("ray_clusters").info("patched", kind=kind, name=name, ns=key.namespace)


def _annotation(body: Mapping[str, Any], name: str) -> str:
    return str((body["metadata"].get("annotations") or {}).get(name) or "")
