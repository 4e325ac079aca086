"""The words of conditions: their types, every reason they can have, and a verdict."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from trimode_api.status import ConditionStatus
from trimode_operator.errors import FIELD_UNKNOWN
from trimode_operator.observe.observations import SECRET_INVALID, SECRET_MISSING

TRUE, FALSE, UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN
MESSAGE_MAX = 4096


class ConditionType(StrEnum):
    """In the order of the status."""

    READY = "Ready"
    SERVING = "Serving"
    PROGRESSING = "Progressing"
    ROUTER_READY = "RouterReady"
    WORKERS_READY = "WorkersReady"
    METRICS_FRESH = "MetricsFresh"
    SLO_MET = "SLOMet"
    SUSPENDED = "Suspended"
    EXTERNALLY_SCALED = "ExternallyScaled"


class Reason(StrEnum):
    """Every reason but those of the API server's refusals, which are passed on as they are."""

    AS_SPECIFIED = "AsSpecified"
    INVALID_SPEC = "InvalidSpec"
    FIELD_UNKNOWN = FIELD_UNKNOWN
    KUBERAY_MISSING = "KubeRayMissing"
    SECRET_MISSING = SECRET_MISSING
    SECRET_INVALID = SECRET_INVALID
    SUSPENDED = "Suspended"
    SUSPENDING = "Suspending"
    NOT_SUSPENDED = "NotSuspended"
    DRAINING = "Draining"
    NOT_OBSERVED = "NotObserved"
    ROUTERS_READY = "RoutersReady"
    SOME_ROUTERS_NOT_READY = "SomeRoutersNotReady"
    NO_ROUTER_READY = "NoRouterReady"
    ROUTER_ROLLOUT = "RouterRollout"
    POOLS_READY = "PoolsReady"
    POOLS_NOT_READY = "PoolsNotReady"
    RAY_SERVICE_READY = "RayServiceReady"
    RAY_SERVICE_NOT_READY = "RayServiceNotReady"
    RECREATING = "Recreating"
    WORKERS_ROLLOUT = "WorkersRollout"
    WAITING_FOR_QUOTA = "WaitingForQuota"
    KUBERAY_BEHIND = "KubeRayBehind"
    VALIDATION_FAILED = "ValidationFailed"
    HEAD_NOT_READY = "HeadNotReady"
    PODS_FAILING = "PodsFailing"
    WAITING_FOR_WORKERS = "WaitingForWorkers"
    DEPLOY_FAILED = "DeployFailed"
    POLICY_ROLLOUT = "PolicyRollout"
    REPLICAS_SERVE = "ReplicasServe"
    ASLEEP = "Asleep"
    ROUTERS_SERVE = "RoutersServe"
    NO_REPLICA_READY = "NoReplicaReady"
    REPORTS_FRESH = "ReportsFresh"
    REPORTS_STALE = "ReportsStale"
    ROUTERS_UNREACHABLE = "RoutersUnreachable"
    NO_REPLICA = "NoReplica"
    OBJECTIVES_MET = "ObjectivesMet"
    OBJECTIVES_MISSED = "ObjectivesMissed"
    NO_TRAFFIC = "NoTraffic"
    REPLICAS_SET = "ReplicasSet"
    OWN_SIZING = "OwnSizing"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A condition as of now. `reason` is a `Reason`, or the API server's own word."""

    status: ConditionStatus
    reason: str
    message: str = ""


def replicas(count: int) -> str:
    return f"{count} replica{'s' if count != 1 else ''}"


def lines(parts: tuple[str, ...]) -> str:
    """As many lines as fit into a condition's message."""
    text = "\n".join(parts)
    return text if len(text) <= MESSAGE_MAX else text[: MESSAGE_MAX - 4] + "\n..."
