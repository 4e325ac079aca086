"""The operator's own pods, as the chart made them: which one leads, its process, what it has asked of the API server.

Belongs here: questions about an installed release. Nothing here changes it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import psutil

from trimode_e2e.api import Object
from trimode_e2e.node.node import RealNode
from trimode_e2e.world import World, is_ready

LEADS_TIMEOUT_S = 60.0
READY_TIMEOUT_S = 180.0
LEADER = "trimode_operator_leader 1.0"
"""The line of its metrics by which a copy says that it leads."""
WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(frozen=True, slots=True)
class Request:
    """One line of the API server's audit log. `pod` is the one whose token it was asked with."""

    pod: str
    verb: str
    resource: str
    namespace: str
    name: str
    uri: str
    code: int
    allowed: bool
    at: str

    @property
    def writes(self) -> bool:
        return self.verb in WRITES


@dataclass(frozen=True, slots=True)
class OperatorPods:
    """The pods of one release of the chart on a node of ours."""

    world: World
    node: RealNode
    namespace: str
    release: str

    @property
    def account(self) -> str:
        """The user as which the API server knows them."""
        return f"system:serviceaccount:{self.namespace}:{self.release}"

    def pods(self) -> list[Object]:
        return self.world.pods(self.namespace, name="trimode-operator", instance=self.release)

    def ready(self, count: int = 2) -> list[Object]:
        """That many pods, all ready. Fails with their states and what they print."""

        def look() -> list[Object]:
            pods = self.pods()
            return pods if len(pods) == count and all(map(is_ready, pods)) else []

        try:
            found: list[Object] = self.world.api.until(look, f"{count} ready operator pods", READY_TIMEOUT_S)
        except AssertionError as exc:
            raise AssertionError("\n".join([str(exc), *self.world.pod_states(self.namespace)])) from exc
        return found

    def pod(self, name: str) -> Object | None:
        return self.world.api.get("v1", "Pod", name, self.namespace)

    def leader(self) -> str:
        """The pod that the Lease names; empty where it names none that is there."""
        lease = self.world.api.get("coordination.k8s.io/v1", "Lease", self.release, self.namespace) or {}
        holder = str((lease.get("spec") or {}).get("holderIdentity") or "")
        names = [pod["metadata"]["name"] for pod in self.pods()]
        return next((name for name in names if holder.startswith(f"{name}_")), "")

    def leading(self) -> list[str]:
        """Pods that say of themselves that they lead."""
        return [pod["metadata"]["name"] for pod in self.pods() if says_it_leads(pod)]

    def one_leads(self, but: str = "") -> Object:
        """Wait until exactly one pod says that it leads, is the Lease's holder, and is not `but`."""

        def look() -> Object | None:
            holder = self.leader()
            return self.pod(holder) if holder not in ("", but) and self.leading() == [holder] else None

        found: Object = self.world.api.until(look, f"one pod leads, and not {but or 'none'}", LEADS_TIMEOUT_S)
        return found

    def process(self, pod: Object) -> psutil.Process:
        (found,) = self.node.processes(pod, "trimode_operator")
        return found

    def requests(self) -> list[Request]:
        """All that the account has asked for until now, discovery left out; earlier files of the log included."""
        return [request for line in self._lines() if (request := _request(json.loads(line))).resource]

    def await_writes(self, position: int, count: int, timeout_s: float = 30.0) -> None:
        """Until the account has written so many objects, not counting Leases, after this `position` in the audit log.

        Looks much more often than `Api.until` does: what comes next may have to happen before the next write.
        """
        deadline = time.monotonic() + timeout_s
        while sum(each.writes and each.resource != "leases" for each in self._requests_after(position)) < count:
            assert time.monotonic() < deadline, f"the operator has not written {count} objects within {timeout_s:g} s"
            time.sleep(0.002)

    def position(self) -> int:
        """Where the audit log ends now."""
        return self.node.plane.audit_log.stat().st_size

    def _requests_after(self, position: int) -> list[Request]:
        with self.node.plane.audit_log.open() as lines:
            lines.seek(position)
            return [_request(json.loads(line)) for line in lines if self._is_mine(line)]

    def _lines(self) -> Iterator[str]:
        log = self.node.plane.audit_log
        for file in sorted(log.parent.glob(f"{log.stem}*{log.suffix}")):
            with file.open() as lines:
                yield from filter(self._is_mine, lines)

    def _is_mine(self, line: str) -> bool:
        return f'"username":"{self.account}"' in line and line.endswith("\n")


def says_it_leads(pod: Object) -> bool:
    """By its own metrics; False where it does not answer."""
    address = (pod.get("status") or {}).get("podIP")
    if address is None:
        return False
    try:
        return LEADER in httpx.get(f"http://{address}:8080/metrics", timeout=2, trust_env=False).text.splitlines()
    except httpx.HTTPError:
        return False


def _request(line: dict[str, Any]) -> Request:
    thing, notes = line.get("objectRef") or {}, line.get("annotations") or {}
    pods = (line["user"].get("extra") or {}).get("authentication.kubernetes.io/pod-name") or [""]
    return Request(
        pod=pods[0],
        verb=line["verb"],
        resource=thing.get("resource", ""),
        namespace=thing.get("namespace", ""),
        name=thing.get("name", ""),
        uri=line["requestURI"],
        code=(line.get("responseStatus") or {}).get("code", 0),
        allowed=notes.get("authorization.k8s.io/decision") != "forbid",
        at=line["requestReceivedTimestamp"],
    )
