"""One completion request, from the client's last byte to the answer's.

Until the first byte has gone to the client everything is held and may be retried. From then on bytes pass as they came,
in pieces that end with a whole event, and a stream that breaks is continued by another replica.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from trimode_api.errors import ApiError
from trimode_api.wire import CONTINUE_PATH
from trimode_policy.route import RequestView
from trimode_router.http.client import Client
from trimode_router.http.head import AnswerHead
from trimode_router.http.limits import Limits
from trimode_router.http.request import Request
from trimode_router.http.upstream import Link
from trimode_router.request import responses
from trimode_router.request.account import account_of, reason_of
from trimode_router.request.event_splitter import CHUNKED_EVENT_END, EVENT_END, EventSplitter
from trimode_router.request.parse import ParsedRequest
from trimode_router.request.record import RETRIABLE, Caller, Failure, Phase, Record, failure_of
from trimode_router.request.transcript import KEEP_BYTES, ManyTranscripts, Transcript


class ExchangeOwner(Protocol):
    """Decides what becomes of an exchange, and keeps account of it. `last` is the phase that it has just left."""

    limits: Limits
    passes_keys: bool
    """Whether replicas are sent the client's own key, so that a wrong one is the client's to correct."""

    def now(self) -> float: ...
    def first_byte(self, exchange: Exchange, *, well: bool, pause_s: float | None) -> None:
        """The present attempt has brought something for the client. `well`: no error of the replica. `pause_s`: how
        long the stream had been broken, None for one that had not begun."""

    def failed(self, exchange: Exchange, why: str, how: Failure, last: Phase) -> None:
        """An attempt failed; the exchange is WAITING or BROKEN now."""

    def elsewhere(self, exchange: Exchange) -> bool:
        """Whether another replica could still be tried."""

    def over(self, exchange: Exchange, last: Phase) -> None: ...


class Exchange:
    """A request and its answer. Ends exactly once, by `_end`. `path` and `body` are what the next replica is sent."""

    __slots__ = (
        "_broken_at", "_head", "_owner", "_splitter", "_transcript", "asked", "body", "client", "failed_attempts",
        "link", "not_before", "on_over", "path", "phase", "prompt_s", "quiet_since", "record", "request", "tenant",
        "tier", "tried", "view",
    )  # fmt: skip

    def __init__(
        self, owner: ExchangeOwner, client: Client, request: Request, asked: ParsedRequest, caller: Caller
    ) -> None:
        self.client = client
        self.request = request
        self.path = request.sent_as or request.path
        self.body = request.body
        self.asked = asked
        self.tier = tier = caller.tier
        self.tenant = caller.tenant
        self.view = RequestView(
            tier.name, tier.priority, asked.prompt_tokens, asked.lossy_ok, asked.pin, left_s=tier.ttft_s
        )
        """What routing reads of it, as it came."""
        self.prompt_s = 0.0
        """Seconds that its prompt takes, by which its place among those that wait goes."""
        self.phase = Phase.WAITING
        self.on_over: Callable[[Exchange], None] | None = None
        self.tried: Collection[str] = ()
        """Replicas that failed it."""
        self.link: Link | None = None
        self.failed_attempts = 0
        """Attempts in a row to continue that brought no byte."""
        self.quiet_since = self.not_before = 0.0
        """`quiet_since`: when its replica was last known to send something. `not_before`: no attempt to continue before
        this time."""
        self.record = Record(owner.now())
        self._owner = owner
        self._broken_at = 0.0
        most, choices = owner.limits.transcript_bytes, asked.choices
        self._transcript = Transcript(most) if choices == 1 else ManyTranscripts(most, choices)
        self._head: AnswerHead
        self._splitter: EventSplitter
        """Both from the first head that the client gets; continuations are made to fit it."""

    @property
    def over(self) -> bool:
        return self.phase is Phase.OVER

    # Attempts.

    def placed(self, replica_id: str, now: float) -> None:
        """An attempt begins; its link is still to come."""
        self.phase = Phase.RESUMING if self.phase is Phase.BROKEN else Phase.SENT
        self.quiet_since = now
        self.record.replica_id = replica_id
        self.record.attempts += 1

    def awaits(self, attempt: int) -> bool:
        """Whether the attempt of this number is still under way, and has brought nothing."""
        return self.record.attempts == attempt and self.phase.awaits_first_byte

    def send(self, link: Link, head_bytes: bytes) -> None:
        """Send the request, or the one for the rest of its answer, over `link`."""
        self.link = link
        # The client may have stopped reading while there was no link: without this the rest would pile up here.
        if self.client.paused:
            link.transport.pause_reading()
        link.begin(self, head_bytes, self.body, unchunk=self.request.http10)

    def unreached(self, why: str) -> None:
        """There is no link to the replica."""
        self._attempt_failed(why, Failure.AWAY)

    def lost(self, why: str) -> None:
        """The replica is given up from outside (dead, silent)."""
        self._drop_link()
        self.on_broken(why, untouched=False)

    def _attempt_failed(self, why: str, how: Failure) -> None:
        last = self.phase
        self.phase = Phase.BROKEN if last.begun else Phase.WAITING
        self._owner.failed(self, why, how, last)

    # The replica's side.

    def on_head(self, head: AnswerHead) -> None:
        if self.phase is Phase.RESUMING:
            # The client has a head already, and must not notice the seam.
            fits = head.chunked == self._head.chunked or self.request.http10
            if head.status != 200 or not head.stream or not fits:
                self._drop_link()
                how = Failure.AWAY if head.status in RETRIABLE else Failure.REFUSED
                self._attempt_failed(f"answered {head.status} to a continuation", how)
            return
        if head.status >= 400:
            # It does not take the router's key: no client can correct that, and the 401 would read as if theirs were
            # wrong.
            ours = head.status == 401 and not self._owner.passes_keys
            failure = Failure.REFUSED if ours else failure_of(head.status)
            if failure is not None and (ours or self._owner.elsewhere(self)):
                self._drop_link()
                self._attempt_failed(f"answered {head.status}", failure)
                return
        self._head = head
        self.record.stream = head.stream
        end = CHUNKED_EVENT_END if head.chunked and not self.request.http10 else EVENT_END
        self._splitter = EventSplitter(end if head.stream else b"", self._owner.limits.held_bytes)

    def on_bytes(self, data: bytes) -> None:
        splitter = self._splitter
        if splitter.passing and data.endswith(splitter.boundary):
            # `transcript.add`, without a call: every chunk of every stream comes through here.
            transcript = self._transcript
            transcript.pieces.append(data)
            transcript.size += len(data)
            if transcript.size > KEEP_BYTES:
                transcript.digest()
            self.client.transport.write(data)
        elif ready := splitter.feed(data):
            self._forward(ready)

    def on_end(self, data: bytes) -> None:
        self.link = None
        held = self._splitter.held
        self._forward(held + data if held else data)
        self._close(str(self._head.status))

    def on_broken(self, why: str, untouched: bool) -> None:
        self.link = None
        if self.phase.begun:
            rest = (
                self._transcript.continuation(self.request.sent_as or self.request.path, self.request.body)
                if self.continuable
                else None
            )
            if rest is None:
                self._break_off(f"the replica {why} in mid-stream")
                return
            self.path, self.body = CONTINUE_PATH, rest
            self._splitter.restart()
            if self.phase is Phase.FLOWING:
                self._broken_at = self._owner.now()
                # A continuation that fails before its first byte is still the same break.
                self.record.resumptions += 1
        self._attempt_failed(why, Failure.UNTOUCHED if untouched else Failure.BROKEN)

    @property
    def continuable(self) -> bool:
        """Whether the rest could come from elsewhere, as far as the client and the replica's chunks go."""
        streams = self.phase.begun and self.record.stream and self._splitter.aligned and not self.client.gone
        return streams and not self._transcript.finished and bool(self._transcript.emitted_field)

    # The client's side.

    def client_gone(self) -> None:
        if self.phase is Phase.OVER:
            return
        self._drop_link()
        self._end("client_gone")

    def pause(self) -> None:
        if self.link is not None:
            self.link.transport.pause_reading()

    def resume(self) -> None:
        if self.link is not None:
            # Silence while the client did not read was not the replica's.
            self.link.heard = True
            self.link.transport.resume_reading()

    def refuse(self, error: ApiError) -> None:
        """End it with an error: as the answer where nothing was sent, else as the end of the stream."""
        self._drop_link()
        self.record.refusal = error
        if self.phase.begun:
            self._break_off(error.message)
            return
        self._end(str(error.status))
        responses.refuse(self.client, self.request, error)

    def _forward(self, data: bytes) -> None:
        """Write it, behind the head if that has not gone yet."""
        if data:
            self._transcript.add(data)
        if self.phase is not Phase.FLOWING:
            last, self.phase = self.phase, Phase.FLOWING
            self.failed_attempts = 0
            now, pause_s = self._owner.now(), None
            if last is Phase.RESUMING:
                pause_s = now - self._broken_at
                self.record.pause = max(self.record.pause, pause_s)
            else:
                data = responses.head_for(self.request, self._head) + data
                self.record.first_byte = now
            self._owner.first_byte(self, well=self._head.status < 500, pause_s=pause_s)
        if data:
            self.client.write(data)

    # The end.

    def _break_off(self, why: str) -> None:
        """End a begun answer: an error event where the client can still read one, else a cut connection."""
        # Behind half an event, or within a JSON body, an error event would be read as content: only a cut tells.
        if not self.record.stream or not self._splitter.aligned or self.client.gone:
            self._end("broken")
            self.client.abort()
            return
        chunked = self._head.chunked and not self.request.http10
        data, whole = responses.ending(self._transcript, why, chunked=chunked)
        self.client.write(data)
        self._close(str(self._head.status) if whole else "broken")

    def _drop_link(self) -> None:
        link, self.link = self.link, None
        if link is not None:
            link.drop()

    def _close(self, status: str) -> None:
        """The end of an answer that the client has."""
        record = self.record
        tail = self._transcript.tail
        if self._head.status < 400:
            record.tokens, record.prompt_tokens, record.mode, record.busy = account_of(tail)
        else:
            record.reason = reason_of(tail)
        self._end(status)
        self.client.finished()

    def _end(self, status: str) -> None:
        last, self.phase = self.phase, Phase.OVER
        self.record.status = status
        self._owner.over(self, last)
        if self.on_over is not None:
            self.on_over(self)
