"""Replicas that hang: when an exchange is given up though its connection stands.

Belongs here: the judgement, by silence and by reports. [pure]
"""

from __future__ import annotations

from trimode_router.fleet.replica import Replica
from trimode_router.http.limits import Limits
from trimode_router.request.exchange import Exchange


def why_given_up(exchange: Exchange, replica: Replica, limits: Limits, stale_after_s: float, now: float) -> str:
    """Why an exchange's replica must be taken for hung, or nothing."""
    quiet = now - exchange.quiet_since
    missing = now - replica.heard_at - stale_after_s
    if quiet >= limits.hung_seconds and missing >= limits.hung_seconds:
        return "hangs: neither bytes nor reports come"
    # Before the first byte a long prompt may be under way; an answer that only this replica can end gets its time.
    if quiet >= min(limits.stuck_seconds, limits.stalled_seconds) and exchange.continuable:
        if replica.report.running > 0 and replica.report.tokens_per_second == 0:
            return "is stuck: it runs requests and emits no token"
        if quiet >= limits.stalled_seconds:
            return "stalled"
    return "fell silent" if quiet >= limits.upstream_idle_seconds else ""
