"""Which optional APIs the cluster has, and what the installed KubeRay knows.

APIs come and go while the operator runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping
from typing import Any

from trimode_operator.errors import FIELD_UNKNOWN, ApiFailure, KubeRayTooOld
from trimode_operator.kube.client import Cluster, Object
from trimode_operator.plan import Capabilities
from trimode_operator.plan.kuberay import OLDEST, RAYS_TOKEN, knows, lacking
from trimode_operator.plan.optional_objects import ROUTE_TIMEOUTS
from trimode_operator.plan.settings import Settings

APIS = {
    "kuberay": ("ray.io/v1", "rayservices"),
    "pdb_v1": ("policy/v1", "poddisruptionbudgets"),
    "service_monitor": ("monitoring.coreos.com/v1", "servicemonitors"),
    "http_route": ("gateway.networking.k8s.io/v1", "httproutes"),
    "inference_pool": ("inference.networking.k8s.io/v1", "inferencepools"),
}
SCHEMAS = "/openapi/v3"
"""Readable by every authenticated user, also where the operator may not look at CustomResourceDefinitions."""
IMAGE_VOLUMES_SINCE = (1, 35)
RAY, GATEWAY = "apis/ray.io/v1", "apis/gateway.networking.k8s.io/v1"

EVERY_S, SOON_S = 15.0, 1.0
"""Seconds between two looks: usually, and at the start or in doubt. Each look is up to seven requests."""
STALE = ("NotFound", "Http404", FIELD_UNKNOWN)
"""Reasons of refusals by which an API shows that has gone (its server then answers 404 in plain text), or changed."""

Schema = Mapping[str, Any]
ANYTHING: Schema = {}


class Published:
    """The schema of one kind's spec, in a document of megabytes that is read anew only when it has changed."""

    def __init__(self, cluster: Cluster, path: str, kind: str) -> None:
        self._cluster = cluster
        self._path = path
        self._kind = kind
        self.forget()

    def forget(self) -> None:
        self._read = ""
        """Where the schema was read: the address has a hash of its content in it."""
        self._spec: Schema | None = None

    async def spec(self, index: Object | None) -> Schema | None:
        """By the server's list of documents; None where it has none of the kind yet, anything where it tells none."""
        if index is None:
            return ANYTHING
        address = ((index.get("paths") or {}).get(self._path) or {}).get("serverRelativeURL", "")
        if address and address != self._read:
            found = spec_in(await self._cluster.read(address), self._kind)
            if found is not None:
                self._read, self._spec = address, found
        return self._spec


class Discovery:
    """Looks again and again."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._ray_service = Published(cluster, RAY, "RayService")
        self._http_route = Published(cluster, GATEWAY, "HTTPRoute")
        self._groups: Object | None = None
        self._image_volumes = True
        self._doubted = asyncio.Event()
        self._looked = False

    async def pause(self) -> None:
        """Until it is time to look again."""
        await asyncio.sleep(SOON_S)
        if self._looked:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._doubted.wait(), EVERY_S - SOON_S)

    def failed(self, reason: str) -> None:
        """A visit failed for this reason; where that is how an API shows that has come or gone, `pause` ends soon."""
        if reason in STALE:
            self._doubted.set()

    async def look(self) -> Capabilities:
        """What there is now. Raises ApiFailure or ApiUnreachable."""
        self._doubted.clear()
        groups = await self._cluster.read("/apis") or {}
        served = {version["groupVersion"] for group in groups.get("groups", []) for version in group["versions"]}
        found: dict[str, Any] = {}
        for name, (api, plural) in APIS.items():
            answer = await self._cluster.read(f"/apis/{api}") if api in served else None
            found[name] = any(resource["name"] == plural for resource in (answer or {}).get("resources", []))
        if self._groups != groups:
            # By the server's version, read again where its APIs have changed; one that is not told is new enough.
            told = await self._cluster.read("/version") or {}
            numbers = [re.match(r"\d+", str(told.get(part, ""))) for part in ("major", "minor")]
            version = tuple(int(number[0]) for number in numbers if number is not None)
            self._groups, self._image_volumes = groups, len(version) < 2 or version >= IMAGE_VOLUMES_SINCE
        found["image_volumes"] = self._image_volumes
        index: Object | None = None
        if found["kuberay"] or found["http_route"]:
            # Of the documents with schemas. Servers before 1.24 have none, and some clusters keep it from
            # ServiceAccounts: then the server's refusal says what is wrong.
            try:
                index = await self._cluster.read(SCHEMAS)
            except ApiFailure as failure:
                if failure.status != 403:
                    raise
        if found["http_route"]:
            found["route_timeouts"] = knows(await self._http_route.spec(index) or ANYTHING, ROUTE_TIMEOUTS)
        schema = await self._ray_service.spec(index) if found["kuberay"] else None
        self._looked = True
        if not found["kuberay"]:
            self._ray_service.forget()
            return Capabilities(**found)
        if schema is None:  # published a moment after the API itself
            return Capabilities(**(found | {"kuberay": False}))
        return Capabilities(**found, rays_token=knows(schema, RAYS_TOKEN), kuberay_lacks=lacking(schema))


def require(capabilities: Capabilities, settings: Settings) -> None:
    """Before anything is touched. Raises KubeRayTooOld where the installed KubeRay lacks what we cannot do without."""
    upgrade = "upgrade KubeRay, its CustomResourceDefinitions too (Helm does not)"
    if capabilities.kuberay and capabilities.kuberay_lacks:
        fields = ", ".join(f"spec.{path}" for path in capabilities.kuberay_lacks)
        raise KubeRayTooOld(f"KubeRay's RayService does not know {fields}; KubeRay {OLDEST} and later do: {upgrade}")
    if capabilities.kuberay and not capabilities.rays_token and not settings.network_policies:
        # Ray's dashboard runs whatever it is sent.
        raise KubeRayTooOld(
            f"KubeRay's RayService does not know spec.{RAYS_TOKEN} (1.5.1 and later do), and settings.networkPolicies "
            f"is false, so nothing would keep others from Ray's ports: {upgrade}, or set that to true"
        )


def spec_in(document: Object | None, kind: str) -> Schema | None:
    """The schema of the kind's spec in an OpenAPI document."""
    schemas: Mapping[str, Any] = ((document or {}).get("components") or {}).get("schemas") or {}
    for schema in schemas.values():
        if any(each.get("kind") == kind for each in schema.get("x-kubernetes-group-version-kind") or []):
            spec: Schema = (schema.get("properties") or {}).get("spec") or ANYTHING
            return spec
    return None
