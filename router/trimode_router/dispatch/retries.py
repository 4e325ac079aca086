"""When an attempt is given up, and whether another one is made. [pure]"""

from __future__ import annotations

from trimode_router.fleet.replica import Replica
from trimode_router.http.limits import Limits
from trimode_router.request.exchange import Exchange
from trimode_router.request.record import Failure, Phase, Record

_FAILURES_KEPT = 8
_FIRST_BACKOFF_SECONDS = 0.25


def why_stalled(exchange: Exchange, replica: Replica, limits: Limits, stale_after_s: float, now: float) -> str:
    """Why an exchange's replica must be taken for hung though its connection stands, or nothing."""
    quiet = now - exchange.quiet_since
    missing = now - replica.heard_at - stale_after_s
    # Reports and bytes both missing: a stopped process (SIGSTOP, a frozen node). Its connections stay open for minutes.
    if quiet >= limits.hung_seconds and missing >= limits.hung_seconds:
        return "hangs: neither bytes nor reports come"
    # Before the first byte a long prompt may be under way; an answer that only this replica can end gets its time.
    if quiet >= min(limits.stuck_seconds, limits.stalled_seconds) and exchange.continuable:
        if replica.report.running > 0 and replica.report.tokens_per_second == 0:
            return "is stuck: it runs requests and emits no token"
        if quiet >= limits.stalled_seconds:
            return "stalled"
    return "fell silent" if quiet >= limits.upstream_idle_seconds else ""


def note_failure(exchange: Exchange, what: str, how: Failure, last: Phase, now: float) -> None:
    """Count an attempt that failed in phase `last`, and set the time before which there is no other."""
    record = exchange.record
    record.failures = (*record.failures, what)[-_FAILURES_KEPT:]
    # With half a fleet away these used to spend the attempts of requests that no replica had seen.
    record.unseen += how in (Failure.UNTOUCHED, Failure.AWAY)
    if last is Phase.RESUMING and how in (Failure.REFUSED, Failure.BROKEN):
        # Replicas that break at once may die together, of one cause: the next is asked when that may be over.
        if how is Failure.BROKEN:
            exchange.not_before = now + _FIRST_BACKOFF_SECONDS * 2**exchange.failed_attempts
        exchange.failed_attempts += 1


def another_is_too_many(exchange: Exchange, limits: Limits) -> bool:
    """Whether a failed exchange is given up."""
    if not exchange.phase.begun:
        return seen_enough(exchange.record, limits)
    return exchange.failed_attempts >= limits.continuations or exchange.record.resumptions > limits.resumptions


def seen_enough(record: Record, limits: Limits) -> bool:
    """Whether enough replicas have seen a request that has no answer yet."""
    return record.attempts - record.unseen >= limits.attempts or record.attempts >= limits.placements
