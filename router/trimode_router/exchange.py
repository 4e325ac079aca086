"""One completion request, from the client's last byte to the answer's.

Belongs here: the splice. Until the first byte has gone to the client everything is held and may be retried; from then
on bytes pass as they came, in pieces that end with a whole event.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Protocol

from trimode_api.errors import ApiError
from trimode_policy.route import RequestView
from trimode_router import answers
from trimode_router.asked import Asked
from trimode_router.http.client import ClientConnection
from trimode_router.http.outgoing import LAST_CHUNK, chunk, error_bytes, event
from trimode_router.http.request import Request
from trimode_router.http.upstream import AnswerHead, Link
from trimode_router.limits import Limits
from trimode_router.rules import Tier

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
    tokens: int | None = None
    stream: bool = False
    refusal: str = ""
    failures: list[str] = field(default_factory=list)


class Desk(Protocol):
    """Who places exchanges: told of each turn of one."""

    limits: Limits

    def now(self) -> float: ...
    def first_byte(self, exchange: Exchange) -> None: ...
    def failed(self, exchange: Exchange, why: str, *, untouched: bool) -> None: ...
    def elsewhere(self, exchange: Exchange) -> bool:
        """Whether another replica could still be tried."""

    def over(self, exchange: Exchange) -> None: ...


class Exchange:
    """A request and its answer. Ends exactly once, by `_end`."""

    __slots__ = (
        "_aligned", "_boundary", "_desk", "_framing", "_held", "_passing", "_previous", "_sent", "_tail", "asked",
        "client", "link", "over", "record", "request", "tier", "tried", "turn", "wish",
    )  # fmt: skip

    def __init__(self, client: ClientConnection, request: Request, asked: Asked, tier: Tier, desk: Desk) -> None:
        self.client = client
        self.request = request
        self.asked = asked
        self.tier = tier
        self.wish = RequestView(
            tier=tier.name,
            priority=tier.priority,
            prompt_tokens=asked.prompt_tokens,
            lossy_ok=asked.lossy_ok,
            pin=asked.pin,
        )
        self.tried: Collection[str] = ()
        self.link: Link | None = None
        self.over = False
        self.turn = 0
        self.record = Record(started=desk.now())
        self._desk = desk
        self._sent = False
        self._reset()

    def _reset(self) -> None:
        self._framing: AnswerHead | None = None
        self._held = b""
        self._boundary = b""
        self._passing = False  # every piece so far ended with a whole event, the next may pass at once
        self._aligned = False  # what the client has ends with a whole event
        self._tail = self._previous = b""

    # Sending.

    def send(self, link: Link, head_bytes: bytes) -> None:
        """Send the request over `link`."""
        self._reset()
        self.link = link
        if self.client.paused:
            link.transport.pause_reading()
        link.begin(self, head_bytes, self.request.body, unchunk=self.request.http10)

    # The replica's side.

    def on_head(self, head: AnswerHead) -> None:
        # 401: it does not take the router's token, which no client can mend.
        if head.status == 401 or (head.status in RETRIABLE and self._desk.elsewhere(self)):
            self._drop_link()
            self._desk.failed(self, f"answered {head.status}", untouched=False)
            return
        self._framing = head
        self.record.stream = head.field(b"content-type").startswith(b"text/event-stream")
        if self.record.stream:
            self._boundary = b"\n\n\r\n" if head.chunked and not self.request.http10 else b"\n\n"

    def on_bytes(self, data: bytes) -> None:
        if self._passing and data.endswith(self._boundary):
            self._previous, self._tail = self._tail, data
            self.client.transport.write(data)
        else:
            self._gather(data)

    def on_complete(self) -> None:
        self.link = None
        self._flush(whole=True)
        self.record.tokens = answers.output_tokens(self._previous, self._tail)
        self._end(str(self._framing.status) if self._framing else "200")
        self.client.finished()

    def on_broken(self, why: str, untouched: bool) -> None:
        self.link = None
        if not self._sent:
            self._desk.failed(self, why, untouched=untouched)
        else:
            # The seam for resumption: what the client has is whole events, and the rest could follow from elsewhere.
            self._break_off(why)

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
        """Answer with an error instead; only while nothing was sent."""
        self._drop_link()
        self.record.refusal = error.code or ""
        self._end(str(error.status))
        answers.refuse(self.client, self.request, error)

    # Inside.

    def _gather(self, data: bytes) -> None:
        """The pieces that may not pass at once: the first, those that end within an event, those of no stream."""
        self._held += data
        if not self.record.stream:
            if self._sent or len(self._held) > self._desk.limits.held_bytes:
                self._flush(whole=True)
            return
        cut = self._held.rfind(self._boundary)
        aligned = cut >= 0 and cut + len(self._boundary) == len(self._held)
        # A replica whose chunks do not end with events is not held up: its pieces pass as they are.
        strays = not aligned and self._held.endswith(b"\r\n")
        if aligned or strays or len(self._held) > self._desk.limits.held_bytes:
            self._flush(whole=True)
            self._passing = self._aligned = aligned
        elif cut >= 0:
            rest = self._held[cut + len(self._boundary) :]
            self._held = self._held[: cut + len(self._boundary)]
            self._flush(whole=False)
            self._held, self._aligned = rest, True
            self._passing = False

    def _flush(self, *, whole: bool) -> None:
        """Write what is held, after the head if that has not gone yet. `whole`: nothing stays behind."""
        data, self._held = self._held, b""
        if not self._sent:
            data = self._begin() + data
        if data:
            self._previous, self._tail = self._tail, data
            self.client.write(data)

    def _begin(self) -> bytes:
        """The head for the client, which from now on can not be taken back."""
        self._sent = True
        self.record.first_byte = self._desk.now()
        self._desk.first_byte(self)
        return answers.head_for(self.request, self._framing) if self._framing is not None else b""

    def _break_off(self, why: str) -> None:
        """End a begun answer: an error event where the client can still read one, else a cut connection."""
        framing = self._framing
        whole = _DONE in self._tail and self._aligned
        if framing is None or not self.record.stream or not self._aligned or self.client.gone:
            self._end("broken")
            self.client.abort()
            return
        data = b""
        if not whole and _ERROR not in self._tail:  # a replica that could still speak has said why
            data = event(error_bytes(ApiError(502, f"the replica {why} in mid-stream", code="stream_broken")))
        if framing.chunked and not self.request.http10:
            data = (chunk(data) if data else b"") + LAST_CHUNK
        self.record.tokens = answers.output_tokens(self._previous, self._tail)
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
