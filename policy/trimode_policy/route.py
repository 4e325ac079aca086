"""Which replica gets a request: filter, score, pick.

Belongs here: the choice among replicas as one router sees them. Whether a request is taken at all is in `admit`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from operator import attrgetter
from zlib import crc32

from trimode_api.modes import OperatingPoint
from trimode_policy.values import value
from trimode_policy.views import FULL, Rank, ReplicaView, RequestView, SloState, Staleness, rank_of, share

__all__ = [
    "ReplicaView",
    "RequestView",
    "RouteDecision",
    "RouteReason",
    "SloState",
    "Staleness",
    "able",
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
    refusal: str = ""
    taken: tuple[RequestView, ReplicaView] | None = None
    """The request and its replica, as they were."""

    @property
    def detail(self) -> str:
        """Why, in words."""
        # Made when it is asked for: a router asks for refusals only, and the words cost half as much as the choice.
        if self.taken is None:
            return self.refusal
        request, best = self.taken
        if self.reason is RouteReason.STALE:
            return f"{best.replica_id} has {best.in_flight} of {best.capacity} requests of this router's own"
        detail = f"{best.replica_id} has {best.load} of {best.capacity} requests, "
        detail += f"{best.queued_prompt_tokens} prompt tokens queued"
        if held := request.held.get(best.replica_id, 0):
            detail += f", {held} of {request.prompt_tokens} tokens known"
        return detail


def route(request: RequestView, replicas: Sequence[ReplicaView], staleness: Staleness, seed: int) -> RouteDecision:
    """The least loaded replica that may answer `request`, reports that are fresh before stale ones.

    Deterministic for a seed and independent of the order of `replicas`. A replica that is full is never picked,
    and no request is refused while one has capacity left.
    """
    best = _pick(request, replicas, staleness, seed)
    if best is not None:
        held = request.held.get(best.replica_id, 0)
        reason = RouteReason.PREFIX_HELD if held else RouteReason.LEAST_LOADED
        return RouteDecision(best.replica_id, reason, taken=(request, best))
    # Stale reports are no reason to stop: llm-d holds its whole pool on metrics older than 200 ms (issues 2100 and
    # 2408, waits of 9.7 s instead of 40 ms). What this router has sent itself it knows without them.
    best = _pick_stale(request, replicas, staleness, seed)
    if best is not None:
        return RouteDecision(best.replica_id, RouteReason.STALE, taken=(request, best))
    return _none_found(request, replicas, staleness)


def may_serve(request: RequestView, points: Iterable[OperatingPoint]) -> bool:
    """Whether a replica with these points may answer: a pin needs a point that fits it, and no lossy point answers a
    request that did not allow it."""
    pin, lossy_ok = request.pin, request.lossy_ok
    return any((lossy_ok or point.mode.lossless) and (pin is None or pin.fits(point)) for point in points)


def able(request: RequestView, replica: ReplicaView, staleness: Staleness) -> bool:
    """Whether a replica may answer, full or not."""
    if not replica.open or replica.age_s > staleness.dead_after_s:
        return False
    return may_serve(request, replica.points) if request.pin or not replica.plain else True


AFFINITY = 0.25
"""A replica that has all of a prompt may be fuller than others by this share of its capacity and is still preferred;
one that has half of it by half as much. Beyond that the emptier one wins, so prompts that begin alike do not pile up
on one replica."""
PROMPT_SHARE = 0.5
"""Share of the time left until the first token that prompts may take on a replica that is kept for the request's tier,
before others are as good: until then its pace counts for more."""
LONG_PROMPT = 512
"""Tokens from which on a prompt's own time is worth a look at replicas that lose little by it: some hundredths of a
second on a GPU."""
_LENDS = attrgetter("lends")
TIEBREAK_SPREAD, MASK = 2_654_435_769, 0xFFFFFFFF
"""Multiplicative hashing by the golden ratio (Knuth, The Art of Computer Programming, 6.4)."""


def _mixed(seed: int) -> int:
    return crc32(b"%d" % seed) * TIEBREAK_SPREAD & MASK


def _pick(request: RequestView, replicas: Sequence[ReplicaView], staleness: Staleness, seed: int) -> ReplicaView | None:
    """The replica of the least rank among those that report, one of the equals by the seed."""
    paced = _keeps_pace(request, replicas, staleness)
    ranks = _ranks(request, replicas, staleness, paced)
    least = min(ranks, default=FULL)
    # Where the first choice has no prompts before this one, they decide nothing; a long one of its own goes where it
    # loses least.
    if least < FULL and (least[2] or (request.prompt_tokens >= LONG_PROMPT and _welcome(replicas))):
        pairs = zip(replicas, ranks, strict=True)
        ranks = [_with_prompts(request, replica, rank, paced) if rank < FULL else rank for replica, rank in pairs]
        least = min(ranks)
    if least >= FULL:
        return None
    equals, count = replicas, ranks.count(least)
    if count == 1:
        return replicas[ranks.index(least)]
    if count < len(replicas):
        equals = [replica for replica, rank in zip(replicas, ranks, strict=True) if rank == least]
    # The nearest to a hash of the seed by exclusive or (as in Kademlia, Maymounkov and Mazieres 2002), so that routers
    # with equal views do not all pick the same replica at once. Multiplying as well took three times as long.
    mixed = _mixed(seed)
    distances = [replica.tiebreak ^ mixed for replica in equals]
    nearest = min(distances)
    if distances.count(nearest) > 1:  # two names with one hash
        return min((r for r in equals if r.tiebreak ^ mixed == nearest), key=lambda r: r.replica_id)
    return equals[distances.index(nearest)]


def _ranks(request: RequestView, replicas: Sequence[ReplicaView], staleness: Staleness, paced: bool) -> list[Rank]:
    """One for each replica; `FULL` or above for those that may not have the request now."""
    tier, fresh_s, held = request.tier, staleness.stale_after_s, request.held
    if request.pin is not None or request.lossy_ok:
        ranks = [
            _rank(request, r, paced) if r.open and r.age_s <= fresh_s and may_serve(request, r.points) else FULL
            for r in replicas
        ]
    elif paced:
        # What nearly every request asks, so without a call; replicas that report paces report those of every tier.
        try:
            ranks = [
                (r.ranks[tier] if r.ranks else r.rank) if r.age_s <= fresh_s and r.plain else FULL for r in replicas
            ]
        except KeyError:  # the policy has lost the tier since the request came
            ranks = [r.ranks.get(tier, r.rank) if r.age_s <= fresh_s and r.plain else FULL for r in replicas]
    else:
        ranks = [_rank(request, r, paced) if r.age_s <= fresh_s and r.plain else FULL for r in replicas]
    if not held:
        return ranks
    # As if those that have the beginning of the prompt were emptier; one that is full has no place for it all the same.
    share_of = AFFINITY / max(1, request.prompt_tokens)
    return [
        (rank[0], rank[1] - min(AFFINITY, share_of * held[r.replica_id]), rank[2])
        if r.replica_id in held and rank < FULL
        else rank
        for r, rank in zip(replicas, ranks, strict=True)
    ]


def _rank(request: RequestView, replica: ReplicaView, paced: bool) -> Rank:
    """The rank of one replica that may answer, full or not."""
    # Reservations rank replicas and shut none: with caps that did, the p99 of the time to the first token reached 30 s
    # in a simulated spike while capped replicas idled.
    if paced:
        return replica.ranks.get(request.tier, replica.rank)
    # No pace to keep: the request is late or resumed, or no replica reaches its tier's pace.
    load, queued = replica.load, replica.queued_prompt_tokens
    if not replica.rows or request.slo_state == SloState.RESUMED:
        return rank_of(False, share(load, replica.capacity), queued)
    if request.slo_state != SloState.LATE:
        return rank_of(replica.reserved_for != request.tier, share(load, replica.floor), queued)
    # A late request takes what those in time leave over: its own objective is lost. Where it costs the strict tier's
    # pace nothing it goes first, up to a second of prompts.
    other = replica.reserved_for != request.tier and not replica.lends
    return rank_of(other, share(load, replica.late_room), queued, float(replica.lends))


def _pick_stale(
    request: RequestView, replicas: Sequence[ReplicaView], staleness: Staleness, seed: int
) -> ReplicaView | None:
    """The same among those whose reports are not believed: only this router's own counter is used."""
    mixed = _mixed(seed)
    stale = (r for r in replicas if staleness.stale_after_s < r.age_s <= staleness.dead_after_s)
    free = [r for r in stale if r.open and r.in_flight < r.capacity and may_serve(request, r.points)]
    return min(free, key=lambda r: (share(r.in_flight, r.capacity), r.tiebreak ^ mixed, r.replica_id), default=None)


def _keeps_pace(request: RequestView, replicas: Sequence[ReplicaView], staleness: Staleness) -> bool:
    """Whether the tier's pace is to be protected: the request is in time, and some replica can keep it."""
    # Where none can, holding the request back would protect nothing: it takes what the others leave over.
    if request.slo_state != SloState.ON_TIME:
        return False
    for replica in replicas:  # noqa: SIM110 - nearly always the first one can: `any` takes three times as long
        if replica.rows.get(request.tier, 1) and able(request, replica, staleness):
            return True
    return False


def _none_found(request: RequestView, replicas: Sequence[ReplicaView], staleness: Staleness) -> RouteDecision:
    """Why no replica was found."""
    alive = [r for r in replicas if r.open and r.age_s <= staleness.dead_after_s]
    if not alive:
        return RouteDecision(None, RouteReason.NONE_READY, f"none of {len(replicas)} replicas is ready")
    count = sum(able(request, r, staleness) for r in alive)
    if not count:
        wanted = str(request.pin) if request.pin is not None else "lossless answers"
        return RouteDecision(None, RouteReason.NOT_OFFERED, f"none of {len(alive)} ready replicas offers {wanted}")
    return RouteDecision(None, RouteReason.ALL_BUSY, f"all {count} replicas run as much as they may")


def spare(request: RequestView, replicas: Iterable[ReplicaView]) -> int:
    """Places that `request` could have now if it were late, slower than its tier's pace."""
    # As for a late request, since `admit` has it routed as one: else it would be let in and find no place.
    return sum(r.late_places for r in replicas if r.open and may_serve(request, r.points))


def _welcome(replicas: Sequence[ReplicaView]) -> bool:
    """Whether some replica loses least by long prompts."""
    # Not beside a pool of AR alone: other tiers go there anyway, and the strict one needs all those that speculate.
    lenders = list(filter(_LENDS, replicas))
    return bool(lenders) and all(replica.takes_long_prompts for replica in lenders)


def _with_prompts(request: RequestView, replica: ReplicaView, rank: Rank, paced: bool) -> Rank:
    """The rank with the prompts that are before this one counted beside the number of requests: the seconds that they
    and its own take there, as a share of those left until its first token is due. Its own count for nothing where they
    stall nobody of a stricter tier.

    `FULL` where a request in time would be late and some prompt is before it: a replica without may have it sooner. One
    that leaves less than `PROMPT_SHARE` of the time ranks like one that is kept for other tiers.
    """
    # Without rows the replica predicts nothing, and nothing is held back for it; unknown speed counts as fast.
    speed = replica.prompt_tokens_per_second if replica.rows else 0.0
    own = request.prompt_tokens - request.held.get(replica.replica_id, 0)
    per_token = 1.0 / speed / (max(1e-9, request.left_s) if paced else 1.0) if speed > 0 else 0.0
    work = per_token * (replica.queued_prompt_tokens + own)
    if paced and rank[2] and work > 1.0:
        return FULL
    reserved, used, queued = rank
    # Modes by pool, long prompts simulated: premium requests attained 88 % before this, 95 with it (docs/simulator.md).
    whole = used + (per_token * replica.queued_prompt_tokens if replica.takes_long_prompts else work)
    # Squashed, since a share of 1 stands for a replica that has no place left.
    return reserved or (paced and work > PROMPT_SHARE), whole / (1.0 + abs(whole)), queued
