"""The real API server, through the official client's asyncio edition.

Its typed models are left aside: manifests are plain data throughout, and models of one Kubernetes version would drop
what another one knows.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import client, config
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.config.config_exception import ConfigException

from trimode_operator.errors import ApiFailure, ApiUnreachable, BadStart
from trimode_operator.kube.client import Object, collection
from trimode_operator.plan import ChildKind
from trimode_operator.plan.names import MANAGER

TIMEOUT_S = 15.0
CONNECTIONS = 32
JSON = "application/json"
MERGE = "application/merge-patch+json"
OPERATIONS = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"  # JSON is YAML
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
AS_JSON = {"Accept": JSON, "Content-Type": JSON}


class ApiServer:
    """A `Cluster`. Made by `connect`; `close` when done."""

    def __init__(self, configuration: Any) -> None:
        configuration.connection_pool_maxsize = CONNECTIONS
        self._client: Any = client.ApiClient(configuration)  # untyped

    async def close(self) -> None:
        await self._client.close()

    async def read(self, path: str) -> Object | None:
        return await self._found("GET", path)

    async def get(self, kind: ChildKind, namespace: str, name: str) -> Object | None:
        return await self._found("GET", f"{collection(kind, namespace)}/{name}")

    async def exists(self, kind: ChildKind, namespace: str, name: str) -> bool:
        # Of a Secret only the metadata: its content is neither sent nor held here.
        path = f"{collection(kind, namespace)}/{name}"
        return await self._found("GET", path, headers={"Accept": METADATA}) is not None

    async def listed(self, kind: ChildKind, namespace: str | None, selector: str = "") -> list[Object]:
        query = {"labelSelector": selector} if selector else {}
        answer = await self._found("GET", collection(kind, namespace), query=query)
        items: list[Object] = (answer or {}).get("items") or []
        return [{"apiVersion": kind.api_version, "kind": kind.kind, **item} for item in items]

    async def apply(self, kind: ChildKind, manifest: Mapping[str, Any]) -> Object:
        metadata = manifest["metadata"]
        path = f"{collection(kind, metadata['namespace'])}/{metadata['name']}"
        # Forced: without it a field that a hand has edited would be a conflict for ever. Objects of others do not get
        # here.
        query = {"fieldManager": MANAGER, "force": "true"}
        return await self._request("PATCH", path, manifest, query=query, headers={"Content-Type": APPLY})

    async def merge(
        self, kind: ChildKind, namespace: str, name: str, patch: Mapping[str, Any], subresource: str = ""
    ) -> Object:
        path = f"{collection(kind, namespace)}/{name}" + (f"/{subresource}" if subresource else "")
        headers = {"Content-Type": MERGE}
        return await self._request("PATCH", path, patch, query={"fieldManager": MANAGER}, headers=headers)

    async def patch(
        self, kind: ChildKind, namespace: str, name: str, operations: Sequence[Mapping[str, Any]]
    ) -> Object:
        path = f"{collection(kind, namespace)}/{name}"
        headers = {"Content-Type": OPERATIONS}
        return await self._request("PATCH", path, operations, query={"fieldManager": MANAGER}, headers=headers)

    async def create(self, kind: ChildKind, namespace: str, body: Mapping[str, Any]) -> Object:
        return await self._request("POST", collection(kind, namespace), body, query={"fieldManager": MANAGER})

    async def replace(self, kind: ChildKind, namespace: str, name: str, body: Mapping[str, Any]) -> Object:
        path = f"{collection(kind, namespace)}/{name}"
        return await self._request("PUT", path, body, query={"fieldManager": MANAGER})

    async def delete(self, kind: ChildKind, namespace: str, name: str, uid: str) -> None:
        # By uid: since it was looked at, another object may have taken the name.
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        try:
            await self._found("DELETE", f"{collection(kind, namespace)}/{name}", options)
        except ApiFailure as failure:
            if failure.status != 409:  # another object of that name: ours is gone
                raise

    async def _found(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] = AS_JSON,
    ) -> Object | None:
        try:
            return await self._request(method, path, body, query=query, headers=headers)
        except ApiFailure as failure:
            if failure.status == 404:
                return None
            raise

    async def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] = AS_JSON,
    ) -> Object:
        url = self._client.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        sent = {**AS_JSON, **headers, "User-Agent": MANAGER}
        try:
            await self._client.update_params_for_auth(sent, [], ["BearerToken"], path, method, body)
            answer = await self._client.rest_client.request(
                method, url, headers=sent, body=body, _request_timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)
            )
            data = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiUnreachable(f"{method} {path}: {error or type(error).__name__}") from error
        except (ApiException, ConfigException) as error:
            raise ApiUnreachable(f"{method} {path}: {error}") from error
        if answer.status >= 400:
            try:
                status = json.loads(data)
                reason, message = str(status.get("reason", "")), str(status.get("message", ""))
            except (ValueError, AttributeError):  # a proxy's words, or an aggregated API's in plain text
                said = f"{method} {path}: HTTP {answer.status}: {data[:200].decode(errors='replace')}"
                raise ApiFailure(answer.status, "", said) from None
            raise ApiFailure(answer.status, reason, message or f"HTTP {answer.status}")
        result: Object = json.loads(data)
        return result


async def connect() -> ApiServer:
    """By the pod's ServiceAccount, else by KUBECONFIG or ~/.kube/config. Raises BadStart."""
    configuration = client.Configuration()
    load: Any = config  # untyped
    try:
        load.load_incluster_config(client_configuration=configuration)
    except ConfigException as inside:
        try:
            await load.load_kube_config(client_configuration=configuration)
        except ConfigException as outside:
            raise BadStart(
                f"no credentials for an API server: not in a pod ({inside}), and no kubeconfig ({outside}); "
                "set KUBECONFIG"
            ) from outside
    return await asyncio.to_thread(ApiServer, configuration)  # reads certificates
