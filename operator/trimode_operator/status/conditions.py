"""What is so, what is not and what is not known: the conditions of the whole.

Belongs here: one pure function per condition, from observations to a verdict, where it follows from several parts; the
parts' own are in `parts_ready`. Changes over time are `status`' matter.
"""

from __future__ import annotations

from collections.abc import Mapping

from trimode_operator.observe.observations import Observations
from trimode_operator.status.readiness import (
    by_secrets,
    externally_scaled,
    metrics_fresh,
    note_of,
    router_ready,
    slo_met,
    suspended,
    workers_ready,
)
from trimode_operator.status.reasons import FALSE, TRUE, UNKNOWN, ConditionType, Reason, Verdict, lines, replicas
from trimode_operator.status.rollout import held_up, rollout
from trimode_policy.sharing_inputs import usable

BY_PODS = (
    Reason.NOT_OBSERVED,
    Reason.POOLS_NOT_READY,
    Reason.RAY_SERVICE_NOT_READY,
    Reason.WORKERS_ROLLOUT,
    Reason.HEAD_NOT_READY,
    Reason.ROUTER_ROLLOUT,
    Reason.NO_ROUTER_READY,
    Reason.SOME_ROUTERS_NOT_READY,
)
"""Reasons that a pod which cannot run explains better."""

OF_CONDITIONS = (Reason.KUBERAY_MISSING, Reason.RECREATING)
"""Notes that are a condition's reason by themselves."""


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
        ConditionType.EXTERNALLY_SCALED: externally_scaled(seen),
    }


def ready(seen: Observations) -> Verdict:
    """Everything is as the latest spec says, and runs: an edit that is not in force yet, such as a change of model
    whose new workers still load, is not Ready, whatever serves meanwhile."""
    if seen.deleting:
        return Verdict(FALSE, Reason.DRAINING, seen.deleting)
    if seen.problems:
        return Verdict(FALSE, Reason.INVALID_SPEC, lines(seen.problems))
    if seen.failure is not None:
        return Verdict(FALSE, seen.failure.reason, seen.failure.message)
    if seen.suspend:
        return Verdict(FALSE, Reason.SUSPENDED, "spec.suspend is true")
    if seen.secrets:
        return by_secrets(seen)
    if making_room := note_of(seen, Reason.RECREATING):
        return Verdict(FALSE, Reason.RECREATING, making_room)
    if stuck := held_up(seen):
        return stuck
    for part in (workers_ready(seen), router_ready(seen)):
        if part.status is not TRUE:
            return _with_pods(seen, part)
    if under_way := rollout(seen):
        return _with_pods(seen, under_way)
    if _behind(seen):
        return Verdict(FALSE, Reason.POLICY_ROLLOUT, _behind(seen))
    return Verdict(TRUE, Reason.AS_SPECIFIED, lines((workers_ready(seen).message, *_left_out(seen))))


def _with_pods(seen: Observations, verdict: Verdict) -> Verdict:
    """A missing node may come by itself, so it is told without a word of its own; a failing pod wants a person."""
    message = lines((verdict.message, *seen.pods.failing, *seen.pods.unplaced))
    if seen.pods.failing and verdict.reason in BY_PODS:
        return Verdict(FALSE, Reason.PODS_FAILING, message)
    return Verdict(verdict.status, verdict.reason, message)


def serving(seen: Observations) -> Verdict:
    """Requests are answered, by whatever spec. Where no router answers the operator, their probes decide."""
    if seen.fleets.views:
        count = sum(map(usable, seen.replicas))
        if count:
            return Verdict(TRUE, Reason.REPLICAS_SERVE, f"{replicas(count)} in service")
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
        return by_secrets(seen)
    if making_room := note_of(seen, Reason.RECREATING):
        return Verdict(TRUE, Reason.RECREATING, making_room)
    if stuck := held_up(seen):
        return stuck
    if under_way := rollout(seen):
        stopped = under_way.reason == Reason.DEPLOY_FAILED
        return Verdict(FALSE if stopped else TRUE, under_way.reason, under_way.message)
    if not seen.kuberay:
        return Verdict(FALSE, Reason.KUBERAY_MISSING, note_of(seen, Reason.KUBERAY_MISSING))
    return _workers_progress(seen)


def _workers_progress(seen: Observations) -> Verdict:
    if _behind(seen):
        return Verdict(TRUE, Reason.POLICY_ROLLOUT, _behind(seen))
    workers = workers_ready(seen)
    if workers.reason == Reason.DEPLOY_FAILED:
        return Verdict(FALSE, workers.reason, workers.message)
    if workers.status is not TRUE or router_ready(seen).status is not TRUE:
        return Verdict(TRUE, Reason.WAITING_FOR_WORKERS, workers.message)
    return Verdict(FALSE, Reason.AS_SPECIFIED, "nothing is left to do")


def _asleep(seen: Observations) -> tuple[str, ...]:
    """Pools that a request can wake; none where one has failed to start."""
    failed = seen.ray is not None and seen.ray.failed
    return () if failed else tuple(pool for pool, least in seen.minimum.items() if not least)


def _behind(seen: Observations) -> str:
    """Who does not run the latest policy; empty where all do."""
    if seen.policy_version is None:
        return ""
    late = [f"router {a}" for a, v in seen.fleets.views.items() if v.policy_version < seen.policy_version]
    late += [f"replica {r.replica_id}" for r in seen.replicas if usable(r) and r.policy_version < seen.policy_version]
    return f"policy version {seen.policy_version} has not reached {', '.join(late)}" if late else ""


def _left_out(seen: Observations) -> tuple[str, ...]:
    """What the cluster is not able to have, which keeps nothing from being ready."""
    return tuple(f"{note.kind}: {note.message}" for note in seen.notes if note.reason not in OF_CONDITIONS)
