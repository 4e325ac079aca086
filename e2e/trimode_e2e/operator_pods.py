"""The operator's own pods, as the chart made them: which one leads, its process, what it has asked of the API server.

Belongs here: questions about an installed release. Nothing here changes it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import httpx
import psutil

from trimode_e2e.api import Object
from trimode_e2e.audit import Audit, Request
from trimode_e2e.clients import TRUST
from trimode_e2e.node.node import RealNode
from trimode_e2e.world import World, is_ready

LEADS_TIMEOUT_S = 180.0
READY_TIMEOUT_S = 480.0
LEADER = "trimode_operator_leader 1.0"
"""The line of its metrics by which a copy says that it leads."""
VISITS = "trimode_operator_reconcile_seconds_count"
"""How its lines begin that count looks at resources."""


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

    def visits(self) -> float:
        """How often the copies have looked at resources so far."""
        lines = (line for pod in self.pods() for line in metrics_of(pod) if line.startswith(VISITS))
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    @property
    def audit(self) -> Audit:
        """What they ask of the API server."""
        return Audit(self.node.plane.audit_log, self.account)

    def requests(self) -> list[Request]:
        """All that the account has asked for until now, discovery left out."""
        return self.audit.requests()

    def await_writes(self, position: int, count: int, timeout_s: float = 120.0) -> None:
        """Until the account has written so many objects, not counting Leases, after this `position` in the audit log.

        Looks much more often than `Api.until` does: what comes next may have to happen before the next write.
        """
        deadline = time.monotonic() + timeout_s
        while sum(each.writes and each.resource != "leases" for each in self.audit.after(position)) < count:
            assert time.monotonic() < deadline, f"the operator has not written {count} objects within {timeout_s:g} s"
            time.sleep(0.002)

    def position(self) -> int:
        """Where the audit log ends now."""
        return self.audit.position()


def says_it_leads(pod: Object) -> bool:
    """By its own metrics; False where it does not answer."""
    return LEADER in metrics_of(pod)


def metrics_of(pod: Object) -> list[str]:
    """The lines of its metrics; none where it does not answer."""
    address = (pod.get("status") or {}).get("podIP")
    if address is None:
        return []
    try:
        return httpx.get(f"http://{address}:8080/metrics", timeout=2, trust_env=False, verify=TRUST).text.splitlines()
    except httpx.HTTPError:
        return []
