"""One client connection: requests in, answers out, in order.

While an answer is under way later requests wait as raw bytes; a client that closes (or half-closes) its side has left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

from trimode_api.errors import ApiError
from trimode_router.http.limits import Limits
from trimode_router.http.outgoing import CONTINUE
from trimode_router.http.reader import Phase, Refuse, RequestReader
from trimode_router.http.request import Request


class Flight(Protocol):
    """What an answer under way must know of its client."""

    def client_gone(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Sink(Protocol):
    """Where an answer's bytes go."""

    def write(self, data: bytes) -> None: ...


class Client(Protocol):
    """What an exchange needs of its client, for one answer."""

    @property
    def gone(self) -> bool: ...
    @property
    def paused(self) -> bool: ...
    @property
    def transport(self) -> Sink: ...
    def write(self, data: bytes) -> None: ...
    def finished(self) -> None: ...
    def abort(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Edge:
    """What a client connection needs of the server. `serve` answers by `write` and `finished` of the connection."""

    limits: Limits
    now: Callable[[], float]
    new_id: Callable[[], str]
    serve: Callable[[ClientConnection, Request], None]
    refuse: Refuse
    opened: Callable[[ClientConnection], None]
    closed: Callable[[ClientConnection], None]


class ClientConnection(asyncio.Protocol):
    """`deadline` (edge's clock, 0 for none) is enforced by `expire`, which the server calls now and then."""

    __slots__ = (
        "_backlog", "_edge", "_marked", "_pumping", "_reader", "current", "deadline", "flight", "gone", "idle_since",
        "paused", "transport",
    )  # fmt: skip

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._reader = RequestReader(edge.limits, edge.new_id, edge.refuse)
        self._backlog = bytearray()
        self._pumping = False
        self._marked = Phase.IDLE
        """The phase that `deadline` was set for."""
        self.current: Request | None = None
        self.flight: Flight | None = None
        self.gone = False
        self.paused = False
        self.deadline = 0.0

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.idle_since = self._edge.now()
        # Not the shorter time of a head: Go's HTTP client, and so gateways in Go, dials ahead of a burst and keeps what
        # it did not need among its idle connections, to send a request there later that it does not repeat when the
        # connection turns out closed (POST).
        self.deadline = self.idle_since + self._edge.limits.idle_seconds
        self._edge.opened(self)

    def data_received(self, data: bytes) -> None:
        if self._reader.deaf:
            return
        if self.current is not None:
            self._backlog += data
            # A client may send without end while its answer is under way: TCP holds it back, not this process's memory.
            if len(self._backlog) > self._edge.limits.pipelined_bytes:
                self.transport.pause_reading()
            return
        self._reader.feed(data)
        self._pump()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        self._edge.closed(self)
        flight, self.flight = self.flight, None
        if flight is not None:
            flight.client_gone()

    def pause_writing(self) -> None:
        self.paused = True
        self.deadline = self._edge.now() + self._edge.limits.stall_seconds
        if self.flight is not None:
            self.flight.pause()

    def resume_writing(self) -> None:
        self.paused = False
        self.deadline = 0.0
        if self.flight is not None:
            self.flight.resume()
        elif self.current is None:
            self._wait()

    # The answer's side.

    @property
    def idle(self) -> bool:
        """Whether nothing is under way in either direction."""
        return self.current is None and self._reader.phase is Phase.IDLE

    @property
    def backlog(self) -> int:
        """Bytes of later requests that wait for the present answer."""
        return len(self._backlog)

    def write(self, data: bytes) -> None:
        if not self.gone:
            self.transport.write(data)

    def finished(self) -> None:
        """The current answer is written. Goes on to the next request, or closes where the request said so."""
        request, self.current, self.flight = self.current, None, None
        if self.gone:
            return
        if request is not None and request.keep:
            self._pump()
            return
        if self._reader.phase is Phase.IDLE and (request is None or request.problem is None):
            self.transport.close()
            return
        # With input unread, at once the reset would overtake the answer: so it is discarded for a while first.
        self._reader.deaf = True
        self.deadline = self._edge.now() + self._edge.limits.linger_seconds
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.transport.resume_reading()

    def abort(self) -> None:
        """Cut the connection: the client must see that its answer is not whole."""
        self.flight = None
        self.transport.abort()

    def close_if_idle(self, since: float) -> None:
        """For a server that drains: nothing has been under way here since then, so nothing is lost."""
        if self.idle and not self.gone and self.idle_since <= since:
            self.transport.close()

    def expire(self, now: float) -> None:
        """Act on a passed deadline."""
        if not self.deadline or now < self.deadline or self.gone:
            return
        self.deadline = 0.0
        phase = self._reader.phase
        # One that does not read, or that has had its time to take its last answer.
        if self._reader.deaf or self.paused:
            self.transport.abort()
        elif phase is Phase.IDLE:
            self.transport.close()
        else:
            what = "headers" if phase is Phase.HEAD else "body"
            error = ApiError(408, f"the request's {what} took too long to arrive", code="request_timeout")
            self._reader.fail(error)
            self._pump()

    # Inside.

    def _pump(self) -> None:
        """Serve what is ready, one at a time; a loop, so that many small answers do not nest."""
        if self._pumping:
            return
        self._pumping = True
        reader = self._reader
        try:
            while self.current is None and not self.gone:
                if reader.ready:
                    self.current = reader.ready.popleft()
                    self.deadline = 0.0
                    self._edge.serve(self, self.current)
                elif self._backlog and not reader.deaf:
                    data = bytes(self._backlog)
                    self._backlog.clear()
                    self.transport.resume_reading()
                    reader.feed(data)
                else:
                    self._wait()
                    return
        finally:
            self._pumping = False

    def _wait(self) -> None:
        """Nothing to do until more bytes come: set the deadline for them."""
        reader = self._reader
        if reader.deaf:
            return
        if reader.owes_continue:
            reader.owes_continue = False
            self.transport.write(CONTINUE)
        # Set once for each phase: a trickle of bytes must not push it out.
        phase = reader.phase
        if self._marked is not phase or not self.deadline:
            self._marked = phase
            limits, now = self._edge.limits, self._edge.now()
            if phase is Phase.IDLE:
                self.deadline = now + limits.idle_seconds
                self.idle_since = now
            else:
                self.deadline = now + (limits.header_seconds if phase is Phase.HEAD else limits.body_seconds)
