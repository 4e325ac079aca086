"""Which replica gets a request: filter, score, pick.

Belongs here: the choice among replicas as one router sees them. Whether a request is taken at all is in `admit`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from enum import StrEnum
from zlib import crc32

from trimode_api.modes import OperatingPoint
from trimode_policy.values import value
from trimode_policy.views import FULL, Rank, ReplicaView, RequestView, SloState, Staleness, share

__all__ = [
    "ReplicaView",
    "RequestView",
    "RouteDecision",
    "RouteReason",
    "SloState",
    "Staleness",
    "may_serve",
    "route",
    "spare",
]


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
    and no request is refused while one has capacity left.
    """
    best, stale = _pick(request, replicas, staleness, seed)
    if best is not None:
        detail = f"{best.replica_id} has {best.load} of {best.capacity} requests, "
        detail += f"{best.queued_prompt_tokens} prompt tokens queued"
        if held := request.held.get(best.replica_id, 0):
            detail += f", {held} of {request.prompt_tokens} tokens known"
        return RouteDecision(best.replica_id, RouteReason.PREFIX_HELD if held else RouteReason.LEAST_LOADED, detail)
    # Stale reports are no reason to stop: llm-d holds its whole pool on metrics older than 200 ms (issues 2100 and
    # 2408, waits of 9.7 s instead of 40 ms). What this router has sent itself it knows without them.
    best = _pick_stale(request, stale, seed)
    if best is not None:
        detail = f"{best.replica_id} has {best.in_flight} of {best.capacity} requests of this router's own"
        return RouteDecision(best.replica_id, RouteReason.STALE, detail)
    return _none_found(request, replicas, staleness)


def may_serve(request: RequestView, points: Iterable[OperatingPoint]) -> bool:
    """Whether a replica with these points may answer: a pin needs a point that fits it, and no lossy point answers a
    request that did not allow it."""
    pin, lossy_ok = request.pin, request.lossy_ok
    return any((lossy_ok or point.mode.lossless) and (pin is None or pin.fits(point)) for point in points)


# Other shares were tried on simulated loads and gained nothing (docs/simulator.md).
LATE_SHARE = 0.5
"""Share of a replica's capacity up to which it takes requests that are late anyway: the rest is for those in time.
Applies only where the tier has a pace to keep."""
AFFINITY = 0.25
"""A replica that has all of a prompt may be fuller than others by this share of its capacity and is still preferred;
one that has half of it by half as much. Beyond that the emptier one wins, so prompts that begin alike do not pile up
on one replica."""
TIEBREAK_SPREAD, MASK = 2_654_435_769, 0xFFFFFFFF
"""Multiplicative hashing by the golden ratio (Knuth, The Art of Computer Programming, 6.4)."""


def _pick(
    request: RequestView, replicas: Sequence[ReplicaView], staleness: Staleness, seed: int
) -> tuple[ReplicaView | None, list[ReplicaView]]:
    """The replica of the least rank among those that report, one of the equals by the seed; and those that do not."""
    # One loop without calls where it can be: it runs for every request over every replica. Where all are equals, the
    # most expensive case, it takes 16 to 20 us at 64 replicas and 190 to 230 us at 1,000 (docs/policy.md).
    stale_after, dead_after, tier, pinned = staleness.stale_after_s, staleness.dead_after_s, request.tier, request.pin
    paced, mixed, held = _keeps_pace(request, replicas, staleness), crc32(b"%d" % seed), request.held
    best: ReplicaView | None = None
    best_rank, best_turn, best_id = FULL, 0, ""
    stale = []
    for replica in replicas:
        age = replica.age_s
        if age > stale_after:
            if age <= dead_after:
                stale.append(replica)
            continue
        if not replica.open or ((pinned or not replica.lossless) and not may_serve(request, replica.points)):
            continue
        rank = replica.ranks.get(tier, replica.rank) if paced else _unpaced(request, replica)
        if held and replica.replica_id in held and rank[1] < 1.0:
            rank = _warm(rank, held[replica.replica_id], request.prompt_tokens)
        if rank > best_rank or rank[1] >= 1.0 or (paced and rank[2] and not _in_time(request, replica)):
            continue
        # A hash of seed and replica, so that routers with equal views do not all pick the same replica at once.
        turn = (replica.tiebreak ^ mixed) * TIEBREAK_SPREAD & MASK
        if rank == best_rank and (turn > best_turn or (turn == best_turn and replica.replica_id > best_id)):
            continue
        best, best_rank, best_turn, best_id = replica, rank, turn, replica.replica_id
    return best, stale


def _warm(rank: Rank, held: int, prompt_tokens: int) -> Rank:
    """The rank of a replica that has the beginning of the prompt: as if it were emptier."""
    return rank[0], rank[1] - AFFINITY * min(1.0, held / max(1, prompt_tokens)), rank[2]


def _pick_stale(request: RequestView, stale: Sequence[ReplicaView], seed: int) -> ReplicaView | None:
    """The same among those whose reports are not believed: only this router's own counter is used."""
    mixed = crc32(b"%d" % seed)
    able = [r for r in stale if r.open and r.in_flight < r.capacity and may_serve(request, r.points)]
    return min(
        able,
        key=lambda r: (share(r.in_flight, r.capacity), (r.tiebreak ^ mixed) * TIEBREAK_SPREAD & MASK, r.replica_id),
        default=None,
    )


def _unpaced(request: RequestView, replica: ReplicaView) -> Rank:
    """The rank for a request that has no pace to keep: it is late or resumed, or no replica reaches its tier's pace."""
    # Reservations rank replicas and shut none: with caps that did, the p99 of the time to the first token reached 30 s
    # in a simulated spike while capped replicas idled.
    load, queued = replica.load, replica.queued_prompt_tokens
    if not replica.rows or request.slo_state == SloState.RESUMED:
        return False, share(load, replica.capacity), queued
    return replica.reserved_for != request.tier, share(load, _leftover(request, replica)), queued


def _keeps_pace(request: RequestView, replicas: Sequence[ReplicaView], staleness: Staleness) -> bool:
    """Whether the tier's pace is to be protected: the request is in time, and some replica can keep it."""
    # Where none can, holding the request back would protect nothing: it takes what the others leave over.
    if request.slo_state != SloState.ON_TIME:
        return False
    return any(r.rows.get(request.tier, 1) and _able(request, r, staleness) for r in replicas)


def _able(request: RequestView, replica: ReplicaView, staleness: Staleness) -> bool:
    """Whether it may answer, full or not."""
    if not replica.open or replica.age_s > staleness.dead_after_s:
        return False
    return (replica.lossless and request.pin is None) or may_serve(request, replica.points)


def _none_found(request: RequestView, replicas: Sequence[ReplicaView], staleness: Staleness) -> RouteDecision:
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
    """Requests it may have for one to be added whose own objective is lost: late, or out of reach of all replicas."""
    if request.slo_state == SloState.LATE and replica.floor < replica.capacity:
        return max(1, int(LATE_SHARE * replica.floor))
    return replica.floor


def spare(request: RequestView, replicas: Iterable[ReplicaView]) -> int:
    """Places that `request` could have now if it were late, slower than its tier's pace."""
    # As `_leftover` counts for a late request, since `admit` has it routed as one: else it would be let in and find no
    # place.
    late = replace(request, slo_state=SloState.LATE)
    able = (r for r in replicas if r.open and may_serve(late, r.points))
    return sum(max(0, _leftover(late, r) - r.load) for r in able)


def _in_time(request: RequestView, replica: ReplicaView) -> bool:
    """Whether the prompts queued there leave time for this one's; unknown speed counts as fast."""
    # Without rows the replica predicts nothing, and nothing is held back for it.
    speed = replica.prompt_tokens_per_second if replica.rows else 0.0
    tokens = replica.queued_prompt_tokens + request.prompt_tokens
    return speed <= 0 or tokens - request.held.get(replica.replica_id, 0) <= request.left_s * speed
