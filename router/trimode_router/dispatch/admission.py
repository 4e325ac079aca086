"""Admission: which request is placed, which waits, which is refused, and with what words. `admit` decides."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from math import inf

from trimode_api.errors import ApiError
from trimode_policy.admit import (
    RETRY_UNKNOWN_S,
    Outcome,
    QueueView,
    admit,
    retry_after_seconds,
)
from trimode_policy.first_token import FirstToken, PredictionError, late_for_certain
from trimode_policy.route import ReplicaView, RequestView, RouteReason, SloState, may_serve, spare
from trimode_router.dispatch.queue import Queue
from trimode_router.fleet.fleet import Fleet
from trimode_router.fleet.scale_from_zero import Activator
from trimode_router.request.exchange import Exchange
from trimode_router.telemetry.accounting import Accounting

POLICY_DELAY_S = 2.0
"""Longest wait for a replica that offers what the policy offers, in seconds: replicas get a new policy with their next
report, five times a second. A pool that is away for longer must not fill the queue."""


class AdmissionController:
    """`in_flight` are the exchanges that replicas have now; `predictions` how far first tokens came as predicted."""

    def __init__(
        self,
        fleet: Fleet,
        accounting: Accounting,
        queue: Queue,
        in_flight: Collection[Exchange],
        activator: Activator,
    ) -> None:
        self._fleet = fleet
        self._accounting = accounting
        self._queue = queue
        self._in_flight = in_flight
        self._activator = activator
        self.predictions = PredictionError()

    def late_for_certain(self, request: RequestView, views: Sequence[ReplicaView], now: float) -> FirstToken | None:
        """The soonest first token of a new request, where that is too late wherever it goes."""
        bounds = self.predictions.bounds(now)
        late = late_for_certain(request, views, self._fleet.rules.staleness, bounds)
        if late is not None and self._fleet.rules.policy.switching.dry_run:
            self._accounting.predicted_late("DryRun")
            return None
        return late

    def admits(self, exchange: Exchange, views: Sequence[ReplicaView], late: FirstToken | None, now: float) -> bool:
        """Whether a new request may be placed at once; else it waits from now on, or has been refused."""
        view = replace(self._queue_view(exchange, views, now), too_late=late)
        if not view.ready_replicas and self._activator.activate(exchange.view, now) is not None:
            view = replace(view, waking=True)
        admission = admit(exchange.view, view, self._fleet.rules.admission)
        if admission.late:
            exchange.view = replace(exchange.view, slo_state=SloState.LATE)
        if admission.outcome is Outcome.REFUSE:
            code, retry = admission.reason.value, admission.retry_after_s
            exchange.refuse(ApiError(admission.status, admission.detail, code=code, retry_after_s=retry))
        elif admission.outcome is Outcome.QUEUE:
            self.enqueue(exchange, now)
        if late is not None:
            self._accounting.predicted_late("Served" if admission.late else "Refused")
        return admission.outcome is Outcome.ACCEPT

    def enqueue(self, exchange: Exchange, now: float, most_s: float = inf) -> None:
        """The one way into the queue: it waits, for `most_s` seconds at most. Where the queue is full, it or a request
        of lower priority is refused; a broken stream always gets in, as its client has half of an answer."""
        if exchange.phase.begun:
            self._queue.enter(exchange, now, now + most_s)
            return
        limits = self._fleet.rules.admission
        if len(self._queue) >= limits.max_queued:
            worst = self._queue.last()
            if worst is None or worst.priority >= exchange.tier.priority:
                message = f"{len(self._queue)} of {limits.max_queued} places are taken"
                exchange.refuse(self._busy(exchange, now, message, "QueueFull"))
                return
            message = "a request of higher priority took its place in the queue"
            worst.item.refuse(self._busy(worst.item, now, message, "Displaced"))
        # One that comes back after a failed attempt keeps its first time: it has waited since then.
        since = exchange.record.queued_at if exchange.record.queued_at is not None else now
        exchange.record.queued_at = since
        self._queue.enter(exchange, since, since + min(limits.max_wait_s, most_s))

    def refuse_expired(self, now: float) -> None:
        """Refuse those that have waited for as long as they may."""
        for ticket in self._queue.expired(now):
            waited, view = f"within {now - ticket.since:.1f} s", ticket.item.view
            pool = self._activator.starting_for(view, now)
            usable = [each for each in self._fleet.views(now) if self._fleet.usable(each)]
            if pool is not None:
                message = f"pool {pool!r} has no replica yet: none came {waited}, and one is being started"
                error = ApiError(503, message, code="Waking", retry_after_s=RETRY_UNKNOWN_S)
            elif usable and not any(may_serve(view, each.points) for each in usable):
                message = f"no ready replica offers {view.pin or 'lossless answers'}, and none came {waited}"
                # 503 and not 400: the policy offers it, so the request is right and may succeed later.
                error = ApiError(503, message, code=RouteReason.NOT_OFFERED.value, retry_after_s=RETRY_UNKNOWN_S)
            else:
                error = self._busy(ticket.item, now, f"no slot came free {waited}", "QueueTimeout")
            ticket.item.refuse(error)

    def _busy(self, exchange: Exchange, now: float, message: str, code: str) -> ApiError:
        views = self._fleet.views(now, self._fleet.avoided(exchange.asked.model, ()))
        retry = retry_after_seconds(self._queue_view(exchange, views, now))
        return ApiError(429, message, code=code, retry_after_s=retry)

    def _queue_view(self, exchange: Exchange, views: Sequence[ReplicaView], now: float) -> QueueView:
        """The queue as this request sees it: where replicas are shared out by pace, only its own tier stands ahead."""
        usable = [view for view in views if self._fleet.usable(view)]
        tier, oldest = exchange.tier, self._queue.oldest()
        shared = any(view.rows for view in usable)
        return QueueView(
            queued=len(self._queue),
            queued_below=self._queue.below(tier.priority),
            ahead=self._queue.ahead(exchange, now) if shared else None,
            oldest_wait_s=0.0 if oldest is None else now - oldest,
            in_flight=len(self._in_flight),
            capacity=sum(view.tier_capacity.get(tier.name, view.capacity) for view in usable),
            drain_rate_rps=self._accounting.drain_rate(len(self._in_flight)),
            ready_replicas=len(usable),
            spare=spare(exchange.view, usable) if shared else 0,
        )
