"""Placing requests: route, send, and try again.

Belongs here: the desk between clients and replicas. The decision is `route`'s; this module carries it out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf

from trimode_api.errors import ApiError
from trimode_policy.affinity import Beginnings
from trimode_policy.route import RouteDecision, RouteReason, may_serve, route
from trimode_router.dispatch.admission import NEWS_S, AdmissionController
from trimode_router.dispatch.connections import ConnectionPool
from trimode_router.dispatch.queue import Queue, wish_of
from trimode_router.dispatch.stalled import why_given_up
from trimode_router.fleet.fleet import Fleet
from trimode_router.fleet.replica import Replica
from trimode_router.fleet.scale_from_zero import Activator
from trimode_router.http.limits import Limits
from trimode_router.request.exchange import Exchange
from trimode_router.request.record import Failure
from trimode_router.telemetry.accounting import Accounting

_FAILURES_KEPT = 8
_FIRST_BACKOFF_SECONDS = 0.25
_STATUS = {RouteReason.NOT_OFFERED: 400, RouteReason.NONE_READY: 503}
"""Of decisions that leave a request nowhere to go, now or later."""


class Dispatcher:
    """Owns the queue and the links; replicas' counters change here only."""

    def __init__(
        self,
        fleet: Fleet,
        ledger: Accounting,
        limits: Limits,
        token: str,
        now: Callable[[], float],
        *,
        passes_keys: bool = False,
    ) -> None:
        """`token` is what replicas are sent as their key, or the client's own where it `passes_keys`."""
        self.limits = limits
        self.passes_keys = passes_keys
        self.now = now
        self.queue = Queue(fleet, now, self._placed)
        self.drain_queue = self.queue.drain_queue
        self.in_flight: dict[Exchange, Replica] = {}
        self.sleepers = Activator(fleet)
        self._fleet = fleet
        self._ledger = ledger
        self._door = AdmissionController(fleet, ledger, self.queue, self.in_flight, self.sleepers)
        self._links = ConnectionPool(token, limits.connect_seconds, self._unreached, passes_keys=passes_keys)
        self._beginnings = Beginnings()
        self._seed = 0

    # A request's turns.

    def submit(self, exchange: Exchange) -> None:
        """A new request: send it, queue it, or refuse it."""
        now = self.now()
        self._fleet.asked(exchange.tier.name, now)
        # Nothing waits and some replica has room: then `admit` could only agree.
        if not self.queue.holds_up(exchange) and self._placed(exchange, now):
            return
        if self._door.opens(exchange, now):
            self._place_or_wait(exchange, now)

    def resumed(self, pause_s: float) -> None:
        self._ledger.resumed(pause_s)

    def first_byte(self, exchange: Exchange, *, well: bool) -> None:
        replica = self.in_flight.get(exchange)
        if replica is not None:
            replica.prefilled(exchange.asked.prompt_tokens)
            if well:
                replica.succeeded()

    def elsewhere(self, exchange: Exchange) -> bool:
        replica = self.in_flight.get(exchange)
        if replica is None or self._spent(exchange):
            return False
        avoided = {*self._fleet.avoided(exchange.asked.model, exchange.tried), replica.replica_id}
        return any(self._fleet.usable(view) for view in self._fleet.views(self.now(), avoided))

    def failed(self, exchange: Exchange, why: str, how: Failure) -> None:
        """An attempt failed: try again, on the same replica only where it never saw it.

        Nothing has gone to the client yet, or the exchange now asks for the rest of what has.
        """
        replica = self.in_flight[exchange]
        now = self.now()
        fruitless = exchange.begun and exchange.awaits
        self._release(exchange)
        exchange.record.failures = (*exchange.record.failures, f"{replica.replica_id} {why}")[-_FAILURES_KEPT:]
        exchange.record.unseen += how in (Failure.UNTOUCHED, Failure.AWAY)
        if how is not Failure.UNTOUCHED:
            # Where a second replica fails at it, too, the request may be why: it must not slow the whole fleet.
            if how is not Failure.ERRED or not exchange.tried:
                replica.failed(now)
            exchange.tried = {*exchange.tried, replica.replica_id}
        if fruitless and how in (Failure.REFUSED, Failure.BROKEN):
            if how is Failure.BROKEN:
                exchange.not_before = now + _FIRST_BACKOFF_SECONDS * 2**exchange.failed_attempts
            exchange.failed_attempts += 1
        if self._given_up(exchange):
            what = "; ".join(exchange.record.failures)
            self._door.refuse(
                exchange, ApiError(502, f"every attempt failed: {what}", code="NoReplica", retry_after_s=1)
            )
        else:
            if not exchange.begun:
                self._ledger.retried()
            self._place_or_wait(exchange, now)
        self.drain_queue()

    def over(self, exchange: Exchange) -> None:
        waited = self.queue.leave(exchange)
        self._release(exchange)
        self._ledger.finished(exchange, self.now())
        if exchange.tenant is not None and exchange.begun:
            exchange.tenant.tokens.spend(exchange.asked.prompt_tokens + (exchange.record.tokens or 0))
        if not waited:
            self.drain_queue()

    # What time brings about.

    def tick(self, now: float) -> None:
        """Waits end, silent replicas die, and others are kept fast."""
        self._fleet.keep(now)
        self.sleepers.look(self.queue.waiting(), now)
        self._door.close_on_late(now)
        if self._fleet.mark_dead(now):
            for exchange, replica in list(self.in_flight.items()):
                if replica.dead and not exchange.over:
                    exchange.lost("stopped reporting")
        self._links.keep_only(lambda replica_id: self._fleet.get(replica_id) is not None)
        self.drain_queue()

    def watch(self, now: float) -> None:
        """Give up replicas that hang, by what they sent lately, and spare connections; call about once a second."""
        self._links.trim()
        stale_after_s = self._fleet.rules.staleness.stale_after_s
        for exchange, replica in list(self.in_flight.items()):
            link = exchange.link
            if link is None or exchange.over:
                continue
            if link.heard or exchange.client.paused:
                link.heard = False
                exchange.quiet_since = now
            elif why := why_given_up(exchange, replica, self.limits, stale_after_s, now):
                exchange.lost(why)

    async def close(self) -> None:
        """Cut what is left."""
        for exchange in list(self.in_flight):
            exchange.client.abort()
            exchange.client_gone()
        await self._links.close()

    # Inside.

    def _given_up(self, exchange: Exchange) -> bool:
        """Whether another attempt is one too many."""
        if not exchange.begun:
            return self._spent(exchange)
        return (
            exchange.failed_attempts >= self.limits.continuations
            or exchange.record.resumptions > self.limits.resumptions
        )

    def _spent(self, exchange: Exchange) -> bool:
        """Whether enough replicas have seen a request that has no answer yet."""
        record, limits = exchange.record, self.limits
        return record.attempts - record.unseen >= limits.attempts or record.attempts >= limits.placements

    def _place_or_wait(self, exchange: Exchange, now: float) -> None:
        decision = self._place(exchange, now)
        if decision.replica_id is not None:
            return
        if exchange.begun:
            # A client in mid-sentence waits for whoever comes back, be it one that has failed it before.
            exchange.tried = ()
            self.queue.enter_first(exchange, now, now + self.limits.resume_seconds)
            return
        if decision.reason is RouteReason.ALL_BUSY or self.sleepers.call(exchange.wish, now) is not None:
            self._door.enqueue(exchange, now)
            return
        rules, status = self._fleet.rules, _STATUS[decision.reason]
        if decision.reason is RouteReason.NOT_OFFERED and may_serve(exchange.wish, rules.points):
            # The policy offers it: its replicas have not heard of that yet, or are away.
            status = 503
            if rules.admission.max_queued > 0:
                self._door.enqueue(exchange, now, NEWS_S)
                return
        detail = "; ".join([decision.detail, *exchange.record.failures])
        retry = None if status == 400 else 1
        self._door.refuse(exchange, ApiError(status, detail, code=decision.reason.value, retry_after_s=retry))

    def _placed(self, exchange: Exchange, now: float, *, in_turn: bool = False) -> bool:
        return self._place(exchange, now, in_turn=in_turn).replica_id is not None

    def _place(self, exchange: Exchange, now: float, *, in_turn: bool = False) -> RouteDecision:
        """Route, and send where there is a way. `in_turn`: as if it had just come, however late it is."""
        if exchange.not_before > now:
            return RouteDecision(None, RouteReason.ALL_BUSY, "it waits before the next attempt")
        self._seed += 1
        avoided = self._fleet.avoided(exchange.asked.model, exchange.tried)
        views = self._fleet.views(now, avoided, cooling=not exchange.begun)
        wish = replace(exchange.wish, left_s=inf) if in_turn else wish_of(exchange, now)
        begins = exchange.asked.beginnings
        if begins and (held := self._beginnings.held(begins)):
            wish = replace(wish, held=held)
        decision = route(wish, views, self._fleet.rules.staleness, self._seed)
        replica = self._fleet.get(decision.replica_id) if decision.replica_id is not None else None
        if replica is not None:
            replica.occupy(exchange.asked.prompt_tokens)
            if begins:
                self._beginnings.sent(begins, replica.replica_id)
            self.in_flight[exchange] = replica
            self.queue.turns.served(exchange.tier.name, now)
            exchange.record.replica_id = replica.replica_id
            exchange.record.attempts += 1
            exchange.turn += 1
            exchange.awaits = True
            exchange.quiet_since = now
            self._links.send(exchange, replica)
        return decision

    def _unreached(self, exchange: Exchange, why: str) -> None:
        self.failed(exchange, why, Failure.AWAY)

    def _release(self, exchange: Exchange) -> None:
        replica = self.in_flight.pop(exchange, None)
        if replica is None:
            return
        exchange.turn += 1  # a connection still being made is no longer for it
        replica.vacate()
        if exchange.awaits:
            replica.prefilled(exchange.asked.prompt_tokens)
