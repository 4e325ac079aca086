"""One completion request, from the client's last byte to the answer's.

Belongs here: the splice. Until the first byte has gone to the client everything is held and may be retried; from then
on bytes pass as they came, in pieces that end with a whole event, and a stream that breaks goes on from elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from trimode_api.errors import ApiError
from trimode_api.wire import CONTINUE_PATH
from trimode_policy.route import RequestView
from trimode_router import answers
from trimode_router.access import Tenant
from trimode_router.asked import Asked
from trimode_router.http.client import ClientConnection
from trimode_router.http.outgoing import LAST_CHUNK, chunk, error_bytes, event
from trimode_router.http.request import Request
from trimode_router.http.upstream import AnswerHead, Link
from trimode_router.limits import Limits
from trimode_router.rules import Tier
from trimode_router.trail import Trail

_DONE = b"data: [DONE]"
_ERROR = b'data: {"error"'
RETRIABLE = frozenset((429, 502, 503, 504))
"""Statuses of a replica that say nothing about the request: another replica may serve it."""


@dataclass(slots=True)
class Record:
    """What happened, for metrics and the access log. Times in seconds of the router's clock."""

    started: float
    queued_at: float | None = None
    queue_wait: float = 0.0
    first_byte: float | None = None
    status: str = ""
    replica_id: str = ""
    attempts: int = 0
    resumptions: int = 0
    pause: float = 0.0
    """Longest time between a break and the first byte after it."""
    tokens: int | None = None
    stream: bool = False
    refusal: str = ""
    failures: list[str] = field(default_factory=list)


class Failure(Enum):
    """How an attempt failed: what that says of the replica, and of the request."""

    UNTOUCHED = 0
    """A reused connection closed without a byte: the replica may never have seen it."""
    AWAY = 1
    """Could not be reached, or takes no requests now."""
    REFUSED = 2
    """Answered that it will not."""
    BROKEN = 3
    """Broke off, answered garbage or hangs; the request itself may be why."""


class Desk(Protocol):
    """Who places exchanges: told of each turn of one."""

    limits: Limits

    def now(self) -> float: ...
    def first_byte(self, exchange: Exchange) -> None:
        """The present attempt has brought something for the client."""

    def resumed(self, pause_s: float) -> None:
        """A broken stream goes on."""

    def failed(self, exchange: Exchange, why: str, how: Failure) -> None: ...
    def elsewhere(self, exchange: Exchange) -> bool:
        """Whether another replica could still be tried."""

    def over(self, exchange: Exchange) -> None: ...


class Exchange:
    """A request and its answer. Ends exactly once, by `_end`. `path` and `body` are what the next replica is sent."""

    __slots__ = (
        "_aligned",
        "_boundary",
        "_broken_at",
        "_desk",
        "_framing",
        "_held",
        "_passing",
        "_trail",
        "asked",
        "awaits",
        "begun",
        "body",
        "client",
        "ended",
        "link",
        "not_before",
        "over",
        "path",
        "quiet_since",
        "record",
        "request",
        "strikes",
        "tenant",
        "tier",
        "tried",
        "turn",
        "wish",
    )  # fmt: skip

    def __init__(
        self,
        client: ClientConnection,
        request: Request,
        asked: Asked,
        tier: Tier,
        desk: Desk,
        tenant: Tenant | None = None,
    ) -> None:
        self.client = client
        self.tenant = tenant
        self.ended: Callable[[Exchange], None] | None = None
        """Called at the end, for who wants to know."""
        self.request = request
        self.path = request.path
        self.body = request.body
        self.asked = asked
        self.tier = tier
        self.wish = RequestView(
            tier=tier.name,
            priority=tier.priority,
            prompt_tokens=asked.prompt_tokens,
            lossy_ok=asked.lossy_ok,
            pin=asked.pin,
            left_s=tier.ttft_s,
        )
        self.tried: Collection[str] = ()
        self.link: Link | None = None
        self.over = False
        self.turn = 0
        self.quiet_since = 0.0
        self.strikes = 0
        """Attempts in a row to continue that brought no byte."""
        self.not_before = 0.0
        """No attempt to continue before this time."""
        self.awaits = False
        """The present attempt has brought no byte for the client yet."""
        self.begun = False
        """The client has the head and some of the body: nothing of it can be taken back."""
        self.record = Record(started=desk.now())
        self._desk = desk
        self._broken_at: float | None = None
        self._trail = Trail(desk.limits.trail_bytes)
        self._reset()

    def _reset(self) -> None:
        self._framing: AnswerHead | None = None
        self._held = b""
        self._boundary = b""
        self._passing = False  # every piece so far ended with a whole event, the next may pass at once
        self._aligned = False  # what the client has ends with a whole event

    # Sending.

    def send(self, link: Link, head_bytes: bytes) -> None:
        """Send the request, or the one for the rest of its answer, over `link`."""
        if not self.begun:
            self._reset()
        self.link = link
        if self.client.paused:
            link.transport.pause_reading()
        link.begin(self, head_bytes, self.body, unchunk=self.request.http10)

    # The replica's side.

    def on_head(self, head: AnswerHead) -> None:
        if self.begun:
            self._rest_begins(head)
            return
        # 401: it does not take the router's token, which no client can mend.
        if head.status == 401 or (head.status in RETRIABLE and self._desk.elsewhere(self)):
            self._drop_link()
            self._desk.failed(self, f"answered {head.status}", Failure.REFUSED)
            return
        self._framing = head
        self.record.stream = head.field(b"content-type").startswith(b"text/event-stream")
        if self.record.stream:
            self._boundary = b"\n\n\r\n" if head.chunked and not self.request.http10 else b"\n\n"

    def on_bytes(self, data: bytes) -> None:
        if self._passing and data.endswith(self._boundary):
            self._trail.add(data)
            self.client.transport.write(data)
        else:
            self._gather(data)

    def on_complete(self) -> None:
        self.link = None
        self._flush()
        self.record.tokens = answers.output_tokens(self._trail.tail)
        self._end(str(self._framing.status) if self._framing else "200")
        self.client.finished()

    def on_broken(self, why: str, untouched: bool) -> None:
        self.link = None
        if self.begun and not self._resumable():
            self._break_off(f"the replica {why} in mid-stream")
            return
        if self.begun:
            self._held, self._passing = b"", False
            if not self.awaits:
                self._broken_at = self._desk.now()
                self.record.resumptions += 1
        self._desk.failed(self, why, Failure.UNTOUCHED if untouched else Failure.BROKEN)

    def lost(self, why: str) -> None:
        """The replica is given up from outside (dead, silent)."""
        self._drop_link()
        self.on_broken(why, untouched=False)

    # The client's side.

    def client_gone(self) -> None:
        if self.over:
            return
        self._drop_link()
        self._end("client_gone")

    def pause(self) -> None:
        if self.link is not None:
            self.link.transport.pause_reading()

    def resume(self) -> None:
        if self.link is not None:
            self.link.heard = True
            self.link.transport.resume_reading()

    def refuse(self, error: ApiError) -> None:
        """End it with an error: as the answer where nothing was sent, else as the end of the stream."""
        self._drop_link()
        self.record.refusal = error.code or ""
        if self.begun:
            self._break_off(error.message)
            return
        self._end(str(error.status))
        answers.refuse(self.client, self.request, error)

    # Inside.

    def _gather(self, data: bytes) -> None:
        """The pieces that may not pass at once: the first, those that end within an event, those of no stream."""
        self._held += data
        if not self.record.stream:
            if self.begun or len(self._held) > self._desk.limits.held_bytes:
                self._flush()
            return
        cut = self._held.rfind(self._boundary)
        aligned = cut >= 0 and cut + len(self._boundary) == len(self._held)
        # A replica whose chunks do not end with events is not held up: its pieces pass as they are. One line end alone
        # is the size of a chunk that is still to come.
        strays = cut < 0 and self._held.endswith(b"\r\n") and self._held.count(b"\r\n") > 1
        if aligned or strays or len(self._held) > self._desk.limits.held_bytes:
            self._flush()
            self._passing = self._aligned = aligned
        elif cut >= 0:
            rest = self._held[cut + len(self._boundary) :]
            self._held = self._held[: cut + len(self._boundary)]
            self._flush()
            self._held, self._aligned = rest, True
            self._passing = False
        else:
            self._passing = False  # what comes next goes behind what is held

    def _flush(self) -> None:
        """Write what is held, after the head if that has not gone yet."""
        data, self._held = self._held, b""
        if self.awaits:
            self._first_byte()
        if not self.begun:
            self.begun = True
            assert self._framing is not None
            if data:
                self._trail.add(data)
            data = answers.head_for(self.request, self._framing) + data
        elif data:
            self._trail.add(data)
        if data:
            self.client.write(data)

    def _first_byte(self) -> None:
        """Of this attempt."""
        self.awaits = False
        self.strikes = 0
        now = self._desk.now()
        if self._broken_at is not None:
            self.record.pause = max(self.record.pause, now - self._broken_at)
            self._desk.resumed(now - self._broken_at)
            self._broken_at = None
        else:
            self.record.first_byte = now
        self._desk.first_byte(self)

    def _rest_begins(self, head: AnswerHead) -> None:
        """Another replica's head: the client has one already, and must not notice the seam."""
        assert self._framing is not None
        stream = head.field(b"content-type").startswith(b"text/event-stream")
        if head.status != 200 or not stream or (head.chunked != self._framing.chunked and not self.request.http10):
            self._drop_link()
            how = Failure.AWAY if head.status in RETRIABLE else Failure.REFUSED
            self._desk.failed(self, f"answered {head.status} to a continuation", how)

    @property
    def continuable(self) -> bool:
        """Whether the rest could come from elsewhere, as far as the client and the replica's chunks go."""
        streams = self.begun and self.record.stream and self._aligned and not self.client.gone
        return streams and not self._trail.finished and bool(self._trail.emitted)

    def _resumable(self) -> bool:
        """Whether it is continuable; makes the request for the rest."""
        if not self.continuable:
            return False
        body = self._trail.continuation(self.request.path, self.request.body)
        if body is None:
            return False
        self.path, self.body = CONTINUE_PATH, body
        return True

    def _break_off(self, why: str) -> None:
        """End a begun answer: an error event where the client can still read one, else a cut connection."""
        framing = self._framing
        tail = self._trail.tail
        if framing is None or not self.record.stream or not self._aligned or self.client.gone:
            self._end("broken")
            self.client.abort()
            return
        data, whole = b"", _DONE in tail
        if not whole and self._trail.finished:  # nothing but the end mark is missing
            data, whole = _DONE + b"\n\n", True
        elif not whole and _ERROR not in tail:  # a replica that could still speak has said why
            data = event(error_bytes(ApiError(502, why, code="stream_broken")))
        if framing.chunked and not self.request.http10:
            data = (chunk(data) if data else b"") + LAST_CHUNK
        self.record.tokens = answers.output_tokens(tail)
        self._end(str(framing.status) if whole else "broken")
        self.client.write(data)
        self.client.finished()

    def _drop_link(self) -> None:
        link, self.link = self.link, None
        if link is not None:
            link.drop()

    def _end(self, status: str) -> None:
        self.over = True
        self.record.status = status
        self._desk.over(self)
        if self.ended is not None:
            self.ended(self)
