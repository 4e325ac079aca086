"""What a RayService's status says.

Belongs here: pure construction, in KubeRay's words.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

RUNNING = "RUNNING"


@dataclass(frozen=True, slots=True)
class ClusterState:
    """One cluster as seen from outside. `applications` is in the form of `applicationStatuses`."""

    name: str
    applications: dict[str, Any] = field(default_factory=dict)
    endpoints: int = 0
    workers: int = 0
    wanted: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        """Every application that was asked for runs, and some pod takes requests."""
        running = [name for name, state in self.applications.items() if state["status"] == RUNNING]
        return self.endpoints > 0 and set(self.wanted) <= set(running)


def status_of(
    generation: int, active: ClusterState | None, pending: ClusterState | None, suspended: bool, suspending: bool
) -> dict[str, Any]:
    """The status less `lastTransitionTime`, which is the writer's."""
    endpoints = active.endpoints if active else 0
    found = [
        _ready(active, suspended or suspending),
        ("UpgradeInProgress", active is not None and pending is not None, *_upgrade(active, pending)),
        ("Suspending", suspending, "SuspendRequested" if suspending else "NotSuspending", ""),
        ("Suspended", suspended, "SuspendComplete" if suspended else "NotSuspended", ""),
    ]
    return {
        "observedGeneration": generation,
        "numServeEndpoints": endpoints,
        "serviceStatus": "Running" if endpoints else "",
        "activeServiceStatus": _cluster(active),
        "pendingServiceStatus": _cluster(pending),
        "conditions": [
            {
                "type": name,
                "status": "True" if true else "False",
                "reason": reason,
                "message": message,
                "observedGeneration": generation,
            }
            for name, true, reason, message in found
        ],
    }


def _ready(active: ClusterState | None, resting: bool) -> tuple[str, bool, str, str]:
    if resting:
        return "Ready", False, "Suspended", "the service is suspended"
    if active is None:
        return "Ready", False, "Initializing", "RayService is initializing"
    if active.endpoints == 0:
        return "Ready", False, "ZeroServeEndpoints", "no pod takes requests"
    return "Ready", True, "NonZeroServeEndpoints", "Number of serve endpoints is greater than 0"


def _upgrade(active: ClusterState | None, pending: ClusterState | None) -> tuple[str, str]:
    if active is None:
        return "NoActiveCluster", "no active Ray cluster exists"
    if pending is None:
        return "NoPendingCluster", "active Ray cluster exists and no pending Ray cluster"
    return "BothActivePendingClustersExist", "both active and pending Ray clusters exist"


def _cluster(state: ClusterState | None) -> dict[str, Any]:
    if state is None:
        return {}
    ray = {"state": "ready", "readyWorkerReplicas": state.workers, "desiredWorkerReplicas": state.workers}
    return {"rayClusterName": state.name, "applicationStatuses": state.applications, "rayClusterStatus": ray}
