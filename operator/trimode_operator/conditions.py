"""What is so, what is not and what is not known: the conditions and every reason they can have.

Belongs here: one pure function per condition, from observations to a verdict. Changes over time are `status`' matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from trimode_api.fleet import Freshness
from trimode_api.status import ConditionStatus
from trimode_operator.observations import SECRET_INVALID, SECRET_MISSING, Observations
from trimode_policy.watching import usable

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


class Reason(StrEnum):
    """Every reason but those of the API server's refusals, which are passed on as they are."""

    AS_SPECIFIED = "AsSpecified"
    INVALID_SPEC = "InvalidSpec"
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
    WORKERS_ROLLOUT = "WorkersRollout"
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


@dataclass(frozen=True, slots=True)
class Verdict:
    """A condition as of now. `reason` is a `Reason`, or the API server's own word."""

    status: ConditionStatus
    reason: str
    message: str = ""


def verdicts(seen: Observations) -> Mapping[ConditionType, Verdict]:
    """Every condition, in the order of the status."""
    return {
        ConditionType.READY: ready(seen),
        ConditionType.SERVING: serving(seen),
        ConditionType.PROGRESSING: progressing(seen),
        ConditionType.ROUTER_READY: router_ready(seen),
        ConditionType.WORKERS_READY: workers_ready(seen),
        ConditionType.METRICS_FRESH: metrics_fresh(seen),
        ConditionType.SLO_MET: slo_met(seen),
        ConditionType.SUSPENDED: suspended(seen),
    }


def ready(seen: Observations) -> Verdict:
    """Everything is as the latest spec says."""
    if seen.deleting:
        return Verdict(FALSE, Reason.DRAINING, seen.deleting)
    if seen.problems:
        return Verdict(FALSE, Reason.INVALID_SPEC, _lines(seen.problems))
    if seen.failure is not None:
        return Verdict(FALSE, seen.failure.reason, seen.failure.message)
    if seen.suspend:
        return Verdict(FALSE, Reason.SUSPENDED, "spec.suspend is true")
    if seen.secrets:
        return _by_secrets(seen)
    for part in (workers_ready(seen), router_ready(seen)):
        if part.status is not TRUE:
            return Verdict(part.status, part.reason, part.message)
    if _behind(seen):
        return Verdict(FALSE, Reason.POLICY_ROLLOUT, _behind(seen))
    return Verdict(TRUE, Reason.AS_SPECIFIED, _lines((workers_ready(seen).message, *_left_out(seen))))


def serving(seen: Observations) -> Verdict:
    """Requests are answered, by whatever spec. Where no router answers the operator, their probes decide."""
    if seen.fleets.views:
        count = sum(map(usable, seen.replicas))
        if count:
            return Verdict(TRUE, Reason.REPLICAS_SERVE, f"{_replicas(count)} in service")
        if seen.suspend:
            return Verdict(FALSE, Reason.SUSPENDED, "spec.suspend is true")
        if sleeping := _asleep(seen):
            return Verdict(TRUE, Reason.ASLEEP, f"no replica runs; a request wakes {' or '.join(sleeping)}")
        return Verdict(FALSE, Reason.NO_REPLICA_READY, "no replica takes requests")
    if seen.routers is None:
        return Verdict(UNKNOWN, Reason.NOT_OBSERVED, "the routers have not been seen yet")
    if seen.routers.ready:
        return Verdict(TRUE, Reason.ROUTERS_SERVE, "routers are ready, which they are only while some replica is")
    if seen.suspend:
        return Verdict(FALSE, Reason.SUSPENDED, "spec.suspend is true")
    return Verdict(FALSE, Reason.NO_ROUTER_READY, "no router is ready")


def progressing(seen: Observations) -> Verdict:
    """Something is on its way; False where all is done, or where it cannot go on without help."""
    if seen.deleting:
        return Verdict(TRUE, Reason.DRAINING, seen.deleting)
    if seen.problems:
        return Verdict(FALSE, Reason.INVALID_SPEC, "the last valid spec stays in force")
    if seen.failure is not None:
        return Verdict(FALSE, seen.failure.reason, seen.failure.message)
    if seen.suspend:
        done = suspended(seen)
        return Verdict(FALSE if done.status is TRUE else TRUE, done.reason, done.message)
    if seen.secrets:
        return _by_secrets(seen)
    if seen.routers is None or not seen.routers.current:
        return Verdict(TRUE, Reason.ROUTER_ROLLOUT, "routers are being replaced or added")
    if not seen.kuberay:
        return Verdict(FALSE, Reason.KUBERAY_MISSING, _note(seen, Reason.KUBERAY_MISSING))
    return _workers_progress(seen)


def _workers_progress(seen: Observations) -> Verdict:
    if seen.ray is None or not seen.ray.current or seen.ray.upgrading:
        return Verdict(TRUE, Reason.WORKERS_ROLLOUT, "KubeRay is making the workers so")
    if _behind(seen):
        return Verdict(TRUE, Reason.POLICY_ROLLOUT, _behind(seen))
    workers = workers_ready(seen)
    if workers.reason == Reason.DEPLOY_FAILED:
        return Verdict(FALSE, workers.reason, workers.message)
    if workers.status is not TRUE or router_ready(seen).status is not TRUE:
        return Verdict(TRUE, Reason.WAITING_FOR_WORKERS, workers.message)
    return Verdict(FALSE, Reason.AS_SPECIFIED, "nothing is left to do")


def router_ready(seen: Observations) -> Verdict:
    """All routers are ready, which they are only while some replica takes requests."""
    if seen.routers is None:
        return Verdict(UNKNOWN, Reason.NOT_OBSERVED, "the routers' Deployment has not been seen yet")
    wanted, there = seen.routers.wanted, seen.routers.ready
    if seen.suspend and not wanted:
        return Verdict(FALSE, Reason.SUSPENDED, "spec.suspend is true")
    message = f"{there} of {wanted} routers are ready"
    if there >= wanted:
        return Verdict(TRUE, Reason.ROUTERS_READY, message)
    if seen.secrets:
        return _by_secrets(seen)
    return Verdict(FALSE, Reason.SOME_ROUTERS_NOT_READY if there else Reason.NO_ROUTER_READY, message)


def _by_secrets(seen: Observations) -> Verdict:
    """A person (or a certificate's issuer) has to act; what serves goes on with the content it has."""
    return Verdict(FALSE, seen.secrets[0].reason, _lines(tuple(note.message for note in seen.secrets)))


def workers_ready(seen: Observations) -> Verdict:
    """Every pool has its fewest replicas. By what the routers hear; where none answers, by what KubeRay says."""
    if seen.suspend:
        return Verdict(FALSE, Reason.SUSPENDED, "spec.suspend is true")
    if not seen.kuberay:
        return Verdict(FALSE, Reason.KUBERAY_MISSING, _note(seen, Reason.KUBERAY_MISSING))
    if seen.fleets.views:
        return _by_reports(seen)
    if seen.ray is None or seen.ray.ready is None:
        return Verdict(UNKNOWN, Reason.NOT_OBSERVED, "KubeRay has not said anything about the workers yet")
    told = ": ".join(part for part in (seen.ray.reason, seen.ray.message) if part)
    if seen.ray.ready:
        return Verdict(
            TRUE, Reason.RAY_SERVICE_READY, f"no router answers the operator; KubeRay says {told or 'Ready'}"
        )
    if seen.ray.failed:
        return Verdict(FALSE, Reason.DEPLOY_FAILED, _lines(seen.ray.failed))
    return Verdict(FALSE, Reason.RAY_SERVICE_NOT_READY, told)


def _by_reports(seen: Observations) -> Verdict:
    there = Counter(replica.pool for replica in seen.replicas if usable(replica))
    counts = [f"{pool} has {there[pool]} of at least {least}" for pool, least in seen.minimum.items()]
    message = "replicas that take requests: " + ", ".join(counts)
    if all(there[pool] >= least for pool, least in seen.minimum.items()):
        return Verdict(TRUE, Reason.POOLS_READY, message)
    if seen.ray is not None and seen.ray.failed:
        return Verdict(FALSE, Reason.DEPLOY_FAILED, _lines((message, *seen.ray.failed)))
    return Verdict(FALSE, Reason.POOLS_NOT_READY, message)


def metrics_fresh(seen: Observations) -> Verdict:
    """What the status shows of the fleet is of now: every router answers and hears every replica."""
    if not seen.fleets.asked:
        return Verdict(UNKNOWN, Reason.NOT_OBSERVED, "there is no router to ask")
    if seen.fleets.failures:
        return Verdict(FALSE, Reason.ROUTERS_UNREACHABLE, _lines(tuple(seen.fleets.failures.values())))
    silent = [r.replica_id for v in seen.fleets.views.values() for r in v.replicas if _silent(r.freshness, r.draining)]
    if silent:
        names = ", ".join(sorted(set(silent)))
        return Verdict(FALSE, Reason.REPORTS_STALE, f"some router has not heard of {names} for too long")
    if not seen.replicas:
        return Verdict(UNKNOWN, Reason.NO_REPLICA, "no replica reports")
    return Verdict(TRUE, Reason.REPORTS_FRESH, f"reports of {_replicas(len(seen.replicas))} come in")


def slo_met(seen: Observations) -> Verdict:
    """Every tier's objective is met by as many recent answers as the tier asks for."""
    known = {tier: percent for tier, percent in seen.attainment.items() if percent is not None}
    if not known:
        return Verdict(UNKNOWN, Reason.NO_TRAFFIC, "no answers lately to judge by")
    words = [f"{tier}: {percent} % of answers, {seen.objectives[tier]} % wanted" for tier, percent in known.items()]
    if all(percent >= seen.objectives[tier] for tier, percent in known.items()):
        return Verdict(TRUE, Reason.OBJECTIVES_MET, ", ".join(words))
    return Verdict(FALSE, Reason.OBJECTIVES_MISSED, ", ".join(words))


def suspended(seen: Observations) -> Verdict:
    """Nothing runs, because the spec says so."""
    if not seen.suspend:
        return Verdict(FALSE, Reason.NOT_SUSPENDED, "spec.suspend is false")
    routers_gone = seen.routers is not None and not seen.routers.wanted and seen.routers.current
    workers_gone = not seen.kuberay or (seen.ray is not None and seen.ray.suspended)
    if routers_gone and workers_gone:
        return Verdict(TRUE, Reason.SUSPENDED, "nothing runs; set spec.suspend to false to go on")
    return Verdict(FALSE, Reason.SUSPENDING, "routers and workers finish what they have and go")


def _asleep(seen: Observations) -> tuple[str, ...]:
    """Pools that a request can wake; none where one has failed to start."""
    failed = seen.ray is not None and seen.ray.failed
    return () if failed else tuple(pool for pool, least in seen.minimum.items() if not least)


def _silent(freshness: Freshness, draining: bool) -> bool:
    return freshness is not Freshness.FRESH and not draining


def _behind(seen: Observations) -> str:
    """Who does not run the latest policy; empty where all do."""
    if seen.policy_version is None:
        return ""
    late = [f"router {a}" for a, v in seen.fleets.views.items() if v.policy_version < seen.policy_version]
    late += [f"replica {r.replica_id}" for r in seen.replicas if usable(r) and r.policy_version < seen.policy_version]
    return f"policy version {seen.policy_version} has not reached {', '.join(late)}" if late else ""


def _note(seen: Observations, reason: str) -> str:
    return next((note.message for note in seen.notes if note.reason == reason), "")


def _left_out(seen: Observations) -> tuple[str, ...]:
    """What the cluster is not able to have, which keeps nothing from being ready."""
    return tuple(f"{note.kind}: {note.message}" for note in seen.notes if note.reason != Reason.KUBERAY_MISSING)


def _replicas(count: int) -> str:
    return f"{count} replica{'s' if count != 1 else ''}"


def _lines(parts: tuple[str, ...]) -> str:
    """As many lines as fit into a condition's message."""
    text = "\n".join(parts)
    return text if len(text) <= MESSAGE_MAX else text[: MESSAGE_MAX - 4] + "\n..."
