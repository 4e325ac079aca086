"""Everything of a test run together: the cluster, our CRDs, the doubles, and short words for what tests ask.

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
from trimode_e2e.kubelet.names import Names
from trimode_e2e.kubelet.node import Node
from trimode_e2e.kuberay.controller import Controller
from trimode_e2e.kuberay.service import Service

VERSION, KIND = "trimode.dev/v1alpha1", "NemotronDeployment"
RAY = "ray.io/v1", "RayService"
PAPER = "paper-"
"""Namespaces that begin so are for objects only: neither pods nor RayServices in them are played."""

READY_TIMEOUT_S = 90.0


def tiny(name: str, namespace: str, **spec: Any) -> Object:
    """A resource that a small machine serves; `spec` replaces whole fields."""
    return {
        "apiVersion": VERSION,
        "kind": KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": {"uri": "tiny://"},
            "engine": {"maxContextTokens": 512, "maxRunningRequests": 8},
            "pools": [{"name": "flex", "modes": ["AR", "SelfSpeculation"], "blockLengths": [8, 16]}],
            "drain": {"timeoutSeconds": 10},
            **spec,
        },
    }


@dataclass(slots=True)
class World:
    """A cluster with our CRDs, and the doubles once `play` has been called."""

    cluster: Cluster
    api: Api
    folder: Path
    node: Node | None = None
    kuberay: Controller | None = None

    @classmethod
    def create(cls, cluster: Cluster, folder: Path) -> World:
        """Install the CRDs."""
        world = cls(cluster, Api(cluster.kubeconfig), folder)
        for crd in (crds.ours(world.api.version), crds.ray_service(world.api.version)[0]):
            world.install(crd)
        return world

    def install(self, crd: Object) -> None:
        """A CRD, served when this returns."""
        name = crd["metadata"]["name"]
        if self.api.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", name) is None:
            self.api.create(crd)  # much quicker for a large one than server-side apply
        else:
            self.api.apply(crd)
        self.api.until(lambda: self._established(name), f"CRD {name} is established")
        version = next(each["name"] for each in crd["spec"]["versions"] if each["served"])
        kind = crd["spec"]["names"]["kind"]
        self.api.until(lambda: self.api.knows(f"{crd['spec']['group']}/{version}", kind), f"{kind} is served")

    def play(self) -> None:
        """Start the node and KubeRay. Raises Missing where this machine cannot."""
        names = Names(self.api, self.folder / "hosts")
        environment = names.environment()
        self.node = Node(self.api, self.folder / "pods", names, _played)
        self.node.start()
        self.kuberay = Controller(Api(self.cluster.kubeconfig), environment, _played)
        self.kuberay.start()

    def stop(self) -> None:
        if self.kuberay is not None:
            self.kuberay.stop()
        if self.node is not None:
            self.node.stop()

    def namespace(self, prefix: str = "t-") -> str:
        """A fresh one."""
        name = f"{prefix}{secrets.token_hex(3)}"
        self.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
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
        self, name: str, namespace: str, kind: str, status: str = "True", timeout_s: float = READY_TIMEOUT_S
    ) -> Object:
        """Wait for a condition of the current generation. Fails with all conditions as they are."""

        def look() -> Object | None:
            item = self.get(name, namespace)
            found = self.condition(name, namespace, kind)
            current = found.get("observedGeneration") == item["metadata"]["generation"]
            return found if found.get("status") == status and current else None

        try:
            found: Object = self.api.until(look, f"{kind}={status}", timeout_s)
        except AssertionError as exc:
            status_now = self.get(name, namespace).get("status", {})
            raise AssertionError(f"{exc}; status: {json.dumps(status_now, indent=1)}") from exc
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

    def routers(self, name: str, namespace: str) -> list[str]:
        """Addresses of the ready routers."""
        assert self.node is not None
        return [
            pod.address
            for pod in tuple(self.node.pods.values())
            if pod.namespace == namespace and pod.labels.get("app.kubernetes.io/instance") == name and pod.ready
        ]

    def url(self, name: str, namespace: str) -> str:
        """Where a client reaches a ready router."""
        found = self.routers(name, namespace)
        assert found, f"no router of {namespace}/{name} is ready"
        return f"http://{found[0]}:8000"

    def fleet(self, name: str, namespace: str) -> FleetView | None:
        """A ready router's view."""
        return next(
            (
                view
                for address in self.routers(name, namespace)
                if (view := clients.fleet(f"{address}:8001", self.token(name, namespace)))
            ),
            None,
        )

    def ray(self, name: str, namespace: str) -> Service:
        """The double of the resource's RayService."""
        assert self.kuberay is not None
        return self.kuberay.service(namespace, name)

    def delete(self, name: str, namespace: str, timeout_s: float = 60.0) -> None:
        """Delete the resource and wait until nothing of it is left."""
        self.api.delete(VERSION, KIND, name, namespace)
        self.until_gone(name, namespace, timeout_s)

    def until_gone(self, name: str, namespace: str, timeout_s: float = 60.0) -> None:
        gone: Callable[[], bool] = lambda: self.api.get(VERSION, KIND, name, namespace) is None  # noqa: E731
        self.api.until(gone, f"{namespace}/{name} is gone", timeout_s)
        self.api.until(
            lambda: not self.children(name, namespace), f"children of {namespace}/{name} are gone", timeout_s
        )

    def _established(self, name: str) -> bool:
        crd = self.api.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", name) or {}
        conditions = crd.get("status", {}).get("conditions") or []
        return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)


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


def _played(namespace: str) -> bool:
    return not namespace.startswith(PAPER)
