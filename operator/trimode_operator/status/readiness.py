"""Conditions of the parts: routers, workers, what is known of them, objectives, and whether anything runs at all.

Belongs here: one pure function per condition that looks at one part only.
"""

from __future__ import annotations

from collections import Counter

from trimode_api.fleet import Freshness
from trimode_operator.observe.observations import Observations
from trimode_operator.status.reasons import FALSE, TRUE, UNKNOWN, Reason, Verdict, lines, replicas
from trimode_policy.sharing_inputs import usable


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
        return by_secrets(seen)
    return Verdict(FALSE, Reason.SOME_ROUTERS_NOT_READY if there else Reason.NO_ROUTER_READY, message)


def by_secrets(seen: Observations) -> Verdict:
    """A person (or a certificate's issuer) has to act; what serves goes on with the content it has."""
    return Verdict(FALSE, seen.secrets[0].reason, lines(tuple(note.message for note in seen.secrets)))


def workers_ready(seen: Observations) -> Verdict:
    """Every pool has its fewest replicas. By what the routers hear; where none answers, by what KubeRay says."""
    if seen.suspend:
        return Verdict(FALSE, Reason.SUSPENDED, "spec.suspend is true")
    if not seen.kuberay:
        return Verdict(FALSE, Reason.KUBERAY_MISSING, note_of(seen, Reason.KUBERAY_MISSING))
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
        return Verdict(FALSE, Reason.DEPLOY_FAILED, lines(seen.ray.failed))
    return Verdict(FALSE, Reason.RAY_SERVICE_NOT_READY, told)


def _by_reports(seen: Observations) -> Verdict:
    there = Counter(replica.pool for replica in seen.replicas if usable(replica))
    counts = [f"{pool} has {there[pool]} of at least {least}" for pool, least in seen.minimum.items()]
    message = "replicas that take requests: " + ", ".join(counts)
    if all(there[pool] >= least for pool, least in seen.minimum.items()):
        return Verdict(TRUE, Reason.POOLS_READY, message)
    if seen.ray is not None and seen.ray.failed:
        return Verdict(FALSE, Reason.DEPLOY_FAILED, lines((message, *seen.ray.failed)))
    return Verdict(FALSE, Reason.POOLS_NOT_READY, message)


def metrics_fresh(seen: Observations) -> Verdict:
    """What the status shows of the fleet is of now: every router answers and hears every replica."""
    if not seen.fleets.asked:
        return Verdict(UNKNOWN, Reason.NOT_OBSERVED, "there is no router to ask")
    if seen.fleets.failures:
        return Verdict(FALSE, Reason.ROUTERS_UNREACHABLE, lines(tuple(seen.fleets.failures.values())))
    silent = [r.replica_id for v in seen.fleets.views.values() for r in v.replicas if _silent(r.freshness, r.draining)]
    if silent:
        names = ", ".join(sorted(set(silent)))
        return Verdict(FALSE, Reason.REPORTS_STALE, f"some router has not heard of {names} for too long")
    if not seen.replicas:
        return Verdict(UNKNOWN, Reason.NO_REPLICA, "no replica reports")
    return Verdict(TRUE, Reason.REPORTS_FRESH, f"reports of {replicas(len(seen.replicas))} come in")


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
    """Nothing is asked to run, because the spec says so."""
    if not seen.suspend:
        return Verdict(FALSE, Reason.NOT_SUSPENDED, "spec.suspend is false")
    routers_gone = seen.routers is not None and not seen.routers.wanted and seen.routers.current
    if routers_gone and seen.ray is None:
        words = "nothing is asked to run, pods that finish requests end within their grace; set spec.suspend to false"
        return Verdict(TRUE, Reason.SUSPENDED, f"{words} to go on")
    return Verdict(FALSE, Reason.SUSPENDING, "routers and workers finish what they have and go")


def externally_scaled(seen: Observations) -> Verdict:
    """One writer per number: where `spec.replicas` is set, its writer sizes the pool, and trimode's sizing rests."""
    if seen.problems:
        return Verdict(UNKNOWN, Reason.INVALID_SPEC, "the last valid spec stays in force")
    if seen.scaled is None:
        return Verdict(FALSE, Reason.OWN_SIZING, "trimode sizes the pools; others do where spec.replicas is set")
    words = "is set: its writer sizes the pool, trimode does not, and pools[0].replicas has no effect"
    return Verdict(TRUE, Reason.REPLICAS_SET, f"spec.replicas {words}")


def _silent(freshness: Freshness, draining: bool) -> bool:
    return freshness is not Freshness.FRESH and not draining


def note_of(seen: Observations, reason: str) -> str:
    return next((note.message for note in seen.notes if note.reason == reason), "")
