"""The Kubernetes API as the harness uses it: plain dicts in and out.

Belongs here: all that imports the kubernetes client. Objects are named by their kind's plural, `rayservices.ray.io`
or `pods`, whatever version the server prefers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kubernetes import client, config, dynamic
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic.exceptions import NotFoundError

Object = dict[str, Any]

MANAGER = "trimode-e2e"
POLL_S = 0.1
DISCOVERY_S = 120.0
MERGE = "application/merge-patch+json"


class Refused(Exception):
    """The API server said no; `status` is HTTP's, the text is the server's message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """One user's way to one API server."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        load: Any = config.new_client_from_config
        self._http: Any = load(str(kubeconfig))
        self._dynamic: Any = None

    @property
    def version(self) -> tuple[int, int]:
        info = client.VersionApi(self._http).get_code()
        return int(info.major), int(info.minor.rstrip("+"))

    def knows(self, api_version: str, kind: str) -> bool:
        """Whether the server serves the kind, asked anew."""
        self._dynamic = None
        return bool(self._search(api_version, kind))

    def knows_cached(self, api_version: str, kind: str) -> bool:
        """The same from the last discovery."""
        return bool(self._search(api_version, kind))

    def get(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> Object | None:
        """None where there is none."""
        try:
            with _refusals():
                found: Object = self._of(api_version, kind).get(name=name, namespace=namespace).to_dict()
        except Refused as exc:
            if exc.status == 404:
                return None
            raise
        return found

    def listed(self, api_version: str, kind: str, namespace: str | None = None, selector: str = "") -> list[Object]:
        with _refusals():
            found = self._of(api_version, kind).get(namespace=namespace, label_selector=selector)
        return [item | {"apiVersion": api_version, "kind": kind} for item in found.to_dict()["items"]]

    def watched(self, api_version: str, kind: str, namespace: str) -> Iterator[tuple[str, Object]]:
        """Objects and every change from then on, without end: `ADDED`, `MODIFIED` or `DELETED`, with the object."""
        for event in self._of(api_version, kind).watch(namespace=namespace):
            yield event["type"], event["raw_object"]

    def create(self, manifest: Object) -> Object:
        kind, namespace = self._of(manifest["apiVersion"], manifest["kind"]), manifest["metadata"].get("namespace")
        with _refusals():
            made: Object = kind.create(body=manifest, namespace=namespace).to_dict()
        return made

    def apply(self, manifest: Object, force: bool = True) -> Object:
        """Server-side apply under the harness's own field manager."""
        kind, metadata = self._of(manifest["apiVersion"], manifest["kind"]), manifest["metadata"]
        with _refusals():
            applied: Object = kind.server_side_apply(
                body=manifest,
                name=metadata["name"],
                namespace=metadata.get("namespace"),
                field_manager=MANAGER,
                force_conflicts=force,
            ).to_dict()
        return applied

    def replace(self, manifest: Object) -> Object:
        """Raises Refused with 409 where `resourceVersion` is not the current one."""
        kind, namespace = self._of(manifest["apiVersion"], manifest["kind"]), manifest["metadata"].get("namespace")
        with _refusals():
            replaced: Object = kind.replace(body=manifest, namespace=namespace).to_dict()
        return replaced

    def patch(self, api_version: str, kind: str, name: str, namespace: str | None, change: Object) -> Object:
        """Merge patch: None deletes a field."""
        with _refusals():
            patched: Object = (
                self._of(api_version, kind)
                .patch(name=name, namespace=namespace, body=change, content_type=MERGE)
                .to_dict()
            )
        return patched

    def patch_status(self, api_version: str, kind: str, name: str, namespace: str | None, status: Object) -> Object:
        with _refusals():
            patched: Object = (
                self._of(api_version, kind)
                .subresources["status"]
                .patch(name=name, namespace=namespace, body={"status": status}, content_type=MERGE)
                .to_dict()
            )
        return patched

    def delete(
        self, api_version: str, kind: str, name: str, namespace: str | None = None, grace_s: int | None = None
    ) -> None:
        """Also where it is gone already."""
        options: Object = {"propagationPolicy": "Background"}
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        try:
            with _refusals():
                self._of(api_version, kind).delete(name=name, namespace=namespace, body=options)
        except Refused as exc:
            if exc.status != 404:
                raise

    def until(self, look: Callable[[], Any], what: str, timeout_s: float = 120.0) -> Any:
        """Ask until the answer is true, and return it. Raises AssertionError naming what did not come."""
        deadline = time.monotonic() + timeout_s
        while not (found := look()):
            assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
            time.sleep(POLL_S)
        return found

    def _of(self, api_version: str, kind: str) -> Any:
        found = self._search(api_version, kind)
        if not found:
            self._dynamic = None
            found = self._search(api_version, kind)
        named = [each for each in found if not each.kind.endswith("List")]
        if not named:
            raise Refused(404, f"the server does not know {kind} in {api_version}")
        return named[0]

    def _search(self, api_version: str, kind: str) -> Any:
        """By the last discovery, or a new one where that does not know the kind."""
        deadline = time.monotonic() + DISCOVERY_S
        make: Any = dynamic.DynamicClient
        while True:
            try:
                if self._dynamic is None:
                    self._dynamic = make(self._http, discoverer=dynamic.discovery.EagerDiscoverer)
                return self._dynamic.resources.search(api_version=api_version, kind=kind)
            except NotFoundError:  # a group that comes or goes is in the list of groups, and not served
                assert time.monotonic() < deadline, f"a listed group is not served for {DISCOVERY_S:g} s"
                time.sleep(POLL_S)


@contextmanager
def _refusals() -> Iterator[None]:
    """The client's errors as `Refused`."""
    try:
        yield
    except ApiException as exc:
        try:
            message = json.loads(exc.body or "")["message"]
        except (TypeError, ValueError, KeyError):
            message = str(exc.reason)
        raise Refused(exc.status or 0, message) from exc
