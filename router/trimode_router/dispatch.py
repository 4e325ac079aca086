"""Placing requests: admit, wait, route, send, and try again.

Belongs here: the desk between clients and replicas. Decisions are `admit` and `route`; this module carries them out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import urlsplit

from trimode_api.errors import ApiError
from trimode_api.wire import REQUEST_ID_HEADER, TIER_HEADER
from trimode_router.exchange import Exchange
from trimode_router.fleet import Fleet, Replica
from trimode_router.http.upstream import Link, LinkPool
from trimode_router.ledger import Ledger
from trimode_router.limits import Limits
from trimode_router.policy_stub import Outcome, QueueView, RequestView, admit, route
from trimode_router.waiting import Ticket, WaitingRoom

Waiting = Ticket[Exchange]


class Dispatcher:
    """Owns the queue and the connections to replicas; the fleet's counters change here only."""

    def __init__(self, fleet: Fleet, ledger: Ledger, limits: Limits, token: str, now: Callable[[], float]) -> None:
        self.limits = limits
        self.now = now
        self.queue: WaitingRoom[Exchange] = WaitingRoom()
        self.in_flight: dict[Exchange, Replica] = {}
        self._fleet = fleet
        self._ledger = ledger
        self._token = token
        self._tickets: dict[Exchange, Waiting] = {}
        self._pools: dict[str, LinkPool] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._seed = 0
        self._pumping = False

    # A request's turns.

    def submit(self, exchange: Exchange) -> None:
        """A new request: send it, queue it, or refuse it."""
        request = _request_view(exchange)
        now = self.now()
        admission = admit(request, self._queue_view(request.priority, now), self._fleet.rules.admission)
        if admission.outcome is Outcome.REFUSE:
            error = ApiError(
                admission.status,
                admission.detail,
                code=str(admission.reason),
                retry_after_s=max(1, admission.retry_after_s),
            )
            self._refuse(exchange, error, str(admission.reason))
        elif admission.outcome is Outcome.QUEUE or not self._place(exchange, now):
            self._enqueue(exchange, now)

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

    def failed(self, exchange: Exchange, why: str, *, untouched: bool) -> None:
        """An attempt failed before the first byte: try again, here only where the replica never saw it."""
        replica = self.in_flight[exchange]
        now = self.now()
        self._release(exchange)
        exchange.record.failures.append(f"{replica.replica_id} {why}")
        if not untouched:
            self._fleet.failed(replica, now)
            exchange.tried = {*exchange.tried, replica.replica_id}
        if exchange.record.attempts >= self.limits.attempts:
            what = "; ".join(exchange.record.failures)
            self._refuse(exchange, _unavailable(502, f"every attempt failed: {what}"), "attempts_failed")
            return
        self._ledger.retried()
        if not self._place(exchange, now):
            if any(self._fleet.usable(view) for view in self._fleet.views(now, exchange.tried)):
                self._enqueue(exchange, now)
            else:
                what = "; ".join(exchange.record.failures)
                self._refuse(exchange, _unavailable(503, f"no other replica is ready after: {what}"), "none_left")
        self.pump()

    def over(self, exchange: Exchange) -> None:
        ticket = self._tickets.pop(exchange, None)
        if ticket is not None:
            self.queue.leave(ticket)
            self._waited(exchange)
        self._release(exchange)
        self._ledger.finished(exchange, self.now())
        if ticket is None:
            self.pump()

    # What moves the queue.

    def pump(self) -> None:
        """Send waiting requests while there are slots: after each answer, and after each report."""
        if self._pumping or not self.queue or not self._has_slot(self.now()):
            return
        self._pumping = True
        try:
            now = self.now()
            for ticket in self.queue.in_order():
                exchange = ticket.item
                if self._place(exchange, now):
                    self.queue.leave(ticket)
                    self._tickets.pop(exchange, None)
                    self._waited(exchange)
                elif not self._has_slot(now):
                    break
        finally:
            self._pumping = False

    def tick(self, now: float) -> None:
        """Time passes: waits end, silent replicas die, links that stall are broken."""
        for ticket in self.queue.expired(now):
            exchange = ticket.item
            self._tickets.pop(exchange, None)
            self._waited(exchange)
            message = f"no slot came free within {now - ticket.since:.1f} s"
            error = ApiError(429, message, code="QueueTimeout", retry_after_s=max(1, round(now - ticket.since)))
            self._refuse(exchange, error, "QueueTimeout")
        died = self._fleet.bury(now)
        if died:
            for exchange, replica in list(self.in_flight.items()):
                if replica.dead and not exchange.over:
                    exchange.lost("stopped reporting")
        for replica_id in list(self._pools):
            if self._fleet.get(replica_id) is None:
                self._pools.pop(replica_id).close()
        self.pump()

    def sweep_stalled(self) -> None:
        """Break exchanges whose replica sent nothing since the last sweep; call every `upstream_idle_seconds`."""
        for exchange in list(self.in_flight):
            link = exchange.link
            if link is None or exchange.client.paused or exchange.over:
                continue
            if link.heard:
                link.heard = False
            else:
                exchange.lost("fell silent")

    async def close(self) -> None:
        """Drop what is left: links, and connections being made."""
        for exchange in list(self.in_flight):
            exchange.client.abort()
            exchange.client_gone()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for pool in self._pools.values():
            pool.close()

    # Inside.

    def _place(self, exchange: Exchange, now: float) -> bool:
        """Route and send; False where no replica can take it now."""
        self._seed += 1
        views = self._fleet.views(now, exchange.tried)
        decision = route(_request_view(exchange), views, self._fleet.rules.staleness, self._seed)
        replica = self._fleet.get(decision.replica_id) if decision.replica_id is not None else None
        if replica is None:
            return False
        self._fleet.occupy(replica, exchange.asked.prompt_tokens)
        self.in_flight[exchange] = replica
        exchange.record.replica_id = replica.replica_id
        exchange.record.attempts += 1
        pool = self._pool(replica)
        link = pool.take()
        if link is not None:
            exchange.send(link, self._head(exchange, pool))
        else:
            task = asyncio.get_running_loop().create_task(self._connect(exchange, pool, exchange.record.attempts))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return True

    async def _connect(self, exchange: Exchange, pool: LinkPool, attempt: int) -> None:
        try:
            link: Link | None = await pool.connect(self.limits.connect_seconds)
            why = ""
        except OSError as error:
            link, why = None, f"could not be reached ({error or type(error).__name__})"
        # Meanwhile the client may have left, or the replica may have been declared dead and replaced.
        current = not exchange.over and exchange.record.attempts == attempt and exchange in self.in_flight
        if link is not None and current:
            exchange.send(link, self._head(exchange, pool))
        elif link is not None:
            pool.keep(link)
        elif current:
            self.failed(exchange, why, untouched=False)

    def _pool(self, replica: Replica) -> LinkPool:
        parts = urlsplit(replica.report.url)
        host, port = parts.hostname or "", parts.port or 80
        pool = self._pools.get(replica.replica_id)
        if pool is None or (pool.host, pool.port) != (host, port):
            if pool is not None:
                pool.close()
            pool = self._pools[replica.replica_id] = LinkPool(host, port)
        return pool

    def _head(self, exchange: Exchange, pool: LinkPool) -> bytes:
        request = exchange.request
        lines = [
            f"POST {request.path} HTTP/1.1",
            f"host: {pool.host}:{pool.port}",
            f"authorization: Bearer {self._token}",
            "content-type: application/json",
            f"content-length: {len(request.body)}",
            f"{TIER_HEADER}: {exchange.tier.name}",
            f"{REQUEST_ID_HEADER}: {request.request_id}",
            *(f"{name.decode()}: {value.decode('latin-1')}" for name, value in request.passed),
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def _enqueue(self, exchange: Exchange, now: float) -> None:
        limits = self._fleet.rules.admission
        priority = exchange.tier.priority
        if len(self.queue) >= limits.max_queued:
            worst = self.queue.last()
            if worst is None or worst.priority >= priority:
                self._refuse(exchange, _busy(f"{len(self.queue)} requests already wait"), "QueueFull")
                return
            self._refuse(worst.item, _busy("a request of higher priority took the place"), "Displaced")
        since = exchange.record.queued_at if exchange.record.queued_at is not None else now
        exchange.record.queued_at = since
        self._tickets[exchange] = self.queue.enter(exchange, priority, since, since + limits.max_wait_s)

    def _waited(self, exchange: Exchange) -> None:
        if exchange.record.queued_at is not None:
            exchange.record.queue_wait = self.now() - exchange.record.queued_at

    def _refuse(self, exchange: Exchange, error: ApiError, reason: str) -> None:
        self._ledger.refused(exchange.tier.name, error, reason)
        exchange.refuse(error, reason)

    def _release(self, exchange: Exchange) -> None:
        replica = self.in_flight.pop(exchange, None)
        if replica is None:
            return
        self._fleet.vacate(replica)
        if exchange.record.first_byte is None:
            self._fleet.prefilled(replica, exchange.asked.prompt_tokens)

    def _has_slot(self, now: float) -> bool:
        return any(self._fleet.usable(v) and v.in_flight < v.capacity for v in self._fleet.views(now))

    def _queue_view(self, priority: int, now: float) -> QueueView:
        usable = [view for view in self._fleet.views(now) if self._fleet.usable(view)]
        oldest = self.queue.oldest()
        return QueueView(
            # Only those that would be served first stand in a newcomer's way.
            queued=self.queue.at_or_above(priority),
            oldest_wait_s=0.0 if oldest is None else now - oldest,
            in_flight=len(self.in_flight),
            capacity=sum(view.capacity for view in usable),
            drain_rate_rps=self._ledger.rate(now),
            ready_replicas=len(usable),
        )


def _request_view(exchange: Exchange) -> RequestView:
    asked = exchange.asked
    return RequestView(
        tier=exchange.tier.name,
        priority=exchange.tier.priority,
        prompt_tokens=asked.prompt_tokens,
        lossy_ok=asked.lossy_ok,
        pin=asked.pin,
    )


def _busy(message: str) -> ApiError:
    return ApiError(429, message, code="QueueFull", retry_after_s=1)


def _unavailable(status: int, message: str) -> ApiError:
    return ApiError(status, message, code="no_replica", retry_after_s=1)
