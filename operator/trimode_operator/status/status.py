"""The status of a resource: from one observation, and from what the status said before.

Pure. Nothing moves that has not changed, so that an idle resource's status is not written. Conditions that `Readiness`
does not have follow from the observation by themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from trimode_api.fleet import Freshness
from trimode_api.status import (
    Condition,
    DecisionStatus,
    PointShare,
    PoolStatus,
    Status,
    TierStatus,
    format_time,
    parse_time,
)
from trimode_operator.observe.observations import Observations, newest
from trimode_operator.status.readiness import Readiness
from trimode_operator.status.reasons import (
    FALSE,
    MESSAGE_MAX,
    TRUE,
    UNKNOWN,
    ConditionType,
    Reason,
    Verdict,
    lines,
    replicas,
)
from trimode_operator.status.rebalancing import under_way
from trimode_policy.sharing_inputs import usable

AT_ONCE_S, SOON_S, STEADY_S = 0.5, 2.0, 10.0
LIVELY_S = 90.0
"""How long after its last transition a resource that is not ready is reconciled soon, not steadily."""
HISTORY = 10
SAME_S = 2.0
"""Two observations of when a point came into force that are nearer than this are of one change: clocks differ."""
PROBE = "Probe"


def requeue_after_s(status: Status, readiness: Readiness, now: float) -> float:
    """Seconds until a resource is reconciled again to which nothing happens meanwhile."""
    if under_way(status):
        return SOON_S
    if readiness.ready.status is TRUE:
        return STEADY_S
    moved = max((parse_time(one.last_transition_time) for one in status.conditions), default=0.0)
    if now - moved >= LIVELY_S:
        return STEADY_S
    # Replicas take a policy from the answer to their next report, 200 ms later.
    return AT_ONCE_S if readiness.ready.reason == Reason.POLICY_ROLLOUT else SOON_S


def status_of(previous: Status | None, seen: Observations, readiness: Readiness, now: float) -> Status:
    """The status as of `now` (Unix seconds)."""
    before = previous or Status()
    if not seen.fleets.views and not seen.suspend and not seen.deleting:
        # No router answered: what was known stays, and MetricsFresh says how old it may be.
        pools, decision, history = before.pools, before.decision, before.mode_history
        counts, there = before.replica_summary or _counts(seen), before.replicas
    else:
        decision = _decision(before.decision, seen)
        pools, history, counts = _pools(seen), _history(before, decision, seen), _counts(seen)
        there = sum(not replica.draining for replica in seen.replicas)
    # Tiers without recent answers keep what was last known of them.
    known = {tier.name: tier.attainment_percent for tier in before.tiers}
    met = {name: known.get(name) if percent is None else percent for name, percent in seen.attainment.items()}
    conditions: list[Condition] = []
    for kind, verdict in verdicts(seen, readiness).items():
        old = condition(before, kind)
        # `lastTransitionTime` moves with the status only, not with the reason.
        same = old is not None and old.status is verdict.status
        conditions.append(
            Condition(
                type=kind,
                status=verdict.status,
                reason=verdict.reason,
                message=verdict.message[:MESSAGE_MAX],
                observed_generation=seen.generation,
                last_transition_time=old.last_transition_time if old is not None and same else format_time(int(now)),
            )
        )
    return Status(
        observed_generation=seen.generation,
        url=seen.url or before.url,
        conditions=tuple(conditions),
        replica_summary=counts,
        replicas=there,
        selector=seen.selector or before.selector,
        pools=pools,
        tiers=tuple(TierStatus(name=name, attainment_percent=p) for name, p in met.items() if p is not None),
        decision=decision,
        rebalancing=seen.rebalancing,
        mode_history=history,
    )


def condition(status: Status | None, kind: ConditionType) -> Condition | None:
    """A condition by its type."""
    return next((one for one in status.conditions if one.type == kind), None) if status is not None else None


def _pools(seen: Observations) -> tuple[PoolStatus, ...]:
    """The spec's pools in its order, then those that have replicas still."""
    pools: list[PoolStatus] = []
    for name in dict.fromkeys([*seen.minimum, *(replica.pool for replica in seen.replicas)]):
        there = [replica for replica in seen.replicas if replica.pool == name]
        ready = [replica for replica in there if usable(replica)]
        points = Counter(replica.decision.point for replica in ready)
        shares = tuple(
            PointShare(point=point, share_percent=round(100 * count / len(ready)))
            for point, count in sorted(points.items(), key=lambda item: (-item[1], item[0]))
        )
        pools.append(PoolStatus(name=name, replicas=len(there), ready=len(ready), points=shares))
    return tuple(pools)


def _counts(seen: Observations) -> str:
    """Ready replicas, of those that there should be: each pool's fewest, or more where more have been started."""
    started = Counter(replica.pool for replica in seen.replicas if not replica.draining)
    fewest = {} if seen.suspend else seen.minimum
    wanted = sum(max(started[pool], fewest.get(pool, 0)) for pool in {*started, *fewest})
    return f"{sum(map(usable, seen.replicas))}/{wanted}"


def _decision(before: DecisionStatus | None, seen: Observations) -> DecisionStatus | None:
    """The point that most replicas run, why, and since when; as before where it is the same change."""
    deciding = [r for r in seen.replicas if usable(r) and r.decision.reason != PROBE]
    if not deciding:
        return before
    view = newest(seen.fleets)
    dry = view is not None and view.switching.dry_run
    # In a dry run decisions are not carried out: what counts is the point that runs.
    points = Counter(r.point if dry else r.decision.point for r in deciding)
    point = max(points, key=lambda name: (points[name], name))
    running = [r for r in deciding if (r.point if dry else r.decision.point) == point]
    changes = [change for change in (view.decisions if view is not None else ()) if change.to_point == point]
    time = view.time if view is not None else 0.0
    since = min(time - r.age_seconds - r.decision.age_seconds for r in running)
    if before is not None and before.point == point:
        later = parse_time(before.since) + SAME_S
        # An idle engine sends no figures, so the age that its replica reports stands still: `since` moves with every
        # look, and without a change that the router has seen this is no news.
        if since < later or all(change.time < later for change in changes):
            return before
    reason = changes[-1].reason if changes else running[0].decision.reason
    return DecisionStatus(point=point, reason=reason, since=format_time(since))


def _history(before: Status, decision: DecisionStatus | None, seen: Observations) -> tuple[DecisionStatus, ...]:
    """Newest first. Switches of several replicas to one point, one after the other, are one entry."""
    history = list(before.mode_history)
    known = parse_time(history[0].since) if history else 0.0
    view = newest(seen.fleets)
    entries = [
        DecisionStatus(point=change.to_point, reason=change.reason, since=format_time(change.time))
        for change in sorted(view.decisions if view is not None else (), key=lambda change: change.time)
        # The status has whole milliseconds.
        if change.time > known + 0.001
    ]
    for entry in entries:
        if not history or history[0].point != entry.point:
            history.insert(0, entry)
    if decision is not None and (not history or history[0].point != decision.point):
        history.insert(0, decision)
    return tuple(history[:HISTORY])


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
        # A pod has an address before its router listens: every first start began with a Warning that none answers.
        if seen.ray is not None and seen.ray.starting and not seen.fleets.views:
            return Verdict(UNKNOWN, Reason.NOT_OBSERVED, "routers and the first Ray cluster start")
        return Verdict(FALSE, Reason.ROUTERS_UNREACHABLE, lines(tuple(seen.fleets.failures.values())))
    # By every router: each knows only what reaches itself, and one that hears nothing goes by old figures.
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
