"""Which replica gets a request: filter, score, pick.

Belongs here: the choice among replicas as one router sees them. Whether a request is taken at all is in `admit`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from math import inf
from zlib import crc32

from trimode_api.modes import OperatingPoint


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """One replica at one moment, as one router knows it.

    `age_s`: seconds since its last report (infinite before the first). `in_flight`: requests this router has with
    it now, its own counter; it is raised to what was reported unless that is stale. From the last report:
    `running` and `waiting` requests of all routers, `queued_prompt_tokens` not yet prefilled, `tokens_per_s`.
    `capacity`: requests it may run at once. `points`: operating points its pool allows.
    `rows`: by tier, requests it can run at once so that each keeps that tier's pace (see `rooms`; a tier that is not in
    it has no limit but the capacity; 0: not even one alone). `keeps`: the tier whose pace it is kept at, whoever comes
    (see `tiers`). `prompt_tokens_per_s`: how fast it computes prompts, 0 where unknown.
    """

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
    tokens_per_s: float = 0.0
    rows: Mapping[str, int] = field(default_factory=dict)
    keeps: str | None = None
    prompt_tokens_per_s: float = 0.0
    lossless: bool = field(init=False)
    """Whether some of its points answer losslessly."""
    floor: int = field(init=False)
    """Requests beyond which the tier it is kept fast for would fall behind its pace."""
    rooms: Mapping[str, int] = field(init=False)
    """By tier, requests beyond which that tier, or the one it is kept fast for, would fall behind."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "lossless", any(point.mode.lossless for point in self.points))
        kept = self.rows.get(self.keeps, 0) if self.keeps is not None else 0
        floor = min(kept, self.capacity) if kept > 0 else self.capacity
        object.__setattr__(self, "floor", floor)
        object.__setattr__(self, "rooms", {tier: min(rows, floor) for tier, rows in self.rows.items()})


class Claim(IntEnum):
    """What a request may ask for: its objectives, what is left over, or any place at all (its client is in
    mid-sentence)."""

    ON_TIME = 0
    LATE = 1
    RESUMED = 2


@dataclass(frozen=True, slots=True)
class RequestView:
    """What routing and admission need of a request.

    `priority`: of its tier, higher goes first. `lossy_ok`: diffusion may answer it. `pin`: the one operating point
    the client insists on. `left_s`: seconds left until its first token is due.
    """

    tier: str = "standard"
    priority: int = 0
    prompt_tokens: int = 0
    lossy_ok: bool = False
    pin: OperatingPoint | None = None
    claim: Claim = Claim.ON_TIME
    left_s: float = inf


@dataclass(frozen=True, slots=True)
class Staleness:
    """Report ages in seconds: above `stale_after_s` only the router's own counters are believed, above
    `dead_after_s` no request is sent. Raises ValueError unless 0 < stale_after_s <= dead_after_s."""

    stale_after_s: float = 2.0
    dead_after_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.stale_after_s <= self.dead_after_s:
            raise ValueError(
                f"staleness: stale_after_s {self.stale_after_s} must be above 0 and at most "
                f"dead_after_s {self.dead_after_s}"
            )


class RouteReason(StrEnum):
    """Why this replica, or why none."""

    LEAST_LOADED = "LeastLoaded"
    STALE = "Stale"
    ALL_BUSY = "AllBusy"
    NOT_OFFERED = "NotOffered"
    NONE_READY = "NoneReady"


@dataclass(frozen=True, slots=True)
class RouteDecision:
    """The replica, or None with the reason: busy (wait or 429), not offered (400), none ready (503)."""

    replica_id: str | None
    reason: RouteReason
    detail: str


def route(request: RequestView, replicas: Sequence[ReplicaView], staleness: Staleness, seed: int) -> RouteDecision:
    """The least loaded replica that may answer `request`, reports that are fresh before stale ones.

    Deterministic for a seed and independent of the order of `replicas`. A replica that is full is never picked,
    one that has room is never passed over for refusing.
    """
    alive = [r for r in replicas if r.ready and not r.draining and r.age_s <= staleness.dead_after_s]
    if not alive:
        return RouteDecision(None, RouteReason.NONE_READY, f"none of {len(replicas)} replicas is ready")
    able = [r for r in alive if may_serve(request, r.points)] if _choosy(request, alive) else alive
    if not able:
        wanted = str(request.pin) if request.pin is not None else "lossless answers"
        return RouteDecision(None, RouteReason.NOT_OFFERED, f"none of {len(alive)} ready replicas offers {wanted}")
    return _pick(request, able, staleness, seed)


def may_serve(request: RequestView, points: Iterable[OperatingPoint]) -> bool:
    """Whether a replica with these points may answer: a pin needs its very point, and no lossy point answers a
    request that did not allow it."""
    allowed = [point for point in points if request.lossy_ok or point.mode.lossless]
    return bool(allowed) if request.pin is None else request.pin in allowed


def _choosy(request: RequestView, alive: Sequence[ReplicaView]) -> bool:
    """Whether replicas have to be looked at one by one: hardly ever, and it costs."""
    return request.pin is not None or not all(r.lossless for r in alive)


LATE_SHARE = 0.5
"""Share of a replica's room up to which it takes requests that are late anyway: the rest is for those in time. Only
where a pace is at stake."""


def _pick(request: RequestView, able: Sequence[ReplicaView], staleness: Staleness, seed: int) -> RouteDecision:
    """Fresh before stale, those kept fast for the request's tier before others, then the smallest share of their room
    in use, then the fewest queued prompt tokens."""
    stale_after, tier = staleness.stale_after_s, request.tier
    # Where no replica can keep the tier's pace there is nothing to protect: it takes what the others leave.
    paced = request.claim == Claim.ON_TIME and any(r.rows.get(tier, 1) for r in able)
    anywhere = request.claim == Claim.RESUMED
    best: ReplicaView | None = None
    best_score = (True, True, 2.0, 0)
    for replica in able:
        stale = replica.age_s > stale_after
        load, room, other = replica.in_flight, replica.capacity, False
        if not stale:
            if replica.running + replica.waiting > load:
                load = replica.running + replica.waiting
            if replica.rows and not anywhere:
                other = replica.keeps != tier
                room = replica.rooms.get(tier, replica.floor) if paced else _leftover(request, replica)
                if paced and replica.queued_prompt_tokens and not _in_time(request, replica):
                    continue
        if load >= room:
            continue
        share = load / room
        if stale == best_score[0] and other == best_score[1] and share > best_score[2]:
            continue
        score = (stale, other, share, 0 if stale else replica.queued_prompt_tokens)
        if best is None or score < best_score or (score == best_score and _turn(replica, seed) < _turn(best, seed)):
            best, best_score = replica, score
    if best is None:
        return RouteDecision(None, RouteReason.ALL_BUSY, f"all {len(able)} replicas run as much as they may")
    reason = RouteReason.STALE if best_score[0] else RouteReason.LEAST_LOADED
    load = best.in_flight if best_score[0] else max(best.in_flight, best.running + best.waiting)
    detail = f"{best.replica_id} has {load} of {best.capacity} requests, {best_score[3]} prompt tokens queued"
    return RouteDecision(best.replica_id, reason, detail)


def _leftover(request: RequestView, replica: ReplicaView) -> int:
    """Room for a request whose own objective is lost, be it late or out of reach of all replicas."""
    if request.claim == Claim.LATE and replica.floor < replica.capacity:
        return max(1, int(LATE_SHARE * replica.floor))
    return replica.floor


def _in_time(request: RequestView, replica: ReplicaView) -> bool:
    """Whether the prompts queued there leave time for this one's; unknown speed counts as fast."""
    tokens = replica.queued_prompt_tokens + request.prompt_tokens
    return replica.prompt_tokens_per_s <= 0 or tokens <= request.left_s * replica.prompt_tokens_per_s


def _turn(replica: ReplicaView, seed: int) -> tuple[int, str]:
    """Order among equals: random over seeds, the same for every router that uses this one."""
    return crc32(f"{seed}:{replica.replica_id}".encode()), replica.replica_id
