"""Everything of a test run together: the cluster, our CRDs, and short words for what tests ask.

Belongs here: `World`. Each part is its own module's.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimode_api.fleet import FleetView
from trimode_e2e import clients, crds
from trimode_e2e.api import Api, Object
from trimode_e2e.control.provide import Cluster
from trimode_e2e.errors import Broken
from trimode_e2e.forward import Forwards

VERSION, KIND = "trimode.dev/v1alpha1", "NemotronDeployment"
RAY = "ray.io/v1", "RayService"
RAY_CLUSTER = "ray.io/v1", "RayCluster"
READY_TIMEOUT_S = 480.0
SMALL = {"cpu": "100m", "memory": "2Gi"}
"""What a replica of a test asks for: nodes of two cores hold several."""


def tiny(name: str, namespace: str, **spec: Any) -> Object:
    """A resource that a small machine serves; `spec` replaces whole fields."""
    return {
        "apiVersion": VERSION,
        "kind": KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": {"uri": "tiny://"},
            "engine": {"maxContextTokens": 512, "maxRunningRequests": 8},
            "pools": [pool("flex")],
            "drain": {"timeoutSeconds": 10},
            **spec,
        },
    }


def pool(name: str, **fields: Any) -> Object:
    """A pool of `tiny`; `fields` replaces whole fields."""
    return {
        "name": name,
        "modes": ["AR", "SelfSpeculation"],
        "blockLengths": [8, 16],
        "resources": SMALL,
        **fields,
    }


@dataclass(slots=True)
class World:
    """A cluster with our CRDs. Whether anything runs on it is the cluster's matter."""

    cluster: Cluster
    api: Api
    folder: Path
    forwards: Forwards | None = None
    """The way to Services and pods where the node is not at hand."""

    @classmethod
    def create(cls, cluster: Cluster, folder: Path, *, with_ours: bool = True) -> World:
        """Install the CRDs: KubeRay's where they are missing, and ours unless a chart is to bring it."""
        world = cls(cluster, Api(cluster.kubeconfig), folder)
        # A cluster with KubeRay has its definitions, perhaps newer ones; then the pinned module need not be fetched.
        missing = [] if world.api.knows(*RAY) else crds.kuberays()
        for crd in (*([crds.ours()] if with_ours else []), *missing):
            world.install(crd)
        return world

    def install(self, crd: Object) -> None:
        """A CRD, served when this returns."""
        name = crd["metadata"]["name"]
        if self.api.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", name) is None:
            self.api.create(crd)  # much quicker for a large one than server-side apply
        elif crd["spec"]["group"] == VERSION.partition("/")[0]:
            self.api.apply(crd)
        self.api.until(lambda: self._established(name), f"CRD {name} is established")
        version = next(each["name"] for each in crd["spec"]["versions"] if each["served"])
        kind = crd["spec"]["names"]["kind"]
        self.api.until(lambda: self.api.knows(f"{crd['spec']['group']}/{version}", kind), f"{kind} is served")

    def namespace(self, prefix: str = "t-", **labels: str) -> str:
        """A fresh one, in which ServiceAccounts are there."""
        name = f"{prefix}{secrets.token_hex(3)}"
        self.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        return name

    def get(self, name: str, namespace: str) -> Object:
        found = self.api.get(VERSION, KIND, name, namespace)
        assert found is not None, f"{namespace}/{name} is gone"
        return found

    def patch(self, name: str, namespace: str, spec: Object) -> Object:
        """Change fields of the spec; lists are replaced."""
        return self.api.patch(VERSION, KIND, name, namespace, {"spec": spec})

    def condition(self, name: str, namespace: str, kind: str) -> Object:
        """The condition, empty where there is none."""
        conditions = self.get(name, namespace).get("status", {}).get("conditions") or []
        return next((each for each in conditions if each["type"] == kind), {})

    def until_condition(
        self,
        name: str,
        namespace: str,
        kind: str,
        status: str = "True",
        timeout_s: float = READY_TIMEOUT_S,
        reason: str = "",
    ) -> Object:
        """Wait for a condition of the current generation. Fails with all conditions as they are."""

        def look() -> Object | None:
            item = self.get(name, namespace)
            found = self.condition(name, namespace, kind)
            current = found.get("observedGeneration") == item["metadata"]["generation"]
            fits = found.get("status") == status and reason in ("", found.get("reason"))
            return found if fits and current else None

        try:
            found: Object = self.api.until(look, f"{kind}={status} {reason}".strip(), timeout_s)
        except AssertionError as exc:
            status_now = self.get(name, namespace).get("status", {})
            told = [json.dumps(status_now, indent=1), *self.pod_states(namespace)]
            raise AssertionError("\n".join([f"{exc}; status:", *told])) from exc
        return found

    def children(self, name: str, namespace: str) -> dict[str, Object]:
        """What the operator made for the resource, by `Kind/name`."""
        return {f"{each['kind']}/{each['metadata']['name']}": each for each in self._children(name, namespace)}

    def _children(self, name: str, namespace: str) -> Iterator[Object]:
        selector = f"app.kubernetes.io/managed-by=trimode-operator,app.kubernetes.io/instance={name}"
        for api_version, kind in CHILDREN:
            if self.api.knows_cached(api_version, kind):
                yield from self.api.listed(api_version, kind, namespace, selector)

    def token(self, name: str, namespace: str) -> str:
        secret = self.api.get("v1", "Secret", f"{name}-token", namespace)
        assert secret is not None
        return base64.b64decode(secret["data"]["token"]).decode()

    def pods(self, namespace: str, **labels: str) -> list[Object]:
        """Those with these labels (`component`, `instance`: Kubernetes' recommended ones) that are not going."""
        selector = ",".join(f"app.kubernetes.io/{key}={value}" for key, value in labels.items())
        found = self.api.listed("v1", "Pod", namespace, selector)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def ready_pods(self, namespace: str, **labels: str) -> list[Object]:
        return [pod for pod in self.pods(namespace, **labels) if is_ready(pod)]

    def pod_states(self, namespace: str) -> list[str]:
        """A line for each pod, for those who ask why something did not come."""
        lines = []
        for each in self.api.listed("v1", "Pod", namespace):
            state = each["status"].get("containerStatuses") or each["status"].get("conditions")
            log = self.cluster.node.log(each)[-1500:] if self.cluster.node and not is_ready(each) else ""
            lines.append(f"pod {each['metadata']['name']}: {json.dumps(state)}\n{log}")
        return lines

    def identities(self, name: str, namespace: str) -> frozenset[str]:
        """What a change of policy must not replace: every pod, and every restart of a container in it, once started."""
        return frozenset(
            f"{each['metadata']['name']} {status['containerID']}"
            for each in self.pods(namespace, instance=name)
            for status in each["status"].get("containerStatuses") or ()
            if "containerID" in status
        )

    def url(self, name: str, namespace: str) -> str:
        """Where a client on the node reaches the routers: their Service's address; else one router's, forwarded."""
        if self.forwards is not None:
            return f"http://{self.forwards.address(f'service/{name}-router', namespace, 8000)}"
        service = self.api.get("v1", "Service", f"{name}-router", namespace)
        assert service is not None
        return f"http://{service['spec']['clusterIP']}:8000"

    def fleet(self, name: str, namespace: str) -> FleetView | None:
        """A ready router's view."""
        token = self.token(name, namespace)
        routers = self.ready_pods(namespace, instance=name, component="router")
        views = (self._view(router, namespace, token) for router in routers)
        return next((view for view in views if view), None)

    def _view(self, router: Object, namespace: str, token: str) -> FleetView | None:
        """A router's, asked at its internal port; None where it does not answer."""
        if self.forwards is None:
            return clients.fleet(f"{router['status']['podIP']}:8001", token)
        try:
            return clients.fleet(self.forwards.address(f"pod/{router['metadata']['name']}", namespace, 8001), token)
        except Broken:  # the pod has gone meanwhile
            return None

    def first_answer(self, name: str, namespace: str, timeout_s: float = 120.0) -> clients.Answer:
        """As soon as one comes: kube-proxy learns of a router that has become ready up to a second later."""
        answer: clients.Answer = self.api.until(
            lambda: (found := clients.chat(self.url(name, namespace), name)).complete and found,
            f"{namespace}/{name} answers",
            timeout_s,
        )
        return answer

    def ray_clusters(self, name: str, namespace: str) -> dict[str, Object]:
        """The RayClusters that there are for the resource, by name."""
        found = self.api.listed(*RAY_CLUSTER, namespace, f"ray.io/originated-from-cr-name={name}")
        return {each["metadata"]["name"]: each for each in found}

    def active_cluster(self, name: str, namespace: str) -> str:
        """The RayCluster that KubeRay calls active; empty where there is none."""
        status = (self.api.get(*RAY, name, namespace) or {}).get("status") or {}
        return str((status.get("activeServiceStatus") or {}).get("rayClusterName") or "")

    def delete(self, name: str, namespace: str, timeout_s: float = 300.0) -> None:
        """Delete the resource and wait until nothing of it is left, pods included."""
        self.api.delete(VERSION, KIND, name, namespace)
        self.until_gone(name, namespace, timeout_s)

    def until_gone(self, name: str, namespace: str, timeout_s: float = 300.0) -> None:
        gone: Callable[[], bool] = lambda: self.api.get(VERSION, KIND, name, namespace) is None  # noqa: E731
        self.api.until(gone, f"{namespace}/{name} is gone", timeout_s)
        self.api.until(
            lambda: not self.children(name, namespace), f"children of {namespace}/{name} are gone", timeout_s
        )
        selector = f"app.kubernetes.io/instance={name}"
        self.api.until(
            lambda: not self.api.listed("v1", "Pod", namespace, selector), f"pods of {name} are gone", timeout_s
        )

    def _established(self, name: str) -> bool:
        crd = self.api.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", name) or {}
        conditions = crd.get("status", {}).get("conditions") or []
        return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)


def is_ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions") or []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


CHILDREN = (
    ("v1", "ServiceAccount"),
    ("v1", "Secret"),
    ("v1", "ConfigMap"),
    ("v1", "Service"),
    ("apps/v1", "Deployment"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("policy/v1", "PodDisruptionBudget"),
    RAY,
)
