"""Stand-ins until trimode_policy.route and .admit exist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from trimode_api.modes import OperatingPoint


@dataclass(frozen=True, slots=True)
class Staleness:
    stale_after_s: float
    dead_after_s: float


@dataclass(frozen=True, slots=True)
class ReplicaView:
    replica_id: str
    pool: str
    ready: bool
    draining: bool
    age_s: float
    in_flight: int
    running: int
    waiting: int
    queued_prompt_tokens: int
    capacity: int
    points: tuple[OperatingPoint, ...]
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class RequestView:
    tier: str
    priority: int
    prompt_tokens: int
    lossy_ok: bool
    pin: OperatingPoint | None


@dataclass(frozen=True, slots=True)
class RouteDecision:
    replica_id: str | None
    reason: str
    detail: str


def route(request: RequestView, replicas: Sequence[ReplicaView], staleness: Staleness, seed: int) -> RouteDecision:
    ok = [r for r in replicas if r.ready and not r.draining and r.age_s < staleness.dead_after_s]
    ok = [r for r in ok if request.pin is None or request.pin in r.points]
    if not ok:
        return RouteDecision(None, "NoneReady", "no replica is ready")
    ok = [r for r in ok if r.in_flight < r.capacity]
    if not ok:
        return RouteDecision(None, "AllFull", "all full")
    best = min(ok, key=lambda r: (max(r.in_flight, r.running + r.waiting) / r.capacity, r.replica_id))
    return RouteDecision(best.replica_id, "LeastLoaded", "")


@dataclass(frozen=True, slots=True)
class QueueView:
    queued: int
    oldest_wait_s: float
    in_flight: int
    capacity: int
    drain_rate_rps: float
    ready_replicas: int


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    max_queued: int
    max_wait_s: float


class Outcome(StrEnum):
    ACCEPT = "Accept"
    QUEUE = "Queue"
    REFUSE = "Refuse"


@dataclass(frozen=True, slots=True)
class Admission:
    outcome: Outcome
    status: int
    retry_after_s: int
    reason: str
    detail: str


def admit(request: RequestView, queue: QueueView, limits: AdmissionLimits) -> Admission:
    if not queue.ready_replicas:
        return Admission(Outcome.REFUSE, 503, 1, "NoneReady", "no replica is ready")
    if queue.in_flight < queue.capacity and not queue.queued:
        return Admission(Outcome.ACCEPT, 200, 0, "Free", "")
    if queue.queued < limits.max_queued:
        return Admission(Outcome.QUEUE, 200, 0, "Busy", "")
    return Admission(Outcome.REFUSE, 429, 1, "QueueFull", f"{queue.queued} requests already wait")
