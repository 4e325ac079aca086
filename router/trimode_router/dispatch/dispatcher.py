"""Placing requests: route, send, and try again. Where a request goes is `route`'s decision, carried out here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf

from trimode_api.errors import ApiError
from trimode_policy.affinity import Beginnings
from trimode_policy.first_token import forecast, prompt_seconds
from trimode_policy.route import (
    ReplicaView,
    RequestView,
    RouteDecision,
    RouteReason,
    SloState,
    may_serve,
    route,
)
from trimode_router.dispatch.admission import POLICY_DELAY_S, AdmissionController
from trimode_router.dispatch.connections import ConnectionPool, ReplicaKey
from trimode_router.dispatch.queue import Queue, request_view
from trimode_router.dispatch.retries import another_is_too_many, note_failure, seen_enough, why_stalled
from trimode_router.fleet.fleet import Fleet
from trimode_router.fleet.replica import Replica
from trimode_router.fleet.scale_from_zero import Activator
from trimode_router.http.limits import Limits
from trimode_router.request.exchange import Exchange
from trimode_router.request.record import Failure, Phase
from trimode_router.telemetry.accounting import Accounting

_STATUS = {RouteReason.NOT_OFFERED: 400, RouteReason.NONE_READY: 503}
"""Of decisions that leave a request nowhere to go, now or later."""


class Dispatcher:
    """Owns the queue and the connections to replicas; replicas' counters change here only."""

    def __init__(
        self, fleet: Fleet, accounting: Accounting, limits: Limits, key: ReplicaKey, now: Callable[[], float]
    ) -> None:
        self.limits = limits
        self.passes_keys = key.passes_clients_own
        self.now = now
        self.queue = Queue(fleet, now, self._placed)
        self.drain_queue = self.queue.drain_queue
        self.in_flight: dict[Exchange, Replica] = {}
        self.activator = Activator(fleet)
        self._fleet = fleet
        self._accounting = accounting
        self._admission = AdmissionController(fleet, accounting, self.queue, self.in_flight, self.activator)
        self.predictions = self._admission.predictions
        self._connections = ConnectionPool(key, limits.connect_seconds, now)
        self._beginnings = Beginnings()
        self._seed = 0

    # The life of an exchange.

    def submit(self, exchange: Exchange) -> None:
        """A new request: send it, queue it, or refuse it."""
        now = self.now()
        self._fleet.asked(exchange.tier.name, now)
        views = self._fleet.views(now, self._fleet.avoided(exchange.asked.model, ()))
        view = self._with_held(exchange, exchange.view)
        late = self._admission.late_for_certain(view, views, now)
        # Nothing waits, some replica has a free slot, and the first token may be in time: `admit` could only agree, so
        # the short way leaves it out.
        if late is None and not self.queue.holds_up(exchange) and self._place(exchange, now, views=views).replica_id:
            return
        exchange.prompt_s = prompt_seconds(view, views)
        if self._admission.admits(exchange, views, late, now):
            self._place_or_wait(exchange, now)

    def first_byte(self, exchange: Exchange, *, well: bool, pause_s: float | None) -> None:
        if pause_s is not None:
            self._accounting.resumed(pause_s)
        replica, record = self.in_flight.get(exchange), exchange.record
        if replica is not None:
            replica.prefilled(exchange.asked.prompt_tokens)
            if well:
                replica.succeeded()
        # The first byte of an answer that is no stream is its end; one that was sent twice has waited for more.
        if well and record.predicted is not None and record.stream and record.attempts == 1:
            now, left_s = self.now(), exchange.tier.ttft_s - (record.sent_at - record.started)
            if self.predictions.learn(record.predicted, left_s, now - record.sent_at, now):
                self._accounting.first_token(record, now)

    def elsewhere(self, exchange: Exchange) -> bool:
        replica = self.in_flight.get(exchange)
        if replica is None or seen_enough(exchange.record, self.limits):
            return False
        avoided = {*self._fleet.avoided(exchange.asked.model, exchange.tried), replica.replica_id}
        return any(self._fleet.usable(view) for view in self._fleet.views(self.now(), avoided))

    def failed(self, exchange: Exchange, why: str, how: Failure, last: Phase) -> None:
        """Try again, on the same replica only where it never saw the request.

        Nothing has gone to the client yet, or the exchange now asks for the rest of what has.
        """
        now = self.now()
        replica = self._release(exchange, last)
        assert replica is not None
        # A kept connection that the replica closed for being idle says nothing about the replica: the same one is asked
        # again, on a new connection.
        if how is not Failure.UNTOUCHED:
            # Where a second replica fails at it, too, the request may be why: it must not slow the whole fleet.
            if how is not Failure.ERRED or not exchange.tried:
                replica.failed(now)
            exchange.tried = {*exchange.tried, replica.replica_id}
        note_failure(exchange, f"{replica.replica_id} {why}", how, last, now)
        if another_is_too_many(exchange, self.limits):
            what = "; ".join(exchange.record.failures)
            exchange.refuse(ApiError(502, f"every attempt failed: {what}", code="NoReplica", retry_after_s=1))
        else:
            if not exchange.phase.begun:
                self._accounting.retried()
            self._place_or_wait(exchange, now)
        self.drain_queue()

    def over(self, exchange: Exchange, last: Phase) -> None:
        waited = self.queue.leave(exchange)
        # The client hears of the end after this (`finished`): its next request must find the slot free.
        self._release(exchange, last)
        self._accounting.finished(exchange, self.now())
        if exchange.tenant is not None and last.begun:
            exchange.tenant.tokens.spend(exchange.asked.prompt_tokens + (exchange.record.tokens or 0))
        # One that only waited frees no slot: clients that give up by the thousand would each cost a look at the queue.
        if not waited:
            self.drain_queue()

    # What time brings about.

    def tick(self, now: float) -> None:
        """Waits end, silent replicas are given up, and replicas are reserved for tiers."""
        self._fleet.reserve(now)
        self.activator.activate_for_waiting(self.queue.waiting(), now)
        self._admission.refuse_expired(now)
        if self._fleet.mark_dead(now):
            for exchange, replica in list(self.in_flight.items()):
                if replica.dead and not exchange.over:
                    exchange.lost("stopped reporting")
        self._connections.keep_only(lambda replica_id: self._fleet.get(replica_id) is not None)
        self.drain_queue()

    def watch(self, now: float) -> None:
        """Give up replicas that hang, and close connections that are not needed; call about once a second."""
        self._connections.trim()
        stale_after_s = self._fleet.rules.staleness.stale_after_s
        for exchange, replica in list(self.in_flight.items()):
            link = exchange.link
            if link is None or exchange.over:
                continue
            # A client that does not read stops the reading from its replica: that silence is not the replica's.
            if link.heard or exchange.client.paused:
                link.heard = False
                exchange.quiet_since = now
            elif why := why_stalled(exchange, replica, self.limits, stale_after_s, now):
                exchange.lost(why)

    async def close(self) -> None:
        """Cut what is left."""
        for exchange in list(self.in_flight):
            exchange.client.abort()
            exchange.client_gone()
        await self._connections.close()

    # Inside.

    def _place_or_wait(self, exchange: Exchange, now: float) -> None:
        decision = self._place(exchange, now)
        if decision.replica_id is not None:
            return
        if exchange.phase.begun:
            # A client in the middle of an answer takes any replica that comes back, even one that has failed it.
            exchange.tried = ()
            self._admission.enqueue(exchange, now, self.limits.resume_seconds)
            return
        if decision.reason is RouteReason.ALL_BUSY or self.activator.activate(exchange.view, now) is not None:
            self._admission.enqueue(exchange, now)
            return
        rules, status = self._fleet.rules, _STATUS[decision.reason]
        if decision.reason is RouteReason.NOT_OFFERED and may_serve(exchange.view, rules.points):
            # The policy offers it: its replicas have not heard of that yet, or are away.
            status = 503
            if rules.admission.max_queued > 0:
                self._admission.enqueue(exchange, now, POLICY_DELAY_S)
                return
        detail = "; ".join([decision.detail, *exchange.record.failures])
        retry = None if status == 400 else 1
        exchange.refuse(ApiError(status, detail, code=decision.reason.value, retry_after_s=retry))

    def _placed(self, exchange: Exchange, now: float, *, in_turn: bool = False) -> bool:
        return self._place(exchange, now, in_turn=in_turn).replica_id is not None

    def _place(
        self, exchange: Exchange, now: float, *, in_turn: bool = False, views: Sequence[ReplicaView] = ()
    ) -> RouteDecision:
        """Route, and send where there is a way. `in_turn`: as if it had just come, however late it is. `views`: of the
        replicas that may have it, where they are known already."""
        if exchange.not_before > now:
            # Its replicas died at it: what kills all that touch it must not take the fleet down within a second.
            return RouteDecision(None, RouteReason.ALL_BUSY, "it waits before the next attempt")
        self._seed += 1  # ties among replicas are broken differently each time
        if not views:
            avoided = self._fleet.avoided(exchange.asked.model, exchange.tried)
            views = self._fleet.views(now, avoided, cooling=not exchange.phase.begun)
        view = request_view(exchange, now)
        if in_turn:
            view = replace(exchange.view, left_s=inf, slo_state=SloState.ON_TIME)
        view = self._with_held(exchange, view)
        decision = route(view, views, self._fleet.rules.staleness, self._seed)
        replica = self._fleet.get(decision.replica_id) if decision.replica_id is not None else None
        if replica is not None:
            record = exchange.record
            # When its first token should come. Servers that do not tell their speed are asked nothing: this is on every
            # request's way.
            if not record.attempts and replica.report.prompt_tokens_per_second > 0:
                record.predicted = forecast(view, self._fleet.view(replica, now))
                if record.predicted is not None:
                    record.predicted_s, record.sent_at = self.predictions.predicted_s(record.predicted), now
            replica.occupy(exchange.asked.prompt_tokens)
            if exchange.asked.beginnings:
                self._beginnings.sent(exchange.asked.beginnings, replica.replica_id)
            self.in_flight[exchange] = replica
            self.queue.starvation.served(exchange.tier.name, now)
            exchange.placed(replica.replica_id, now)
            self._connections.send(exchange, replica)
        return decision

    def _with_held(self, exchange: Exchange, view: RequestView) -> RequestView:
        """With what replicas are likely to have of its prompt."""
        begins = exchange.asked.beginnings
        held = self._beginnings.held(begins) if begins else None
        return replace(view, held=held) if held else view

    def _release(self, exchange: Exchange, last: Phase) -> Replica | None:
        """Its replica, if any, no longer has it."""
        replica = self.in_flight.pop(exchange, None)
        if replica is not None:
            replica.vacate()
            if last.awaits_first_byte:
                replica.prefilled(exchange.asked.prompt_tokens)
            if exchange.record.status != "200":  # this attempt brought no account
                self._accounting.ledger.left(exchange, replica.replica_id, self.now())
        return replica
