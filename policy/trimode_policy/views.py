"""What routing and admission see of a replica and of a request.

Belongs here: frozen values only, with what can be worked out once per value. The choice is in `route` and `admit`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from math import inf
from typing import Any
from zlib import crc32

from trimode_api.modes import Mode, OperatingPoint, Wish
from trimode_policy.values import value

Rank = tuple[bool, float, int]
"""Reserved for other tiers; share of its capacity in use (1 and above: full); prompt tokens queued. The least goes
first."""
FULL: Rank = (True, 1.0, 0)
"""A rank that is not below this has no capacity left."""

# Other shares were tried on simulated loads and gained nothing (docs/simulator.md).
LATE_SHARE = 0.5
"""Share of a replica's capacity up to which it takes requests that are late anyway: the rest is for those in time.
Applies only where the tier has a pace to keep."""

LENDING = 0.25
"""A replica that keeps a tier's pace but not a stricter one's may be fuller than others by this share of its room and
is still preferred: it loses least by a request and its prompt, where others lose room that the stricter tier needs."""
# Only where modes differ by pool (AR beside speculation). Set on the simulator's `azure` and `diurnal`, seed 0: below
# the best static split by 1.0 and 0.4 % without, by 0.2 and not at all with it (docs/simulator.md).


def share(load: int, capacity: int) -> float:
    return load / capacity if capacity > 0 else 1.0


def _lossless(points: tuple[OperatingPoint, ...]) -> bool:
    # Nearly always the first one is: `any` alone takes four times as long.
    return bool(points) and (points[0].mode.lossless or any(point.mode.lossless for point in points))


@lru_cache(4096)
def _tiebreak(replica_id: str) -> int:
    return crc32(replica_id.encode())


@lru_cache(4096)
def rank_of(reserved: bool, used: float, queued: int, lends: float = 0.0) -> Rank:
    """The rank of a replica of which the share `used` is in use, `FULL` or above where that is all; it is taken for
    emptier by the share `lends`."""
    # Equal ranks are one object: to compare them is what `route` does most.
    return (True, used, queued) if used >= 1.0 else (reserved, used - lends, queued)


@value
class ReplicaView:
    """One replica at one moment, as one router knows it.

    `age_s`: seconds since its last report (infinite before the first). `in_flight`: requests this router has with
    it now, its own counter; it is raised to what was reported unless that is stale. From the last report:
    `running` and `waiting` requests of all routers, `queued_prompt_tokens` not yet prefilled, `tokens_per_second`.
    `capacity`: requests it may run at once. `points`: operating points its pool allows.
    `rows`: by tier, requests it can run at once so that each keeps that tier's pace (see `trimode_policy.capacity`; a
    tier that is not in it has no limit but `capacity`; 0: not even one alone). `reserved_for`: the tier whose pace is
    kept for all requests that run there (see `tier_fairness`). `prompt_tokens_per_second`: of its prefill, 0 where
    unknown.
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
    tokens_per_second: float = 0.0
    rows: Mapping[str, int] = field(default_factory=dict)
    reserved_for: str | None = None
    prompt_tokens_per_second: float = 0.0
    open: bool = field(init=False)
    """Whether it takes requests at all."""
    plain: bool = field(init=False)
    """Whether it takes those that ask for nothing but a lossless answer."""
    floor: int = field(init=False)
    """Requests beyond which the tier it is reserved for would fall behind its pace."""
    ranks: Mapping[str, Rank] = field(init=False)
    """Its rank, by tier, for a request whose pace is to be kept; other tiers have `rank`."""
    rank: Rank = field(init=False)
    late_room: int = field(init=False)
    """Requests up to which it takes one that is late."""
    tier_capacity: Mapping[str, int] = field(init=False)
    """By tier, requests beyond which that tier, or the one it is reserved for, would fall behind."""
    lends: bool = field(init=False)
    """Whether it cannot keep some tier's pace, so that it loses least by the requests of others."""
    takes_long_prompts: bool = field(init=False)
    """Whether it loses least by their prompts, too: it lends, and may emit several tokens a cycle."""
    tiebreak: int = field(init=False)
    """What orders it among equals, together with a seed."""

    def __post_init__(self) -> None:
        """Work out once what `route` would ask of every replica for every request."""
        # A view lives until the replica's next report or request; `route` reads every view for every request. Computed
        # here it takes 100 us at 1,000 replicas, a third of what it took computed there.
        load, queued, reserved_for, floor = self.load, self.queued_prompt_tokens, self.reserved_for, self.capacity
        made: Any = self  # read-only to all but this: `object.__setattr__` takes eight times as long
        made.open = self.ready and not self.draining
        made.plain = self.open and _lossless(self.points)
        made.ranks = made.tier_capacity = {}
        made.lends = made.takes_long_prompts = False
        if self.rows:
            kept = self.rows.get(reserved_for, 0) if reserved_for is not None else 0
            floor = min(kept, floor) if kept > 0 else floor
            rooms = made.tier_capacity = {tier: min(rows, floor) for tier, rows in self.rows.items()}
            made.lends = 0 in self.rows.values()
            # Prompts stall those who decode a token a cycle by most: an AR pool that was sent the long ones cost up to
            # 2.8 % of good requests (docs/simulator.md).
            made.takes_long_prompts = self.lends and any(point.mode is not Mode.AR for point in self.points)
            lent = LENDING * self.lends
            made.ranks = {t: rank_of(t != reserved_for, share(load, r), queued, lent) for t, r in rooms.items()}
        made.floor = floor
        made.late_room = max(1, int(LATE_SHARE * floor)) if floor < self.capacity else floor
        made.rank = rank_of(bool(self.rows), share(load, floor), queued)
        made.tiebreak = _tiebreak(self.replica_id)

    @property
    def load(self) -> int:
        """Requests it has, as far as this router and its last report know."""
        # A report lags behind what this router has sent since; its own counter knows nothing of other routers. The
        # larger is safe.
        return max(self.in_flight, self.running + self.waiting)

    @property
    def late_places(self) -> int:
        """Requests that are late and that it could take now."""
        return max(0, self.late_room - self.load)


class SloState(IntEnum):
    """What a request is entitled to: its objectives; what those in time leave over; or any place at all, because its
    client has half of an answer."""

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

    # No workload, though a request may name one: counting places by it gained at most 1.0 % of goodput in simulation
    # with perfect labels, and cost up to 2.2 % (docs/policy.md).
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
    """Report ages in seconds: above `stale_after_s` only the router's own counters count, above
    `dead_after_s` no request is sent. Raises ValueError unless 0 < stale_after_s <= dead_after_s."""

    # Reports come five times a second: ten are missing before a replica is stale, fifty before it is dead.
    stale_after_s: float = 2.0
    dead_after_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.stale_after_s <= self.dead_after_s:
            raise ValueError(
                f"staleness: stale_after_s {self.stale_after_s} must be above 0 and at most "
                f"dead_after_s {self.dead_after_s}"
            )
