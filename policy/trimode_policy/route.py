"""Which replica gets a request: filter, score, pick.

Belongs here: the choice among replicas as one router sees them. Whether a request is taken at all is in `admit`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from math import inf
from zlib import crc32

from trimode_api.modes import OperatingPoint, Wish
from trimode_policy.values import value

Rank = tuple[bool, float, int]
"""Kept for others; share of its room in use (1 and above: full); prompt tokens queued. The least goes first."""
FULL: Rank = (True, 1.0, 0)
"""Whatever is not below this has no room."""


def _share(load: int, room: int) -> float:
    return load / room if room > 0 else 1.0


def _lossless(points: Iterable[OperatingPoint]) -> bool:
    return any(point.mode.lossless for point in points)


@value
class ReplicaView:
    """One replica at one moment, as one router knows it.

    `age_s`: seconds since its last report (infinite before the first). `in_flight`: requests this router has with
    it now, its own counter; it is raised to what was reported unless that is stale. From the last report:
    `running` and `waiting` requests of all routers, `queued_prompt_tokens` not yet prefilled, `tokens_per_s`.
    `capacity`: requests it may run at once. `points`: operating points its pool allows.
    `rows`: by tier, requests it can run at once so that each keeps that tier's pace (see `capacity`; a tier that is not
    in it has no limit but the capacity; 0: not even one alone). `reserved_for`: the tier whose pace is kept for all
    (see `tier_fairness`). `prompt_tokens_per_s`: how fast it computes prompts, 0 where unknown.
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
    reserved_for: str | None = None
    prompt_tokens_per_s: float = 0.0
    lossless: bool = field(init=False)
    """Whether some of its points answer losslessly."""
    open: bool = field(init=False)
    """Whether it takes requests at all."""
    floor: int = field(init=False)
    """Requests beyond which the tier it is kept fast for would fall behind its pace."""
    ranks: Mapping[str, Rank] = field(init=False)
    """Its place in the order, by tier, for a request whose pace is to be kept; other tiers have `rank`."""
    rank: Rank = field(init=False)
    tiebreak: int = field(init=False)
    """What orders it among equals, together with a seed."""

    def __post_init__(self) -> None:
        """Work out once what `route` would ask of every replica for every request."""
        load, queued, reserved_for = self.load, self.queued_prompt_tokens, self.reserved_for
        kept = self.rows.get(reserved_for, 0) if reserved_for is not None else 0
        floor = min(kept, self.capacity) if kept > 0 else self.capacity
        put = object.__setattr__
        put(self, "lossless", _lossless(self.points))
        put(self, "open", self.ready and not self.draining)
        put(self, "floor", floor)
        put(self, "ranks", {t: (t != reserved_for, _share(load, min(n, floor)), queued) for t, n in self.rows.items()})
        put(self, "rank", (bool(self.rows), _share(load, floor), queued))
        put(self, "tiebreak", crc32(self.replica_id.encode()))

    @property
    def load(self) -> int:
        """Requests it has, as far as this router and its last report know."""
        return max(self.in_flight, self.running + self.waiting)

    @property
    def tier_capacity(self) -> dict[str, int]:
        """By tier, requests beyond which that tier, or the one it is kept fast for, would fall behind."""
        return {tier: min(rows, self.floor) for tier, rows in self.rows.items()}


class SloState(IntEnum):
    """What a request may ask for: its objectives, what is left over, or any place at all (its client is in
    mid-sentence)."""

    ON_TIME = 0
    LATE = 1
    RESUMED = 2


@value
class RequestView:
    """What routing and admission need of a request.

    `priority`: of its tier, higher goes first. `lossy_ok`: diffusion may answer it. `pin`: the mode that the client
    insists on, served by whichever replica has a point that fits. `left_s`: seconds left until its first token is due.
    `held`: by replica, tokens of the prompt that it is likely to have computed already (see `affinity`).
    """

    tier: str = "standard"
    priority: int = 0
    prompt_tokens: int = 0
    lossy_ok: bool = False
    pin: Wish | None = None
    slo_state: SloState = SloState.ON_TIME
    left_s: float = inf
    held: Mapping[str, int] = field(default_factory=dict)


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
    PREFIX_HELD = "PrefixHeld"
    STALE = "Stale"
    ALL_BUSY = "AllBusy"
    NOT_OFFERED = "NotOffered"
    NONE_READY = "NoneReady"


@value
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
    best, doubtful = _pick(request, replicas, staleness, seed)
    if best is not None:
        detail = f"{best.replica_id} has {best.load} of {best.capacity} requests, "
        detail += f"{best.queued_prompt_tokens} prompt tokens queued"
        if held := request.held.get(best.replica_id, 0):
            detail += f", {held} of {request.prompt_tokens} tokens known"
        return RouteDecision(best.replica_id, RouteReason.PREFIX_HELD if held else RouteReason.LEAST_LOADED, detail)
    best = _pick_stale(request, doubtful, seed)
    if best is not None:
        detail = f"{best.replica_id} has {best.in_flight} of {best.capacity} requests of this router's own"
        return RouteDecision(best.replica_id, RouteReason.STALE, detail)
    return _nobody(request, replicas, staleness)


def may_serve(request: RequestView, points: Iterable[OperatingPoint]) -> bool:
    """Whether a replica with these points may answer: a pin needs a point that fits it, and no lossy point answers a
    request that did not allow it."""
    pin, lossy_ok = request.pin, request.lossy_ok
    return any((lossy_ok or point.mode.lossless) and (pin is None or pin.fits(point)) for point in points)


LATE_SHARE = 0.5
"""Share of a replica's room up to which it takes requests that are late anyway: the rest is for those in time. Only
where a pace is at stake."""
AFFINITY = 0.25
"""A replica that has all of a prompt may be fuller than others by this share of its room and is still preferred; one
that has half of it by half as much. The guard of load: prompts that begin alike do not pile up on one replica."""
TIEBREAK_SPREAD, MASK = 2_654_435_769, 0xFFFFFFFF
"""Multiplicative hashing by the golden ratio (Knuth, The Art of Computer Programming, 6.4)."""


def _pick(
    request: RequestView, replicas: Sequence[ReplicaView], staleness: Staleness, seed: int
) -> tuple[ReplicaView | None, list[ReplicaView]]:
    """The replica of the least rank among those that report, one of the equals by the seed; and those that do not.

    One loop that reads what the views have ready: it runs for every request over every replica.
    """
    stale_after, dead_after, tier, pinned = staleness.stale_after_s, staleness.dead_after_s, request.tier, request.pin
    paced, mixed, held = _keeps_pace(request, replicas, staleness), crc32(b"%d" % seed), request.held
    best: ReplicaView | None = None
    best_rank, best_turn, best_id = FULL, 0, ""
    doubtful = []
    for replica in replicas:
        age = replica.age_s
        if age > stale_after:
            if age <= dead_after:
                doubtful.append(replica)
            continue
        if not replica.open or ((pinned or not replica.lossless) and not may_serve(request, replica.points)):
            continue
        rank = replica.ranks.get(tier, replica.rank) if paced else _unpaced(request, replica)
        if held and replica.replica_id in held and rank[1] < 1.0:
            rank = _warm(rank, held[replica.replica_id], request.prompt_tokens)
        if rank > best_rank or rank[1] >= 1.0 or (paced and rank[2] and not _in_time(request, replica)):
            continue
        turn = (replica.tiebreak ^ mixed) * TIEBREAK_SPREAD & MASK
        if rank == best_rank and (turn > best_turn or (turn == best_turn and replica.replica_id > best_id)):
            continue
        best, best_rank, best_turn, best_id = replica, rank, turn, replica.replica_id
    return best, doubtful


def _warm(rank: Rank, held: int, prompt_tokens: int) -> Rank:
    """The rank of a replica that has the beginning of the prompt: as if it were emptier."""
    return rank[0], rank[1] - AFFINITY * min(1.0, held / max(1, prompt_tokens)), rank[2]


def _pick_stale(request: RequestView, doubtful: Sequence[ReplicaView], seed: int) -> ReplicaView | None:
    """The same among those whose reports are not believed: only this router's own counter speaks for them."""
    mixed = crc32(b"%d" % seed)
    able = [r for r in doubtful if r.open and r.in_flight < r.capacity and may_serve(request, r.points)]
    return min(
        able,
        key=lambda r: (_share(r.in_flight, r.capacity), (r.tiebreak ^ mixed) * TIEBREAK_SPREAD & MASK, r.replica_id),
        default=None,
    )


def _unpaced(request: RequestView, replica: ReplicaView) -> Rank:
    """The rank for a request that has no pace to keep: it is late, or goes on, or no replica reaches its tier's."""
    load, queued = replica.load, replica.queued_prompt_tokens
    if not replica.rows or request.slo_state == SloState.RESUMED:
        return False, _share(load, replica.capacity), queued
    return replica.reserved_for != request.tier, _share(load, _leftover(request, replica)), queued


def _keeps_pace(request: RequestView, replicas: Sequence[ReplicaView], staleness: Staleness) -> bool:
    """Whether the tier's pace is to be protected: the request is in time, and some replica can keep it.

    Where none can it takes what the others leave.
    """
    if request.slo_state != SloState.ON_TIME:
        return False
    return any(r.rows.get(request.tier, 1) and _able(request, r, staleness) for r in replicas)


def _able(request: RequestView, replica: ReplicaView, staleness: Staleness) -> bool:
    """Whether it may answer, be it full or not."""
    if not replica.open or replica.age_s > staleness.dead_after_s:
        return False
    return (replica.lossless and request.pin is None) or may_serve(request, replica.points)


def _nobody(request: RequestView, replicas: Sequence[ReplicaView], staleness: Staleness) -> RouteDecision:
    """Why no replica was found."""
    alive = [r for r in replicas if r.open and r.age_s <= staleness.dead_after_s]
    if not alive:
        return RouteDecision(None, RouteReason.NONE_READY, f"none of {len(replicas)} replicas is ready")
    able = sum(may_serve(request, r.points) for r in alive)
    if not able:
        wanted = str(request.pin) if request.pin is not None else "lossless answers"
        return RouteDecision(None, RouteReason.NOT_OFFERED, f"none of {len(alive)} ready replicas offers {wanted}")
    return RouteDecision(None, RouteReason.ALL_BUSY, f"all {able} replicas run as much as they may")


def _leftover(request: RequestView, replica: ReplicaView) -> int:
    """Room for a request whose own objective is lost, be it late or out of reach of all replicas."""
    if request.slo_state == SloState.LATE and replica.floor < replica.capacity:
        return max(1, int(LATE_SHARE * replica.floor))
    return replica.floor


def spare(request: RequestView, replicas: Iterable[ReplicaView]) -> int:
    """Places that `request` could have now if it were late: beside those that keep its tier's pace, if slower."""
    late = replace(request, slo_state=SloState.LATE)
    able = (r for r in replicas if r.open and may_serve(late, r.points))
    return sum(max(0, _leftover(late, r) - r.load) for r in able)


def _in_time(request: RequestView, replica: ReplicaView) -> bool:
    """Whether the prompts queued there leave time for this one's; unknown speed counts as fast."""
    speed = replica.prompt_tokens_per_s if replica.rows else 0.0
    tokens = replica.queued_prompt_tokens + request.prompt_tokens
    return speed <= 0 or tokens - request.held.get(replica.replica_id, 0) <= request.left_s * speed
