"""The router's queue at work: who enters, who is served when a slot comes free, whose time is over.

Belongs here: exchanges and their tickets. The order is `FairQueue`'s, the decision where one goes is `route`'s.
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
    """`turns` is told of every exchange that is sent, from the queue or not."""

    def __init__(self, fleet: Fleet, now: Callable[[], float], place: Place) -> None:
        self.room: FairQueue[Exchange] = FairQueue()
        self.turns = StarvationGuard()
        self._fleet = fleet
        self._now = now
        self._place = place
        self._tickets: dict[Exchange, Ticket[Exchange]] = {}
        self._pumping = False

    def __len__(self) -> int:
        return len(self.room)

    def holds_up(self, exchange: Exchange) -> bool:
        """Whether a newcomer has to wait its turn. Where servers have models of their own, behind those that want the
        same one: the queue before another server is not its concern."""
        if not self.room or not self._fleet.catalog.split:
            return len(self.room) > 0
        return any(ticket.item.asked.model == exchange.asked.model for ticket in self.room)

    def oldest(self) -> float | None:
        """When the longest waiting entered."""
        return self.room.oldest()

    def waiting(self) -> Iterator[tuple[RequestView, float]]:
        """What those who wait want, and since when, as they came."""
        return ((ticket.item.wish, ticket.since) for ticket in self.room)

    def ahead(self, priority: int) -> int:
        """Of the same priority, and broken streams."""
        return self.room.at(priority) + self.room.at(FIRST_IN_LINE)

    def enter(self, exchange: Exchange, since: float, until: float) -> None:
        tenant = "" if exchange.tenant is None else exchange.tenant.name
        wish = exchange.wish
        plain = wish.pin is None and not wish.lossy_ok and not exchange.tried
        kind = (exchange.tier.name, exchange.asked.model) if plain else None
        self._tickets[exchange] = self.room.enter(
            exchange, exchange.tier.priority, since, until, tenant=tenant, kind=kind
        )

    def enter_first(self, exchange: Exchange, since: float, until: float) -> None:
        """A broken stream waits for somebody who goes on with it."""
        self._tickets[exchange] = self.room.enter(exchange, FIRST_IN_LINE, since, until)

    def leave(self, exchange: Exchange) -> bool:
        """It is over; whether it was waiting."""
        ticket = self._tickets.pop(exchange, None)
        if ticket is None:
            return False
        self.room.leave(ticket)
        self._waited(exchange)
        return True

    def expired(self, now: float) -> Iterator[Ticket[Exchange]]:
        """Take out those whose time is over."""
        for ticket in self.room.expired(now):
            self._tickets.pop(ticket.item, None)
            self._waited(ticket.item)
            yield ticket

    def drain_queue(self) -> None:
        """Send waiting requests while there are slots: after each answer, and after each report."""
        if self._pumping or not self.room:
            return
        self._pumping = True
        try:
            self._pump(self._now())
        finally:
            self._pumping = False

    def _pump(self, now: float) -> None:
        self._serve_starved(now)
        self.room.offer(
            late=lambda exchange: wish_of(exchange, now).slo_state is SloState.LATE,
            # `route` for each of a long queue would be asked in vain while every replica is full.
            place=lambda exchange: self._has_slot(now) and self._take(exchange, now),
        )

    def _serve_starved(self, now: float) -> None:
        """A tier that got no place for long goes first, late or not, with the one who has waited longest."""
        for tier in self._fleet.rules.tiers.values():
            if not self.room.at(tier.priority) or not self.turns.starved(tier.name, now):
                continue
            waiting = (t for t in self.room if t.item.tier.name == tier.name and t.item.not_before <= now)
            ticket = next(waiting, None)
            if ticket is not None and self._place(ticket.item, now, in_turn=True):
                self.room.serve(ticket)
                self._tickets.pop(ticket.item, None)
                self._waited(ticket.item)

    def _take(self, exchange: Exchange, now: float) -> bool:
        """Send it, where there is a way."""
        if not self._place(exchange, now):
            return False
        self._tickets.pop(exchange, None)
        self._waited(exchange)
        return True

    def _has_slot(self, now: float) -> bool:
        """Whether `route` could place anything at all; spares asking it for each of a long queue."""
        stale_after_s = self._fleet.rules.staleness.stale_after_s
        for view in self._fleet.views(now):
            load = view.in_flight if view.age_s > stale_after_s else view.running + view.waiting
            if load < view.capacity and self._fleet.usable(view):
                return True
        return False

    def _waited(self, exchange: Exchange) -> None:
        if exchange.record.queued_at is not None:
            exchange.record.queue_wait = self._now() - exchange.record.queued_at


def wish_of(exchange: Exchange, now: float) -> RequestView:
    """What the request may ask for by now."""
    since = exchange.record.queued_at
    if exchange.begun:
        return replace(exchange.wish, slo_state=SloState.RESUMED)
    if since is None or now <= since:
        return exchange.wish
    ttft_s = exchange.tier.ttft_s
    return replace(exchange.wish, slo_state=slo_state_of(now - since, ttft_s), left_s=ttft_s - (now - since))
