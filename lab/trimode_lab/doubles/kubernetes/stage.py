"""A reconciler with all it works with, and routers that a test writes the views of."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from trimode_api.fleet import FleetView
from trimode_api.wire import PolicyConfig
from trimode_lab.doubles.kubernetes.cluster import MemoryCluster
from trimode_lab.doubles.kubernetes.fleet import view
from trimode_operator.errors import RouterFailure
from trimode_operator.kube.cache import Cache, Key
from trimode_operator.kube.client import Object
from trimode_operator.metrics import Metrics
from trimode_operator.observe.fleets import Address
from trimode_operator.observe.ray_clusters import KUBERAYS_HASH
from trimode_operator.observe.routers import Routers
from trimode_operator.plan import Capabilities
from trimode_operator.plan.kuberay import shape_of
from trimode_operator.plan.names import labels
from trimode_operator.plan.settings import Settings
from trimode_operator.process.dependencies import Dependencies
from trimode_operator.reconcile import Reconciler

KEY = Key("default", "nemo")
ROUTER = Address("10.0.0.1", 8001)


class Known(Routers):
    """Routers whose views a test writes; orders are noted and obeyed."""

    def __init__(self) -> None:
        super().__init__()
        self.views: dict[Address, FleetView] = {}
        self.policies: list[int] = []
        self.drained: list[str] = []
        self.refuse: RouterFailure | None = None
        self.asked = 0

    async def fleet(self, router: Address, token: str) -> FleetView:
        self.asked += 1
        if router not in self.views:
            raise RouterFailure(f"router {router} does not answer")
        return self.views[router]

    async def put_policy(self, router: Address, token: str, policy: PolicyConfig) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.policies.append(policy.version)
        self.views[router] = self.views[router].model_copy(update={"policy_version": policy.version})

    async def drain(self, router: Address, token: str, replica_id: str) -> None:
        self.drained.append(replica_id)
        told = self.views[router]
        replicas = tuple(r.model_copy(update={"draining": True}) for r in told.replicas)
        self.views[router] = told.model_copy(update={"replicas": replicas})


class Stage:
    """A reconciler with all it works with. `watch` plays the watches: it tells the cache all there is."""

    def __init__(self) -> None:
        self.cluster, self.cache, self.routers = MemoryCluster(), Cache(), Known()
        self.capabilities = Capabilities(pdb_v1=False)
        self.now = 1_800_000_000.0
        self.metrics = Metrics()
        self.begin()

    def begin(self) -> None:
        """A new process: nothing is remembered."""
        self.reconciler = Reconciler(
            Dependencies(
                cluster=self.cluster,
                cache=self.cache,
                routers=self.routers,
                settings=Settings(),
                metrics=self.metrics,
                capabilities=lambda: self.capabilities,
                now=lambda: self.now,
                monotonic=lambda: self.now,
            )
        )

    def resource(self, **spec: Any) -> None:
        """Write the resource, as a user does: another spec is another generation."""
        known = self.cluster.objects.get(("NemotronDeployment", *KEY))
        base: dict[str, Any] = {"model": {"uri": "tiny://"}, "pools": [{"name": "flex", "modes": ["AR"]}]}
        body: Object = (copy.deepcopy(known) if known is not None else None) or {
            "apiVersion": "trimode.dev/v1alpha1",
            "kind": "NemotronDeployment",
            "metadata": {"name": "nemo", "namespace": "default", "generation": 0, "uid": "owner"},
        }
        body["spec"] = base | spec
        body["metadata"]["generation"] += 1
        self.cluster.put(body)
        self.watch()

    def watch(self) -> None:
        for body in list(self.cluster.objects.values()):
            if body["kind"] != "Event":
                self.cache.put(copy.deepcopy(body))
        known = set(self.cluster.objects)
        for name, body in list(self.cache.children(KEY).items()):
            if (name[0], "default", name[1]) not in known:
                self.cache.drop(body)
        own = self.cache.resource(KEY)
        if own is not None and ("NemotronDeployment", *KEY) not in known:
            self.cache.drop(own)

    async def reconcile(self) -> float | None:
        """One visit; only what it wrote is in `cluster.writes` after it."""
        self.cluster.writes.clear()
        try:
            return await self.reconciler.reconcile(KEY)
        finally:
            self.watch()

    def edit(self, kind: str, name: str, change: Callable[[Object], None]) -> None:
        """A hand's work."""
        body = self.cluster.named(kind, name)
        change(body)
        self.cluster.put(body)
        self.watch()

    def serve(self, *replicas: Any, **changes: Any) -> None:
        """The routers run, with this view."""
        self.cluster.put(
            {
                "kind": "EndpointSlice",
                "metadata": {
                    "name": "nemo-reports",
                    "namespace": "default",
                    "labels": {**labels("nemo"), "kubernetes.io/service-name": "nemo-reports"},
                },
                "addressType": "IPv4",
                "endpoints": [{"addresses": [ROUTER.host]}],
                "ports": [{"name": "internal", "port": ROUTER.port}],
            }
        )
        self.routers.views[ROUTER] = view(*replicas, **changes)

    def make_cluster(self, name: str) -> None:
        """As KubeRay makes a RayCluster of the RayService that is there."""
        service = self.cluster.named("RayService", "nemo")
        config = service["spec"]["rayClusterConfig"]
        annotations = {**service["metadata"]["annotations"], KUBERAYS_HASH: f"of {shape_of(config)}"}
        self.cluster.put(
            {
                "apiVersion": "ray.io/v1",
                "kind": "RayCluster",
                "metadata": {"name": name, "namespace": "default", "annotations": annotations},
                "spec": config,
                "status": {"conditions": [{"type": "HeadPodReady", "status": "True"}]},
            }
        )

    def settle(self, active: str = "nemo-1", pending: str = "") -> None:
        """The controllers have done their work, as far as these clusters let them."""

        def deployed(body: Object) -> None:
            count = body["spec"]["replicas"]
            body["status"] = {
                "observedGeneration": body["metadata"]["generation"],
                "replicas": count,
                "updatedReplicas": count,
                "readyReplicas": count,
            }

        def ready(body: Object) -> None:
            upgrading = "BothActivePendingClustersExist" if pending else "NoPendingCluster"
            found = [("Ready", "True", "NonZeroServeEndpoints"), ("UpgradeInProgress", str(bool(pending)), upgrading)]
            body["status"] = {
                "observedGeneration": body["metadata"]["generation"],
                "conditions": [dict(zip(("type", "status", "reason"), each, strict=True)) for each in found],
                "activeServiceStatus": {"rayClusterName": active},
                "pendingServiceStatus": {"rayClusterName": pending} if pending else {},
            }

        self.edit("Deployment", "nemo-router", deployed)
        self.edit("RayService", "nemo", ready)

    def conditions(self) -> dict[str, tuple[str, str]]:
        status = self.cluster.named("NemotronDeployment", "nemo")["status"]
        return {one["type"]: (one["status"], one["reason"]) for one in status["conditions"]}

    def events(self) -> list[str]:
        return [body["reason"] for body in self.cluster.objects.values() if body["kind"] == "Event"]

    def kinds(self) -> set[str]:
        return {kind for kind, _, _ in self.cluster.objects}
