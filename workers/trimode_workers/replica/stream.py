"""Server-sent events straight to the socket.

Belongs here: the one write per event that 64 open streams can afford. aiohttp has sent the headers and will send the
end; in between, chunks of the body go to the transport without a coroutine each.
"""

from __future__ import annotations

import asyncio

from trimode_workers.openai.render import Chunks

HOLD_ABOVE_BYTES = 256 * 1024
"""A client this far behind gets its text in larger pieces later, so that its arrears stay bounded by the text."""


class EventStream:
    """Writes a stream's events in HTTP/1.1 chunks."""

    def __init__(self, transport: asyncio.Transport, chunks: Chunks) -> None:
        self._transport = transport
        self._chunks = chunks
        self._held: list[str] = []
        self._head = chunks.first()

    def text(self, text: str) -> None:
        """Send new text, or keep it while the client is far behind."""
        if self._held or self._transport.get_write_buffer_size() > HOLD_ABOVE_BYTES:
            self._held.append(text)
            if self._transport.get_write_buffer_size() > HOLD_ABOVE_BYTES:
                return
            text = self._take_held()
        self.write(self._chunks.text(text))

    def write(self, event: bytes) -> None:
        """Send one event, after the stream's head where that is not out yet."""
        if self._head:
            event, self._head = self._head + event, b""
        if not self._transport.is_closing():
            self._transport.write(b"%x\r\n%b\r\n" % (len(event), event))

    def end(self, last: bytes) -> None:
        """Send what is held, and the last event."""
        if self._held:
            self.write(self._chunks.text(self._take_held()))
        self.write(last)

    def _take_held(self) -> str:
        text, self._held = "".join(self._held), []
        return text
