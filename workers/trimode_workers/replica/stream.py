"""Server-sent events straight to the socket.

An event is never cut between two HTTP chunks, nor the end from its usage, so that a router may cut between chunks.
aiohttp has sent the headers and will send the end; in between, chunks of the body go to the transport without a
coroutine each, which 64 open streams could not afford.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from trimode_workers.openai.logprobs import Scored
from trimode_workers.openai.render import Chunks, Outcome
from trimode_workers.replica.generation import Held
from trimode_workers.text.answer import Delta

HOLD_ABOVE_BYTES = 256 * 1024
"""A client that has this many bytes unread gets its text later in larger pieces, so that what is buffered stays bounded
by the text itself."""


class EventStream:
    """Writes a stream's events in HTTP/1.1 chunks."""

    def __init__(self, transport: asyncio.Transport, chunks: Chunks, *, begun: bool = False) -> None:
        self._transport = transport
        self._chunks = chunks
        self._held = Held()
        self._head = b"" if begun else chunks.first()

    def show(self, delta: Delta, ids: Sequence[int], scored: Sequence[Scored] = ()) -> None:
        """Send what is new with the tokens since the last, or keep it while the client is far behind."""
        if self._held.delta or self._transport.get_write_buffer_size() > HOLD_ABOVE_BYTES:
            self._held.add(delta, ids, scored)
            if self._transport.get_write_buffer_size() > HOLD_ABOVE_BYTES:
                return
            held, self._held = self._held, Held()
            delta, ids, scored = held.delta, held.ids, held.scored
        self.write(self._event(delta, ids, scored))

    def write(self, event: bytes) -> None:
        """Send one event, after the stream's head where that is not out yet."""
        if self._head:
            event, self._head = self._head + event, b""
        if not self._transport.is_closing():
            # aiohttp's own write is a coroutine for each event, which 64 open streams cannot afford.
            self._transport.write(b"%x\r\n%b\r\n" % (len(event), event))

    def end(self, outcome: Outcome, total: Outcome | None) -> None:
        """Send what is held, and the end: of the stream with the account in `total`, None while other choices go on."""
        held, self._held = self._held, Held()
        delta, ids, scored = held.delta.plus(outcome.rest), held.ids, [*held.scored, *outcome.scored]
        end = self._chunks.finish(outcome) if total is None else self._chunks.last(outcome, total)
        self.write((self._event(delta, ids, scored) if delta or scored else b"") + end)

    def _event(self, delta: Delta, ids: Sequence[int], scored: Sequence[Scored]) -> bytes:
        if delta.calls or delta.reasoning:
            return self._chunks.mixed(delta, ids, scored)
        return self._chunks.text(delta.text, ids, scored)
