"""One completion request, from the client's last byte to the answer's.

Belongs here: the splice. Until the first byte has gone to the client everything is held and may be retried; from then
on bytes pass as they came, in pieces that end with a whole event, and a stream that breaks goes on from elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from trimode_api.errors import ApiError
from trimode_api.wire import CONTINUE_PATH
from trimode_policy.route import RequestView
from trimode_router.access.access import Tenant
from trimode_router.fleet.policy import Tier
from trimode_router.http.client import ClientConnection
from trimode_router.http.head import AnswerHead
from trimode_router.http.limits import Limits
from trimode_router.http.request import Request
from trimode_router.http.upstream import Link
from trimode_router.request import responses
from trimode_router.request.event_splitter import CHUNKED_EVENT_END, EVENT_END, cut
from trimode_router.request.parse import ParsedRequest
from trimode_router.request.record import RETRIABLE, Failure, Record, failure_of
from trimode_router.request.transcript import KEEP_BYTES, ManyTranscripts, Transcript


class ExchangeOwner(Protocol):
    """Is told of each turn of an exchange."""

    limits: Limits
    passes_keys: bool
    """Whether replicas are sent the client's own key, so that it is for the client to mend."""

    def now(self) -> float: ...
    def first_byte(self, exchange: Exchange, *, well: bool) -> None:
        """The present attempt has brought something for the client; `well`: no error of the replica."""

    def resumed(self, pause_s: float) -> None:
        """A broken stream goes on."""

    def failed(self, exchange: Exchange, why: str, how: Failure) -> None: ...
    def elsewhere(self, exchange: Exchange) -> bool:
        """Whether another replica could still be tried."""

    def over(self, exchange: Exchange) -> None: ...


class Exchange:
    """A request and its answer. Ends exactly once, by `_end`. `path` and `body` are what the next replica is sent."""

    __slots__ = (
        "_aligned", "_boundary", "_broken_at", "_desk", "_framing", "_held", "_passing", "_trail", "asked", "awaits",
        "begun", "body", "client", "ended", "failed_attempts", "link", "not_before", "over", "path", "quiet_since",
        "record", "request", "tenant", "tier", "tried", "turn", "wish",
    )  # fmt: skip

    def __init__(
        self,
        client: ClientConnection,
        request: Request,
        asked: ParsedRequest,
        tier: Tier,
        desk: ExchangeOwner,
        tenant: Tenant | None = None,
    ) -> None:
        self.client = client
        self.request = request
        self.path = request.path
        self.body = request.body
        self.asked = asked
        self.tier = tier
        self.tenant = tenant
        self.wish = RequestView(
            tier.name, tier.priority, asked.prompt_tokens, asked.lossy_ok, asked.pin, left_s=tier.ttft_s
        )
        self.ended: Callable[[Exchange], None] | None = None
        """Called at the end, for who wants to know."""
        self.tried: Collection[str] = ()
        self.link: Link | None = None
        self.turn = self.failed_attempts = 0
        """`failed_attempts`: attempts in a row to continue that brought no byte."""
        self.quiet_since = self.not_before = 0.0
        """`not_before`: no attempt to continue before this time."""
        self.over = self.awaits = self.begun = False
        """`awaits`: the present attempt has brought no byte for the client yet. `begun`: the client has the head and
        some of the body, nothing of it can be taken back."""
        self.record = Record(desk.now())
        self._desk = desk
        self._broken_at: float | None = None
        most, choices = desk.limits.trail_bytes, asked.choices
        self._trail = Transcript(most) if choices == 1 else ManyTranscripts(most, choices)
        self._framing: AnswerHead | None = None
        self._held = b""
        self._boundary = EVENT_END
        self._passing = False  # every piece so far ended with a whole event, the next may pass at once
        self._aligned = False  # what the client has ends with a whole event

    # Sending.

    def send(self, link: Link, head_bytes: bytes) -> None:
        """Send the request, or the one for the rest of its answer, over `link`."""
        if not self.begun:
            self._framing, self._held = None, b""
        self.link = link
        if self.client.paused:
            link.transport.pause_reading()
        link.begin(self, head_bytes, self.body, unchunk=self.request.http10)

    # The replica's side.

    def on_head(self, head: AnswerHead) -> None:
        if self.begun:
            self._rest_begins(head)
            return
        if head.status >= 400 and (how := self._repeatable(head.status)) is not None:
            self._drop_link()
            self._desk.failed(self, f"answered {head.status}", how)
            return
        self._framing = head
        self.record.stream = head.stream
        self._boundary = CHUNKED_EVENT_END if head.chunked and not self.request.http10 else EVENT_END

    def on_bytes(self, data: bytes) -> None:
        if self._passing and data.endswith(self._boundary):
            trail = self._trail  # `trail.add`, without a call: every chunk of every stream comes through here
            trail.pieces.append(data)
            trail.size += len(data)
            if trail.size > KEEP_BYTES:
                trail.digest()
            self.client.transport.write(data)
        else:
            self._gather(data)

    def on_end(self, data: bytes) -> None:
        self.link = None
        self._forward(self._held + data if self._held else data)
        self._close(str(self._framing.status) if self._framing else "200")

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
        responses.refuse(self.client, self.request, error)

    # Inside.

    def _gather(self, data: bytes) -> None:
        """The pieces that may not pass at once: the first, those that end within an event, those of no stream."""
        if self._held:
            data = self._held + data
        if self.record.stream:
            ready, self._held, aligned = cut(data, self._boundary, self._desk.limits.held_bytes)
            if ready:
                self._forward(ready)
                self._aligned = aligned
            self._passing = aligned and not self._held
        elif self.begun or len(data) > self._desk.limits.held_bytes:
            self._held = b""
            self._forward(data)
        else:
            self._held = data

    def _forward(self, data: bytes) -> None:
        """Write it, behind the head if that has not gone yet."""
        if self.awaits:
            self._first_byte()
        if data:
            self._trail.add(data)
        if not self.begun:
            self.begun = True
            assert self._framing is not None
            data = responses.head_for(self.request, self._framing) + data
        if data:
            self.client.write(data)

    def _first_byte(self) -> None:
        """Of this attempt."""
        self.awaits = False
        self.failed_attempts = 0
        now = self._desk.now()
        if self._broken_at is not None:
            self.record.pause = max(self.record.pause, now - self._broken_at)
            self._desk.resumed(now - self._broken_at)
            self._broken_at = None
        else:
            self.record.first_byte = now
        self._desk.first_byte(self, well=self._framing is None or self._framing.status < 500)

    def _repeatable(self, status: int) -> Failure | None:
        """How the attempt failed, where the client need not hear of it."""
        if status == 401 and not self._desk.passes_keys:
            return Failure.REFUSED  # it does not take the router's key, which no client can mend
        how = failure_of(status)
        return how if how is not None and self._desk.elsewhere(self) else None

    def _rest_begins(self, head: AnswerHead) -> None:
        """Another replica's head: the client has one already, and must not notice the seam."""
        assert self._framing is not None
        fits = head.chunked == self._framing.chunked or self.request.http10
        if head.status != 200 or not head.stream or not fits:
            self._drop_link()
            how = Failure.AWAY if head.status in RETRIABLE else Failure.REFUSED
            self._desk.failed(self, f"answered {head.status} to a continuation", how)

    @property
    def continuable(self) -> bool:
        """Whether the rest could come from elsewhere, as far as the client and the replica's chunks go."""
        streams = self.begun and self.record.stream and self._aligned and not self.client.gone
        return streams and not self._trail.finished and bool(self._trail.told)

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
        if framing is None or not self.record.stream or not self._aligned or self.client.gone:
            self._end("broken")
            self.client.abort()
            return
        chunked = framing.chunked and not self.request.http10
        data, whole = responses.ending(self._trail, why, chunked=chunked)
        self.client.write(data)
        self._close(str(framing.status) if whole else "broken")

    def _drop_link(self) -> None:
        link, self.link = self.link, None
        if link is not None:
            link.drop()

    def _close(self, status: str) -> None:
        """The end of an answer that the client has."""
        self.record.tokens = responses.output_tokens(self._trail.tail)
        self.record.mode = responses.mode_of(self._trail.tail)
        self._end(status)
        self.client.finished()

    def _end(self, status: str) -> None:
        self.over = True
        self.record.status = status
        self._desk.over(self)
        if self.ended is not None:
            self.ended(self)
