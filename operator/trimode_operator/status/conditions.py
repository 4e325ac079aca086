"""Every condition of a resource: those that `Readiness` has, and those that follow from the observation by themselves.

Pure. When a condition last changed is `status`' matter.
"""

from __future__ import annotations

from collections.abc import Mapping

from trimode_api.fleet import Freshness
from trimode_operator.observe.observations import Observations
from trimode_operator.status.readiness import Readiness
from trimode_operator.status.reasons import FALSE, TRUE, UNKNOWN, ConditionType, Reason, Verdict, lines, replicas
from trimode_policy.sharing_inputs import usable


def verdicts(seen: Observations, readiness: Readiness) -> Mapping[ConditionType, Verdict]:
    """Every condition, in the order of the status."""
    return {
        ConditionType.READY: readiness.ready,
        ConditionType.SERVING: _serving(seen),
        ConditionType.PROGRESSING: readiness.progressing,
        ConditionType.ROUTER_READY: readiness.routers,
        ConditionType.WORKERS_READY: readiness.workers,
        ConditionType.METRICS_FRESH: _metrics_fresh(seen),
        ConditionType.SLO_MET: _slo_met(seen),
        ConditionType.SUSPENDED: readiness.suspended,
        ConditionType.EXTERNALLY_SCALED: _externally_scaled(seen),
    }


def _serving(seen: Observations) -> Verdict:
    """Requests are answered, whichever spec is in force. Where no router answers the operator, the routers' probes
    decide: clients may be served all the same."""
    if seen.fleets.views:
        count = sum(map(usable, seen.replicas))
        if count:
            return Verdict(TRUE, Reason.REPLICAS_SERVE, f"{replicas(count)} in service")
        if seen.suspend:
            return Verdict(FALSE, Reason.SUSPENDED, "spec.suspend is true")
        # A pool that has failed to start is not woken by a request either.
        failed = seen.ray is not None and seen.ray.failed
        asleep = () if failed else tuple(pool for pool, least in seen.minimum.items() if not least)
        if asleep:
            return Verdict(TRUE, Reason.ASLEEP, f"no replica runs; a request wakes {' or '.join(asleep)}")
        return Verdict(FALSE, Reason.NO_REPLICA_READY, "no replica takes requests")
    if seen.routers is None:
        return Verdict(UNKNOWN, Reason.NOT_OBSERVED, "the routers have not been seen yet")
    if seen.routers.ready:
        return Verdict(TRUE, Reason.ROUTERS_SERVE, "routers are ready, which they are only while some replica is")
    if seen.suspend:
        return Verdict(FALSE, Reason.SUSPENDED, "spec.suspend is true")
    return Verdict(FALSE, Reason.NO_ROUTER_READY, "no router is ready")


def _metrics_fresh(seen: Observations) -> Verdict:
    """What the status shows of the fleet is of now: every router answers and hears every replica."""
    if not seen.fleets.asked:
        return Verdict(UNKNOWN, Reason.NOT_OBSERVED, "there is no router to ask")
    if seen.fleets.failures:
        return Verdict(FALSE, Reason.ROUTERS_UNREACHABLE, lines(tuple(seen.fleets.failures.values())))
    silent = {
        replica.replica_id
        for view in seen.fleets.views.values()
        for replica in view.replicas
        # One that drains ends soon, and is not heard of after that.
        if replica.freshness is not Freshness.FRESH and not replica.draining
    }
    if silent:
        return Verdict(
            FALSE, Reason.REPORTS_STALE, f"some router has not heard of {', '.join(sorted(silent))} for too long"
        )
    if not seen.replicas:
        return Verdict(UNKNOWN, Reason.NO_REPLICA, "no replica reports")
    return Verdict(TRUE, Reason.REPORTS_FRESH, f"reports of {replicas(len(seen.replicas))} come in")


def _slo_met(seen: Observations) -> Verdict:
    """Every tier's objective is met by as many recent answers as the tier asks for."""
    known = {tier: percent for tier, percent in seen.attainment.items() if percent is not None}
    if not known:
        return Verdict(UNKNOWN, Reason.NO_TRAFFIC, "no answers lately to judge by")
    words = [f"{tier}: {percent} % of answers, {seen.objectives[tier]} % wanted" for tier, percent in known.items()]
    if all(percent >= seen.objectives[tier] for tier, percent in known.items()):
        return Verdict(TRUE, Reason.OBJECTIVES_MET, ", ".join(words))
    return Verdict(FALSE, Reason.OBJECTIVES_MISSED, ", ".join(words))


def _externally_scaled(seen: Observations) -> Verdict:
    """One writer per number: where `spec.replicas` is set, its writer sizes the pool, and trimode's sizing rests."""
    if seen.problems:
        return Verdict(UNKNOWN, Reason.INVALID_SPEC, "the last valid spec stays in force")
    if seen.scaled is None:
        return Verdict(FALSE, Reason.OWN_SIZING, "trimode sizes the pools; others do where spec.replicas is set")
    words = "is set: its writer sizes the pool, trimode does not, and pools[0].replicas has no effect"
    return Verdict(TRUE, Reason.REPLICAS_SET, f"spec.replicas {words}")
