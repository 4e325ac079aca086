"""Routers' views of a fleet, made from the little that a test wants to say."""

from __future__ import annotations

from typing import Any

from trimode_api.fleet import FleetView, Freshness, PointChange, ReplicaState, RouterState
from trimode_api.wire import DecisionReport, SwitchingPolicy
from trimode_operator.observe.fleets import Address, Fleets


def replica(replica_id: str = "r1", pool: str = "flex", **changes: Any) -> ReplicaState:
    """One that is ready, fresh and idle at AR."""
    point = changes.pop("point", "AR")
    decision = DecisionReport(
        point=changes.pop("decided", point),
        reason=changes.pop("reason", "Kept"),
        age_seconds=changes.pop("decided_for", 5.0),
    )
    given: dict[str, Any] = {
        "replica_id": replica_id,
        "pool": pool,
        "url": f"http://{replica_id}:9000",
        "ready": True,
        "draining": False,
        "freshness": Freshness.FRESH,
        "cooling": False,
        "age_seconds": 0.1,
        "in_flight": 0,
        "running": 0,
        "waiting": 0,
        "max_running": 8,
        "queued_prompt_tokens": 0,
        "cached_tokens": 0,
        "capacity_tokens": 1024,
        "point": point,
        "decision": decision,
        "allowed_points": ("AR", "S8"),
        "points": (),
        "switches": 0,
        "preemptions": 0,
        "tokens_per_second": 0.0,
        "policy_version": 1,
    }
    return ReplicaState(**(given | changes))


def change(time: float, to_point: str, reason: str = "PredictedGain", replica_id: str = "r1") -> PointChange:
    """A replica's switch."""
    return PointChange(
        time=time, replica_id=replica_id, pool="flex", from_point="AR", to_point=to_point, reason=reason, detail=""
    )


def view(*replicas: ReplicaState, **changes: Any) -> FleetView:
    """A router's view at Unix time 1000, with the policy of version 1 and nothing in flight."""
    router = RouterState(
        in_flight=changes.pop("in_flight", 0),
        queued=changes.pop("queued", 0),
        oldest_wait_seconds=0.0,
        finished_total=0,
        refused_total=0,
        draining=False,
        problems=changes.pop("problems", {}),
    )
    switching = SwitchingPolicy(
        margin_percent=5, min_dwell_milliseconds=200, fallback={"flex": "AR"}, dry_run=changes.pop("dry_run", False)
    )
    given: dict[str, Any] = {
        "name": "nemo",
        "model": "nemo",
        "time": 1000.0,
        "policy_version": 1,
        "default_tier": "standard",
        "tiers": (),
        "switching": switching,
        "pools": (),
        "replicas": replicas,
        "router": router,
        "decisions": (),
        "refusals": (),
    }
    return FleetView(**(given | changes))


def fleets(*views: FleetView, silent: int = 0) -> Fleets:
    """What routers at 10.0.0.1 and on said; `silent` more did not answer."""
    answered = {Address(f"10.0.0.{number}", 8001): one for number, one in enumerate(views, 1)}
    failed = {Address(f"10.0.1.{n}", 8001): f"router 10.0.1.{n}:8001 does not answer" for n in range(1, silent + 1)}
    return Fleets(answered, failed)
