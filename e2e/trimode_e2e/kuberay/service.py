"""One RayService, played: its clusters, and what is told of them.

Belongs here: comparing a RayService with its clusters and acting, in a thread of its own.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import logging
import secrets
import threading
import time
from typing import Any

from trimode_e2e.api import Api, Object, Refused
from trimode_e2e.errors import Broken
from trimode_e2e.kuberay.cluster import Cluster
from trimode_e2e.kuberay.shape import Group, groups, in_place
from trimode_e2e.kuberay.status import ClusterState, status_of

API_VERSION, KIND = "ray.io/v1", "RayService"
POLL_S = 0.3
LONGEST_OLD_CLUSTER_S = 10.0
"""An upgrade's old cluster stays as long as the RayService says, but here no longer than this, in seconds."""

_log = logging.getLogger(__name__)


class Service:
    """One RayService's clusters. `clusters_made` counts them over its life."""

    def __init__(self, api: Api, item: Object, environment: dict[str, str]) -> None:
        self.wanted = item
        self.active: Cluster | None = None
        self.pending: Cluster | None = None
        self.clusters_made = 0
        self.deploys = 0
        self._api = api
        self._environment = environment
        self._said: dict[str, Any] = {}
        self._since: dict[str, tuple[str, str]] = {}
        self._old: list[tuple[float, Cluster]] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._live, name=f"rayservice {self._name}", daemon=True)
        self._thread.start()

    @property
    def uid(self) -> str:
        return str(self.wanted["metadata"]["uid"])

    def engines(self) -> frozenset[int]:
        """Process ids of the engines, of all clusters."""
        clusters = [cluster for cluster in (self.active, self.pending) if cluster is not None]
        return frozenset().union(*(cluster.engines() for cluster in clusters))

    def end(self) -> None:
        """Stop playing it; does not wait."""
        self._ending.set()

    def join(self) -> None:
        self._thread.join(60)

    def _live(self) -> None:
        while not self._ending.is_set():
            try:
                self._step(self.wanted)
            except Refused as exc:
                _log.warning("rayservice %s: %s", self._name, exc)  # gone or changed: the next snapshot tells
            except Exception as exc:  # noqa: BLE001 - the server may be away in any way
                _log.warning("rayservice %s: %s", self._name, exc)
                self._complain(exc)
            self._ending.wait(POLL_S)
        self._stop_clusters()

    def _step(self, item: Object) -> None:
        spec = item["spec"]
        if spec.get("suspend"):
            if self.active or self.pending:
                self._tell(item, suspending=True)
            self._stop_clusters()
            self._tell(item, suspended=True)
            return
        self._fit(spec)
        states = [self._run(cluster, spec) for cluster in (self.active, self.pending)]
        if self.pending is not None and states[1] is not None and states[1].ready:
            if self.active is not None:
                stay = min(float(spec.get("rayClusterDeletionDelaySeconds", 60)), LONGEST_OLD_CLUSTER_S)
                self._old.append((time.monotonic() + stay, self.active))
            self.active, self.pending = self.pending, None
            states = [states[1], None]
        self._stop_old(time.monotonic())
        self._tell(item, active=states[0], pending=states[1])

    def _fit(self, spec: dict[str, Any]) -> None:
        """A cluster of the wanted shape: the active one, the pending one, or a new one."""
        wanted = spec["rayClusterConfig"]
        if self.active is not None and in_place(self.active.shape, wanted):
            if self.pending is not None:
                self.pending.stop()
                self.pending = None
            self.active.shape = wanted
            return
        if self.pending is not None and not in_place(self.pending.shape, wanted):
            self.pending.stop()
            self.pending = None
        if self.pending is None:
            head = self._resolved(wanted["headGroupSpec"]["template"]["spec"]["containers"][0].get("env", []))
            for group in groups(wanted):
                head |= self._resolved(group.environment)
            self.pending = Cluster(f"{self._name}-{secrets.token_hex(3)}", self._environment | head)
            self.clusters_made += 1
        self.pending.shape = wanted

    def _run(self, cluster: Cluster | None, spec: dict[str, Any]) -> ClusterState | None:
        """Groups, then what Serve runs, then how that is."""
        if cluster is None:
            return None
        found = groups(cluster.shape)
        if found != cluster.known_groups:
            cluster.groups(found, self._environments(found))
        # While another cluster is being made ready, the active one keeps what it serves.
        if spec["serveConfigV2"] != cluster.config and cluster is (self.pending or self.active):
            cluster.deploy(spec["serveConfigV2"])
            self.deploys += 1
        return cluster.state()

    def _environments(self, found: tuple[Group, ...]) -> dict[str, dict[str, str]]:
        return {group.name: self._environment | self._resolved(group.environment) for group in found}

    def _resolved(self, variables: list[dict[str, Any]]) -> dict[str, str]:
        """Plain values. HOME is left: it is this machine's."""
        values = {}
        for variable in variables:
            source = variable.get("valueFrom", {}).get("secretKeyRef")
            if source is None:
                values[variable["name"]] = str(variable.get("value", ""))
                continue
            secret = self._api.get("v1", "Secret", source["name"], self._namespace)
            if secret is None or source["key"] not in secret.get("data", {}):
                raise Broken(f"secret {source['name']!r} has no key {source['key']!r}")
            values[variable["name"]] = base64.b64decode(secret["data"][source["key"]]).decode()
        values.pop("HOME", None)
        return values

    def _stop_clusters(self) -> None:
        for cluster in (self.active, self.pending):
            if cluster is not None:
                cluster.stop()
        self.active = self.pending = None
        self._stop_old(float("inf"))

    def _stop_old(self, now: float) -> None:
        for until, cluster in tuple(self._old):
            if now >= until:
                cluster.stop()
                self._old.remove((until, cluster))

    def _complain(self, exc: Exception) -> None:
        message = str(exc)[-1000:]
        with contextlib.suppress(Exception):
            failed = {"applicationStatuses": {"": {"status": "DEPLOY_FAILED", "message": message}}}
            self._write({"activeServiceStatus": failed, "numServeEndpoints": 0})

    def _tell(
        self,
        item: Object,
        active: ClusterState | None = None,
        pending: ClusterState | None = None,
        suspended: bool = False,
        suspending: bool = False,
    ) -> None:
        self._write(status_of(item["metadata"]["generation"], active, pending, suspended, suspending))

    def _write(self, status: dict[str, Any]) -> None:
        if status == self._said:
            return
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        conditions = []
        for condition in status.get("conditions", []):
            was, since = self._since.get(condition["type"], ("", now))
            since = since if was == condition["status"] else now
            self._since[condition["type"]] = (condition["status"], since)
            conditions.append(condition | {"lastTransitionTime": since})
        # Merge patches keep what is not named: maps that may shrink are emptied first.
        cleared = {"activeServiceStatus": None, "pendingServiceStatus": None}
        if self._said and any(self._said.get(key) != status.get(key) for key in cleared):
            self._api.patch_status(API_VERSION, KIND, self._name, self._namespace, cleared)
        body = status | ({"conditions": conditions} if conditions else {}) | {"lastUpdateTime": now}
        self._api.patch_status(API_VERSION, KIND, self._name, self._namespace, body)
        self._said = status

    @property
    def _name(self) -> str:
        return str(self.wanted["metadata"]["name"])

    @property
    def _namespace(self) -> str:
        return str(self.wanted["metadata"]["namespace"])
