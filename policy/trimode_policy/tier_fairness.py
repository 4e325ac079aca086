"""Which replicas are reserved for the pace of which tier, and until when a request counts as in time.

Belongs here: the router's slow decision about tiers. Unequal load beats equal load around the crossover, so some
replicas are kept at the pace of the strictest tier: as many as its share of the requests. Every tier may use them up to
that pace, and the strict tier may use the others where they happen to be fast enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp
from zlib import crc32

from trimode_policy.views import SloState

TTFT_USE = 0.8
"""Share of the objective for the first token after which a request that still waits counts as late."""
# From the objective itself: a prompt still has to be computed after the wait.
MIX_S = 60.0
"""Seconds over which the shares of the tiers are averaged."""
STARVED_S = 1.0
"""Seconds without a place after which a tier whose requests wait goes first, once."""


class TierMix:
    """Mutable: how many requests of each tier came recently. Holds no clock."""

    def __init__(self, tiers: Sequence[str]) -> None:
        """`tiers`: names, the strictest pace first."""
        self._counts = dict.fromkeys(tiers, 0.0)
        self._at: float | None = None

    def asked(self, tier: str, now: float) -> None:
        """A request of `tier` came."""
        if self._at is not None and now > self._at:
            keep = exp(-(now - self._at) / MIX_S)
            for name in self._counts:
                self._counts[name] *= keep
        self._at = now
        if tier in self._counts:
            self._counts[tier] += 1.0

    def shares(self) -> dict[str, float]:
        """Share of each tier, strictest first; empty before the first request."""
        total = sum(self._counts.values())
        return {tier: count / total for tier, count in self._counts.items()} if total > 0 else {}


# Whole replicas rather than a share of each: throughput is not concave in the batch around the crossover, and with mean
# batches of 8 to 54 a simulated fleet did up to 20.6 % better where some replicas ran small batches and others large
# ones.
def reservations(rows: Mapping[str, Mapping[str, int]], shares: Mapping[str, float]) -> dict[str, str]:
    """The tier whose pace each replica keeps.

    `rows`: by replica, requests per tier that it can run in time. `shares`: of the tiers, strictest first; a tier that
    no replica can serve in time is left out. Deterministic, and independent of the order of replicas.
    """
    # Replicas in proportion to requests, not as many as the strict tier would need: protecting every premium request
    # had up to 89 % of them in time, but 4 and 8 % less goodput on two simulated loads (docs/policy.md).
    able = [tier for tier in shares if any(known.get(tier, 1) for known in rows.values())]
    total = sum(shares[tier] for tier in able)
    if not total > 0:
        return {}
    # By a hash of the name, so that a replica keeps its tier when others come and go: moving a reservation makes the
    # requests that run there too slow for the new one. First those that can keep the strictest pace at all.
    ordered = sorted(rows, key=lambda name: (rows[name].get(able[0], 1) == 0, crc32(name.encode()), name))
    found, number, reached = {}, 0, shares[able[0]]
    for place, name in enumerate(ordered):
        while number + 1 < len(able) and (place + 0.5) / len(ordered) > reached / total:
            number += 1
            reached += shares[able[number]]
        found[name] = able[number]
    return found


class StarvationGuard:
    """Mutable: when a request of each tier was last given a place. Holds no clock.

    Priority alone would let a flood of urgent requests keep the others out for ever. So a tier that waits and has been
    given no place for `STARVED_S` gets the next one that is free, before all other tiers.
    """

    def __init__(self) -> None:
        self._at: dict[str, float] = {}

    def served(self, tier: str, now: float) -> None:
        """One of `tier` got a place."""
        self._at[tier] = now

    def starved(self, tier: str, now: float) -> bool:
        """Whether a tier whose requests wait is due; counted from the first time it is asked about."""
        since = self._at.setdefault(tier, now)
        if since > now:  # the clock was set back
            since = self._at[tier] = now
        # Where replicas are shared out by pace this hardly ever happens; it is for fleets in which priority alone
        # decides.
        return now - since >= STARVED_S


def slo_state_of(waited_s: float, ttft_s: float) -> SloState:
    """Whether a request that has no token yet is still in time after `waited_s`."""
    return SloState.ON_TIME if waited_s <= TTFT_USE * ttft_s else SloState.LATE
