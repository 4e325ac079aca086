"""The API server, as far as the operator uses it.

Objects are plain data; lists come with `apiVersion` and `kind` in every item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from trimode_api.crd import PLURAL
from trimode_api.resource import GROUP, KIND, VERSION
from trimode_operator.plan import ChildKind

Object = dict[str, Any]

RESOURCE = ChildKind(f"{GROUP}/{VERSION}", KIND, PLURAL)
ENDPOINT_SLICES = ChildKind("discovery.k8s.io/v1", "EndpointSlice", "endpointslices")
RAY_CLUSTER = ChildKind("ray.io/v1", "RayCluster", "rayclusters")
"""KubeRay's, made from our RayService."""
POD = ChildKind("v1", "Pod", "pods")
EVENT = ChildKind("v1", "Event", "events")
LEASE = ChildKind("coordination.k8s.io/v1", "Lease", "leases")


class Cluster(Protocol):
    """What the operator asks of an API server. Every method raises ApiFailure or ApiUnreachable."""

    async def read(self, path: str) -> Object | None:
        """The object at a path, None where there is none."""

    async def get(self, kind: ChildKind, namespace: str, name: str) -> Object | None:
        """One object, None where there is none."""

    async def exists(self, kind: ChildKind, namespace: str, name: str) -> bool:
        """Whether there is such an object; what is in it is not asked for."""

    async def listed(self, kind: ChildKind, namespace: str | None, selector: str = "") -> list[Object]:
        """Objects of a kind; none where the cluster does not know the kind."""

    async def apply(self, kind: ChildKind, manifest: Mapping[str, Any]) -> Object:
        """Server-side apply, forced: fields in the manifest become ours. The object as it then is."""

    async def merge(
        self, kind: ChildKind, namespace: str, name: str, patch: Mapping[str, Any], subresource: str = ""
    ) -> Object:
        """A JSON merge patch. The object as it then is."""

    async def patch(
        self, kind: ChildKind, namespace: str, name: str, operations: Sequence[Mapping[str, Any]]
    ) -> Object:
        """A JSON patch: all of the operations, or none where a `test` among them fails. The object as it then is."""

    async def create(self, kind: ChildKind, namespace: str, body: Mapping[str, Any]) -> Object:
        """A new object."""

    async def replace(self, kind: ChildKind, namespace: str, name: str, body: Mapping[str, Any]) -> Object:
        """Another state of an object; ApiFailure 409 where it has changed since it was read."""

    async def delete(self, kind: ChildKind, namespace: str, name: str, uid: str) -> None:
        """Ask for the end of exactly this object; nothing where it is gone already."""


def collection(kind: ChildKind, namespace: str | None) -> str:
    """The path of all objects of a kind, in one namespace or in all."""
    root = "/api" if "/" not in kind.api_version else "/apis"
    place = f"/namespaces/{namespace}" if namespace is not None else ""
    return f"{root}/{kind.api_version}{place}/{kind.plural}"


def name_of(body: Mapping[str, Any]) -> str:
    return str(body["metadata"]["name"])


def version_of(body: Mapping[str, Any]) -> int:
    """Of two states of one object the higher is the later one; 0 for what was never stored."""
    text = str(body["metadata"].get("resourceVersion", "0"))
    return int(text) if text.isdigit() else 0
