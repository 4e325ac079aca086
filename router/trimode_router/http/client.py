"""One client connection: requests in, answers out, in order.

Belongs here: framing, limits, timeouts and flow control of the public port. While an answer is under way later
requests wait as raw bytes; a client that closes (or half-closes) its side has left.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import httptools

from trimode_api.errors import ApiError
from trimode_router.http.outgoing import CONTINUE
from trimode_router.http.request import Head, Request, split_target
from trimode_router.limits import Limits


class Flight(Protocol):
    """What an answer under way must know of its client."""

    def client_gone(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Edge:
    """What a client connection needs of the server. `serve` answers by `write` and `finished` of the connection."""

    limits: Limits
    now: Callable[[], float]
    new_id: Callable[[], str]
    serve: Callable[[ClientConnection, Request], None]
    refuse: Callable[[str, str], ApiError | None]
    """(method, path) -> the error it would get whatever its body is; asked before a body is invited."""
    opened: Callable[[ClientConnection], None]
    closed: Callable[[ClientConnection], None]


class ClientConnection(asyncio.Protocol):
    """`deadline` (edge's clock, 0 for none) is enforced by `expire`, which the server calls now and then."""

    __slots__ = (
        "_backlog", "_body", "_deaf", "_edge", "_head", "_owes_continue", "_parser", "_phase", "_pumping", "_ready",
        "_size", "_state", "current", "deadline", "flight", "gone", "paused", "transport",
    )  # fmt: skip

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._parser = httptools.HttpRequestParser(self)
        self._head: Head | None = None
        self._state = self._phase = "idle"
        self._body: list[bytes] = []
        self._size = 0
        self._ready: deque[Request] = deque()
        self._backlog = bytearray()
        self._deaf = False
        self._pumping = False
        self._owes_continue = False
        self.current: Request | None = None
        self.flight: Flight | None = None
        self.gone = False
        self.paused = False
        self.deadline = 0.0

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.deadline = self._edge.now() + self._edge.limits.header_seconds
        self._edge.opened(self)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self.current is not None:
            self._backlog += data
            if len(self._backlog) > self._edge.limits.pipelined_bytes:
                self.transport.pause_reading()
            return
        self._feed(data)
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

    # The answer's side.

    def write(self, data: bytes) -> None:
        if not self.gone:
            self.transport.write(data)

    def finished(self) -> None:
        """The current answer is written. Goes on to the next request, or closes where the request said so."""
        request, self.current, self.flight = self.current, None, None
        if self.gone:
            return
        if request is None or not request.keep:
            self._close(unread=self._state != "idle" or (request is not None and request.problem is not None))
        else:
            self._pump()

    def abort(self) -> None:
        """Cut the connection: the client must see that its answer is not whole."""
        self.flight = None
        self.transport.abort()

    def close_if_idle(self) -> None:
        """For a server that drains: nothing is under way here, so nothing is lost."""
        if self.current is None and self._state == "idle" and not self.gone:
            self.transport.close()

    def expire(self, now: float) -> None:
        """Act on a passed deadline."""
        if not self.deadline or now < self.deadline or self.gone:
            return
        self.deadline = 0.0
        if self._deaf or self.paused or self._state == "idle":
            self.transport.abort() if self._deaf or self.paused else self.transport.close()
            return
        what = "headers" if self._state == "head" else "body"
        self._fail(ApiError(408, f"the request's {what} took too long to arrive", code="request_timeout"))
        self._pump()

    # The parser's side.

    def on_message_begin(self) -> None:
        limits = self._edge.limits
        self._head = Head(limits.header_bytes, limits.body_bytes)
        self._state = "head"
        self._body.clear()
        self._size = 0

    def on_url(self, url: bytes) -> None:
        if self._head is not None:
            self._head.add_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        head = self._head
        if head is None:
            return
        if self._state == "head":
            head.add(name, value)
        else:
            head.grow(len(name) + len(value) + 4)  # a trailer: counted, never believed

    def on_headers_complete(self) -> None:
        head = self._head
        if head is None:
            return
        head.check(self._parser.get_http_version())
        self._state = "body"
        if head.expects and head.problem is None:
            head.problem = self._edge.refuse(self._parser.get_method().decode(), split_target(head.url)[0])
            self._owes_continue = head.problem is None

    def on_body(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._edge.limits.body_bytes:
            self._body.clear()
            if self._head is not None:
                limit = self._edge.limits.body_bytes
                self._head.fail(413, f"the request body is longer than {limit} bytes", "body_too_large")
        else:
            self._body.append(data)

    def on_message_complete(self) -> None:
        head = self._head
        self._owes_continue = False
        if head is None or head.problem is not None or self._deaf:
            return
        keep = self._parser.should_keep_alive()
        if self._parser.should_upgrade():
            # The parser stops here whether or not a body follows: what follows can not be told apart.
            if head.has_body:
                head.fail(400, "protocol upgrades are not supported", "upgrade_not_supported")
                return
            self._deaf, keep = True, False
        self._ready.append(self._request(head, keep, b"".join(self._body)))
        self._body.clear()
        self._head = None
        self._state = "idle"

    # Inside.

    def _feed(self, data: bytes) -> None:
        first = len(self._ready)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # noted in on_message_complete
        except httptools.HttpParserError as error:
            self._fail(ApiError(400, f"malformed HTTP request: {_lower(error)}", code="invalid_request"))
            return
        head = self._head
        if head is None:
            return
        if self._state == "head" and first == len(self._ready):
            head.feed(len(data))
        if head.problem is not None:
            self._fail(head.problem)

    def _fail(self, problem: ApiError) -> None:
        """The rest of the input is meaningless: answer what is whole, then this, then close."""
        if self._deaf:
            return
        head = self._head or Head(0, 0)
        head.problem = problem
        self._ready.append(self._request(head, False, b""))
        self._deaf = True
        self._backlog.clear()

    def _request(self, head: Head, keep: bool, body: bytes) -> Request:
        path, query = split_target(head.url)
        return Request(
            method=self._parser.get_method().decode() if head.url else "",
            path=path,
            query=query,
            http10=head.url != b"" and self._parser.get_http_version() == "1.0",
            keep=keep,
            request_id=head.request_id or self._edge.new_id(),
            tier=head.tier,
            passed=tuple(head.passed),
            body=body,
            problem=head.problem,
        )

    def _pump(self) -> None:
        """Serve what is ready, one at a time; a loop, so that many small answers do not nest."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self.current is None and not self.gone:
                if self._ready:
                    self.current = self._ready.popleft()
                    self.deadline = 0.0
                    self._edge.serve(self, self.current)
                elif self._backlog and not self._deaf:
                    data = bytes(self._backlog)
                    self._backlog.clear()
                    self.transport.resume_reading()
                    self._feed(data)
                else:
                    self._wait()
                    return
        finally:
            self._pumping = False

    def _wait(self) -> None:
        """Nothing to do until more bytes come: set the deadline for them."""
        if self._deaf:
            return
        if self._owes_continue:
            self._owes_continue = False
            self.transport.write(CONTINUE)
        # Set once for each phase: a trickle of bytes must not push it out.
        if self._phase != self._state or not self.deadline:
            self._phase = self._state
            limits = self._edge.limits
            seconds = {"idle": limits.idle_seconds, "head": limits.header_seconds, "body": limits.body_seconds}
            self.deadline = self._edge.now() + seconds[self._state]

    def _close(self, *, unread: bool) -> None:
        if not unread:
            self.transport.close()
            return
        # Closing with unread input resets the connection, and the reset can overtake the answer.
        self._deaf = True
        self.deadline = self._edge.now() + self._edge.limits.linger_seconds
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.transport.resume_reading()


def _lower(error: Exception) -> str:
    text = str(error)
    return text[:1].lower() + text[1:]
