"""The router's queue: which exchanges wait, and which is sent when a slot comes free.

The order is `FairQueue`'s; where an exchange goes is `route`'s decision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

from trimode_policy.fair_queue import FIRST_IN_LINE, FairQueue, Ticket
from trimode_policy.route import RequestView, SloState
from trimode_policy.tier_fairness import StarvationGuard, slo_state_of
from trimode_router.fleet.fleet import Fleet
from trimode_router.request.exchange import Exchange


class Place(Protocol):
    """Sends an exchange to a replica where there is a way, and tells whether there was. `in_turn`: as if it had just
    come, however late it is."""

    def __call__(self, exchange: Exchange, now: float, *, in_turn: bool = False) -> bool: ...


class Queue:
    """`starvation` counts every exchange that is sent, from the queue or not."""

    def __init__(self, fleet: Fleet, now: Callable[[], float], place: Place) -> None:
        self.starvation = StarvationGuard()
        self._fair: FairQueue[Exchange] = FairQueue()
        self._fleet = fleet
        self._now = now
        self._place = place
        self._tickets: dict[Exchange, Ticket[Exchange]] = {}
        self._draining = False
        self.last = self._fair.last
        self.below = self._fair.below
        self.oldest = self._fair.oldest

    def __len__(self) -> int:
        return len(self._fair)

    def holds_up(self, exchange: Exchange) -> bool:
        """Whether a new request has to wait its turn. Where servers have models of their own, behind those that want
        the same one: the queue before another server is not its concern."""
        if not self._tickets or not self._fleet.catalog.split:
            return bool(self._tickets)
        return any(ticket.item.asked.model == exchange.asked.model for ticket in self._fair)

    def waiting(self) -> Iterator[tuple[RequestView, float]]:
        """What the requests that wait ask for, and since when, as they came."""
        return ((ticket.item.view, ticket.since) for ticket in self._fair)

    def ahead(self, exchange: Exchange, now: float) -> int:
        """Those of the same priority that would go before it if it came now, and broken streams."""
        tenant = "" if exchange.tenant is None else exchange.tenant.name
        order, prompt_s = exchange.asked.order, exchange.prompt_s
        return self._fair.ahead(exchange.tier.priority, now, tenant=tenant, order=order, prompt_s=prompt_s)

    def enter(self, exchange: Exchange, since: float, until: float) -> None:
        """A broken stream goes before all others; called by admission only."""
        view = exchange.view
        priority, tenant, kind, order = FIRST_IN_LINE, "", None, 0
        if not exchange.phase.begun:
            # Requests with the same needs share a kind: where one finds no slot the others need not be tried.
            priority, order = exchange.tier.priority, exchange.asked.order
            tenant = "" if exchange.tenant is None else exchange.tenant.name
            plain = view.pin is None and not view.lossy_ok and not exchange.tried
            kind = (exchange.tier.name, exchange.asked.model) if plain else None
        self._tickets[exchange] = self._fair.enter(
            exchange, priority, since, until, tenant=tenant, kind=kind, order=order, prompt_s=exchange.prompt_s
        )

    def leave(self, exchange: Exchange) -> bool:
        """It is over; whether it was waiting."""
        # Nearly always nothing waits: then not even a hash is made.
        ticket = self._tickets.get(exchange) if self._tickets else None
        if ticket is None:
            return False
        self._fair.leave(ticket)
        self._left(exchange)
        return True

    def expired(self, now: float) -> Iterator[Ticket[Exchange]]:
        """Take out those whose time is over."""
        for ticket in self._fair.expired(now):
            self._left(ticket.item)
            yield ticket

    def drain_queue(self) -> None:
        """Send waiting requests while there are slots: after each answer, and after each report."""
        if self._draining or not self._tickets:
            return
        now = self._now()

        def place(exchange: Exchange) -> bool:
            # `route` for each of a long queue would be asked in vain while every replica is full.
            if not self._has_slot(now) or not self._place(exchange, now):
                return False
            self._left(exchange)
            return True

        self._draining = True
        try:
            # A tier that got no slot for long goes first, late or not, with its longest waiting request: by strict
            # priority alone a busy tier above it could take every slot for good.
            for tier in self._fleet.rules.tiers.values():
                if not self._fair.at(tier.priority) or not self.starvation.starved(tier.name, now):
                    continue
                waiting = (t for t in self._fair if t.item.tier.name == tier.name and t.item.not_before <= now)
                ticket = next(waiting, None)
                if ticket is not None and self._place(ticket.item, now, in_turn=True):
                    self._fair.serve(ticket)
                    self._left(ticket.item)
            self._fair.offer(late=lambda exchange: request_view(exchange, now).slo_state is SloState.LATE, place=place)
        finally:
            self._draining = False

    def _has_slot(self, now: float) -> bool:
        """Whether `route` could place anything at all."""
        stale_after_s = self._fleet.rules.staleness.stale_after_s
        for view in self._fleet.views(now):
            load = view.in_flight if view.age_s > stale_after_s else view.running + view.waiting
            if load < view.capacity and self._fleet.usable(view):
                return True
        return False

    def _left(self, exchange: Exchange) -> None:
        """It waits no longer."""
        ticket = self._tickets.pop(exchange, None)
        # A broken stream's wait is part of its pause. Counted here it took in all the time that the stream had flowed,
        # and so made the mean service time too short.
        if ticket is not None and ticket.priority != FIRST_IN_LINE:
            exchange.record.queue_wait = self._now() - ticket.since


def request_view(exchange: Exchange, now: float) -> RequestView:
    """The request as routing sees it by now: how late it is."""
    since = exchange.record.queued_at
    if exchange.phase.begun:
        return replace(exchange.view, slo_state=SloState.RESUMED)
    if since is None or now <= since:
        return exchange.view
    ttft_s = exchange.tier.ttft_s
    # One that was late for certain as it came stays late, however little it has waited.
    slo_state = max(exchange.view.slo_state, slo_state_of(now - since, ttft_s))
    return replace(exchange.view, slo_state=slo_state, left_s=ttft_s - (now - since))
