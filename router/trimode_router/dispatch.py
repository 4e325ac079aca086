"""Placing requests: admit, wait, route, send, and try again.

Belongs here: the desk between clients and replicas. Decisions are `admit` and `route`; this module carries them out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf

from trimode_api.errors import ApiError
from trimode_policy.admit import RETRY_UNKNOWN_S, Admission, Outcome, QueueView, admit, retry_after_seconds
from trimode_policy.affinity import Beginnings
from trimode_policy.route import Claim, RequestView, RouteDecision, RouteReason, route
from trimode_policy.tiers import Turns, claim
from trimode_router.exchange import Exchange, Failure
from trimode_router.fleet import Fleet, Replica
from trimode_router.ledger import Ledger
from trimode_router.limits import Limits
from trimode_router.links import Links
from trimode_router.sleepers import Sleepers
from trimode_router.waiting import Ticket, WaitingRoom

_FIRST_IN_LINE = 2**31
"""Priority of streams that wait to go on: their clients have waited before, and are in mid-sentence."""
_FAILURES_KEPT = 8
_FIRST_BACKOFF_SECONDS = 0.25
_STATUS = {RouteReason.NOT_OFFERED: 400, RouteReason.NONE_READY: 503}
"""Of decisions that leave a request nowhere to go, now or later."""


class Dispatcher:
    """Owns the queue and the links; the fleet's counters change here only."""

    def __init__(self, fleet: Fleet, ledger: Ledger, limits: Limits, token: str, now: Callable[[], float]) -> None:
        self.limits = limits
        self.now = now
        self.queue: WaitingRoom[Exchange] = WaitingRoom()
        self.in_flight: dict[Exchange, Replica] = {}
        self.sleepers = Sleepers(fleet)
        self._fleet = fleet
        self._ledger = ledger
        self._links = Links(token, limits.connect_seconds, self._unreached)
        self._tickets: dict[Exchange, Ticket[Exchange]] = {}
        self._beginnings = Beginnings()
        self._turns = Turns()
        self._seed = 0
        self._pumping = False

    # A request's turns.

    def submit(self, exchange: Exchange) -> None:
        """A new request: send it, queue it, or refuse it."""
        now = self.now()
        self._fleet.asked(exchange.tier.name, now)
        # Nobody waits and somebody has room: then `admit` could only agree.
        if not self.queue and self._place(exchange, now).replica_id is not None:
            return
        view = self._queue_view(exchange, now)
        if not view.ready_replicas and self.sleepers.call(exchange.wish, now) is not None:
            view = replace(view, waking=True)
        admission = admit(exchange.wish, view, self._fleet.rules.admission)
        if admission.outcome is Outcome.REFUSE:
            self._refuse(exchange, _refusal(admission))
        elif admission.outcome is Outcome.QUEUE:
            self._enqueue(exchange, now)
        else:
            self._place_or_wait(exchange, now)

    def resumed(self, pause_s: float) -> None:
        self._ledger.resumed(pause_s)

    def first_byte(self, exchange: Exchange) -> None:
        replica = self.in_flight.get(exchange)
        if replica is not None:
            self._fleet.prefilled(replica, exchange.asked.prompt_tokens)
            self._fleet.succeeded(replica)

    def elsewhere(self, exchange: Exchange) -> bool:
        replica = self.in_flight.get(exchange)
        if replica is None or exchange.record.attempts >= self.limits.attempts:
            return False
        tried = {*exchange.tried, replica.replica_id}
        return any(self._fleet.usable(view) for view in self._fleet.views(self.now(), tried))

    def failed(self, exchange: Exchange, why: str, how: Failure) -> None:
        """An attempt failed: try again, on the same replica only where it never saw it.

        Nothing has gone to the client yet, or the exchange now asks for the rest of what has.
        """
        replica = self.in_flight[exchange]
        now = self.now()
        fruitless = exchange.begun and exchange.awaits
        self._release(exchange)
        exchange.record.failures = [*exchange.record.failures, f"{replica.replica_id} {why}"][-_FAILURES_KEPT:]
        if how is not Failure.UNTOUCHED:
            self._fleet.failed(replica, now)
            exchange.tried = {*exchange.tried, replica.replica_id}
        if fruitless and how in (Failure.REFUSED, Failure.BROKEN):
            if how is Failure.BROKEN:
                exchange.not_before = now + _FIRST_BACKOFF_SECONDS * 2**exchange.strikes
            exchange.strikes += 1
        if self._given_up(exchange):
            what = "; ".join(exchange.record.failures)
            self._refuse(exchange, _no_replica(502, f"every attempt failed: {what}"))
        else:
            if not exchange.begun:
                self._ledger.retried()
            self._place_or_wait(exchange, now)
        self.pump()

    def over(self, exchange: Exchange) -> None:
        ticket = self._tickets.pop(exchange, None)
        if ticket is not None:
            self.queue.leave(ticket)
            self._waited(exchange)
        self._release(exchange)
        self._ledger.finished(exchange, self.now())
        if exchange.tenant is not None and exchange.begun:
            exchange.tenant.tokens.spend(exchange.asked.prompt_tokens + (exchange.record.tokens or 0))
        if ticket is None:
            self.pump()

    # What moves the queue.

    def pump(self) -> None:
        """Send waiting requests while there are slots: after each answer, and after each report."""
        if self._pumping or not self.queue:
            return
        self._pumping = True
        try:
            now = self.now()
            late: list[Ticket[Exchange]] = []
            full: set[tuple[str, Claim]] = set()
            self._serve_starved(now)
            for ticket in self.queue.in_order():
                if not self._has_slot(now):
                    break
                if ticket.item.not_before > now:
                    continue
                if _wish(ticket.item, now).claim is Claim.LATE:
                    late.append(ticket)  # what those in time leave over
                else:
                    self._serve(ticket, full, now)
            for ticket in late:
                if not self._has_slot(now):
                    break
                self._serve(ticket, full, now)
        finally:
            self._pumping = False

    def _serve_starved(self, now: float) -> None:
        """A tier that got no place for long goes first, late or not, with the one who has waited longest."""
        for tier in self._fleet.rules.tiers.values():
            if not self.queue.at(tier.priority) or not self._turns.starved(tier.name, now):
                continue
            waiting = (t for t in self.queue.by_age() if t.item.tier.name == tier.name and t.item.not_before <= now)
            ticket = next(waiting, None)
            if ticket is not None and self._place(ticket.item, now, in_turn=True).replica_id is not None:
                self._leaves(ticket)

    def _leaves(self, ticket: Ticket[Exchange]) -> None:
        """It waits no longer: it was sent."""
        self.queue.serve(ticket)
        self._tickets.pop(ticket.item, None)
        self._waited(ticket.item)

    def _serve(self, ticket: Ticket[Exchange], full: set[tuple[str, Claim]], now: float) -> None:
        """Send it, unless one like it found no place just now; `full` remembers those."""
        exchange = ticket.item
        wish = _wish(exchange, now)
        plain = wish.pin is None and not wish.lossy_ok and not exchange.tried
        if plain and (wish.tier, wish.claim) in full:
            return
        if self._place(exchange, now).replica_id is not None:
            self._leaves(ticket)
        elif plain:
            full.add((wish.tier, wish.claim))

    def tick(self, now: float) -> None:
        """Time passes: waits end, silent replicas die, and others are kept fast."""
        self._fleet.keep(now)
        self.sleepers.look(((ticket.item.wish, ticket.since) for ticket in self.queue), now)
        for ticket in self.queue.expired(now):
            self._tickets.pop(ticket.item, None)
            self._waited(ticket.item)
            self._refuse(ticket.item, self._too_late(ticket, now))
        if self._fleet.bury(now):
            for exchange, replica in list(self.in_flight.items()):
                if replica.dead and not exchange.over:
                    exchange.lost("stopped reporting")
        self._links.keep_only(lambda replica_id: self._fleet.get(replica_id) is not None)
        self.pump()

    def watch(self, now: float) -> None:
        """Give up replicas that hang, by what they sent lately; call about once a second."""
        for exchange, replica in list(self.in_flight.items()):
            link = exchange.link
            if link is None or exchange.over:
                continue
            if link.heard or exchange.client.paused:
                link.heard = False
                exchange.quiet_since = now
            elif why := self._hangs(exchange, replica, now):
                exchange.lost(why)

    async def close(self) -> None:
        """Cut what is left."""
        for exchange in list(self.in_flight):
            exchange.client.abort()
            exchange.client_gone()
        await self._links.close()

    # Inside.

    def _hangs(self, exchange: Exchange, replica: Replica, now: float) -> str:
        """Why an exchange's replica must be taken for hung, or nothing."""
        limits, quiet = self.limits, now - exchange.quiet_since
        missing = now - replica.heard_at - self._fleet.rules.staleness.stale_after_s
        if quiet >= limits.hung_seconds and missing >= limits.hung_seconds:
            return "hangs: neither bytes nor reports come"
        # Before the first byte a long prompt may be under way; an answer that only this replica can end gets its time.
        if quiet >= min(limits.stuck_seconds, limits.stalled_seconds) and exchange.continuable:
            if replica.report.running > 0 and replica.report.tokens_per_second == 0:
                return "is stuck: it runs requests and emits no token"
            if quiet >= limits.stalled_seconds:
                return "stalled"
        return "fell silent" if quiet >= limits.upstream_idle_seconds else ""

    def _given_up(self, exchange: Exchange) -> bool:
        """Whether another attempt is one too many."""
        if not exchange.begun:
            return exchange.record.attempts >= self.limits.attempts
        return exchange.strikes >= self.limits.continuations or exchange.record.resumptions > self.limits.resumptions

    def _place_or_wait(self, exchange: Exchange, now: float) -> None:
        decision = self._place(exchange, now)
        if decision.replica_id is not None:
            return
        if exchange.begun:
            # A client in mid-sentence waits for whoever comes back, be it one that has failed it before.
            exchange.tried = ()
            self._wait_to_go_on(exchange, now)
            return
        if decision.reason is RouteReason.ALL_BUSY or self.sleepers.call(exchange.wish, now) is not None:
            self._enqueue(exchange, now)
            return
        status = _STATUS[decision.reason]
        detail = "; ".join([decision.detail, *exchange.record.failures])
        retry = None if status == 400 else 1
        self._refuse(exchange, ApiError(status, detail, code=decision.reason.value, retry_after_s=retry))

    def _place(self, exchange: Exchange, now: float, *, in_turn: bool = False) -> RouteDecision:
        """Route, and send where there is a way. `in_turn`: as if it had just come, however late it is."""
        if exchange.not_before > now:
            return RouteDecision(None, RouteReason.ALL_BUSY, "it waits before the next attempt")
        self._seed += 1
        views = self._fleet.views(now, exchange.tried, cooling=not exchange.begun)
        wish = replace(exchange.wish, left_s=inf) if in_turn else _wish(exchange, now)
        begins = exchange.asked.beginnings
        if held := self._beginnings.held(begins):
            wish = replace(wish, held=held)
        decision = route(wish, views, self._fleet.rules.staleness, self._seed)
        replica = self._fleet.get(decision.replica_id) if decision.replica_id is not None else None
        if replica is not None:
            self._fleet.occupy(replica, exchange.asked.prompt_tokens)
            self._beginnings.sent(begins, replica.replica_id)
            self.in_flight[exchange] = replica
            self._turns.served(exchange.tier.name, now)
            exchange.record.replica_id = replica.replica_id
            exchange.record.attempts += 1
            exchange.turn += 1
            exchange.awaits = True
            exchange.quiet_since = now
            self._links.send(exchange, replica)
        return decision

    def _unreached(self, exchange: Exchange, why: str) -> None:
        self.failed(exchange, why, Failure.AWAY)

    def _wait_to_go_on(self, exchange: Exchange, now: float) -> None:
        self._tickets[exchange] = self.queue.enter(exchange, _FIRST_IN_LINE, now, now + self.limits.resume_seconds)

    def _enqueue(self, exchange: Exchange, now: float) -> None:
        limits = self._fleet.rules.admission
        priority = exchange.tier.priority
        if len(self.queue) >= limits.max_queued:
            worst = self.queue.last()
            if worst is None or worst.priority >= priority:
                message = f"{len(self.queue)} of {limits.max_queued} places are taken"
                self._refuse(exchange, self._busy(exchange, now, message, "QueueFull"))
                return
            message = "a request of higher priority took its place in the queue"
            self._refuse(worst.item, self._busy(worst.item, now, message, "Displaced"))
        since = exchange.record.queued_at if exchange.record.queued_at is not None else now
        exchange.record.queued_at = since
        tenant = "" if exchange.tenant is None else exchange.tenant.name
        self._tickets[exchange] = self.queue.enter(exchange, priority, since, since + limits.max_wait_s, tenant)

    def _waited(self, exchange: Exchange) -> None:
        if exchange.record.queued_at is not None:
            exchange.record.queue_wait = self.now() - exchange.record.queued_at

    def _refuse(self, exchange: Exchange, error: ApiError) -> None:
        self._ledger.refused(exchange.tier.name, error)
        exchange.refuse(error)

    def _release(self, exchange: Exchange) -> None:
        replica = self.in_flight.pop(exchange, None)
        if replica is None:
            return
        exchange.turn += 1  # a connection still being made is no longer for it
        self._fleet.vacate(replica)
        if exchange.awaits:
            self._fleet.prefilled(replica, exchange.asked.prompt_tokens)

    def _too_late(self, ticket: Ticket[Exchange], now: float) -> ApiError:
        """Why a wait has ended: for want of room, or of a replica that had to be started first."""
        waited = f"within {now - ticket.since:.1f} s"
        pool = self.sleepers.awaited(ticket.item.wish, now)
        if pool is None:
            return self._busy(ticket.item, now, f"no slot came free {waited}", "QueueTimeout")
        message = f"pool {pool!r} has no replica yet: none came {waited}, and one is being started"
        return ApiError(503, message, code="Waking", retry_after_s=RETRY_UNKNOWN_S)

    def _busy(self, exchange: Exchange, now: float, message: str, code: str) -> ApiError:
        retry = retry_after_seconds(self._queue_view(exchange, now))
        return ApiError(429, message, code=code, retry_after_s=retry)

    def _has_slot(self, now: float) -> bool:
        """Whether `route` could place anything at all; spares asking it for each of a long queue."""
        stale_after_s = self._fleet.rules.staleness.stale_after_s
        for view in self._fleet.views(now):
            load = view.in_flight if view.age_s > stale_after_s else view.running + view.waiting
            if load < view.capacity and self._fleet.usable(view):
                return True
        return False

    def _queue_view(self, exchange: Exchange, now: float) -> QueueView:
        """The queue as this request sees it: where replicas are shared out by pace, only its own tier stands ahead."""
        usable = [view for view in self._fleet.views(now) if self._fleet.usable(view)]
        tier, oldest = exchange.tier, self.queue.oldest()
        shared = any(view.rows for view in usable)
        return QueueView(
            queued=len(self.queue),
            queued_below=len(self.queue) - self.queue.at_or_above(tier.priority),
            ahead=self.queue.at(tier.priority) + self.queue.at(_FIRST_IN_LINE) if shared else None,
            oldest_wait_s=0.0 if oldest is None else now - oldest,
            in_flight=len(self.in_flight),
            capacity=sum(view.rooms.get(tier.name, view.capacity) for view in usable),
            drain_rate_rps=self._ledger.drain_rate(len(self.in_flight)),
            ready_replicas=len(usable),
        )


def _wish(exchange: Exchange, now: float) -> RequestView:
    """What the request may ask for by now."""
    since = exchange.record.queued_at
    if exchange.begun:
        return replace(exchange.wish, claim=Claim.RESUMED)
    if since is None or now <= since:
        return exchange.wish
    ttft_s = exchange.tier.ttft_s
    return replace(exchange.wish, claim=claim(now - since, ttft_s), left_s=ttft_s - (now - since))


def _refusal(admission: Admission) -> ApiError:
    return ApiError(
        admission.status, admission.detail, code=admission.reason.value, retry_after_s=admission.retry_after_s
    )


def _no_replica(status: int, message: str) -> ApiError:
    return ApiError(status, message, code="NoReplica", retry_after_s=1)
