"""One connection to a replica: reused, and watched by a C parser while its bytes pass.

What the bytes mean is the receiver's business.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

import httptools

from trimode_router.http.head import AnswerHead

HEAD_LIMIT = 64 * 1024
_END = b"\r\n\r\n"
_ONE_WRITE = 16 * 1024
"""Up to this size it is cheaper to copy a body behind its head than to write twice."""


class Receiver(Protocol):
    """Takes one answer: `on_head`, any number of `on_bytes`, then `on_end`; or `on_broken` at any time."""

    def on_head(self, head: AnswerHead) -> None: ...
    def on_bytes(self, data: bytes) -> None: ...
    def on_end(self, data: bytes) -> None:
        """The last bytes, or none."""

    def on_broken(self, why: str, untouched: bool) -> None:
        """`untouched`: a reused connection closed without a byte; the request may never have been seen."""


class Keeper(Protocol):
    """Where a link is kept between two answers."""

    def keep(self, link: Link) -> None: ...
    def forget(self, link: Link) -> None: ...


class _Unchunker:
    """Parser callbacks of a link whose receiver wants bodies without HTTP chunks (an HTTP/1.0 client's)."""

    def __init__(self, link: Link) -> None:
        self.pieces: list[bytes] = []
        self.on_message_begin = link.on_message_begin
        self.on_header = link.on_header
        self.on_headers_complete = link.on_headers_complete
        self.on_message_complete = link.on_message_complete

    def on_body(self, data: bytes) -> None:
        self.pieces.append(data)

    def take(self) -> bytes:
        data = b"".join(self.pieces)
        self.pieces.clear()
        return data


class Link(asyncio.Protocol):
    """One connection to a replica; serves one receiver at a time.

    There is no `on_body`: body bytes reach Python once, as the raw piece read from the socket, chunk framing included.
    """

    __slots__ = (
        "_begun", "_complete", "_fields", "_flows", "_head", "_head_done", "_in_body", "_keep", "_parser", "_receiver",
        "_reused", "_unchunker", "_until_close", "heard", "pool", "transport",
    )  # fmt: skip

    def __init__(self, pool: Keeper) -> None:
        self.pool = pool
        self.heard = True
        """Whether something came since the last `Dispatcher.watch`, which clears it."""
        self._receiver: Receiver | None = None
        self._reused = False
        self._parser: httptools.HttpResponseParser | None = None
        self._unchunker: _Unchunker | None = None

    def begin(self, receiver: Receiver, head: bytes, body: bytes, *, unchunk: bool) -> None:
        """Send a request; the answer goes to `receiver`."""
        self.heard = True
        self._receiver = receiver
        self._unchunker = _Unchunker(self) if unchunk else None
        self._parser = httptools.HttpResponseParser(self._unchunker or self)
        self._head = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._head_done = self._complete = self._keep = self._until_close = self._in_body = False
        self._flows = False  # within the body, and nothing of it needs a closer look
        self._begun = 0
        if len(body) < _ONE_WRITE:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)

    def drop(self) -> None:
        """Forget the receiver and close at once: the replica sees its client leave."""
        self._receiver = None
        self.pool.forget(self)
        self.transport.abort()

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        receiver, parser = self._receiver, self._parser
        if receiver is None or parser is None:
            # Bytes that no request asked for: the end of them could be taken for the next request's answer.
            self.drop()
            return
        self.heard = True
        try:
            parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._head += data
            self._break(f"sent malformed HTTP: {error}")
            return
        # Nearly every piece. `on_body` of the parser would copy each, and lose the chunks' framing that clients get.
        if self._flows:
            receiver.on_bytes(data)
        elif self._begun > 1:
            self._break("sent more than its answer")
        elif self._in_body:
            self._body(receiver, data)
        else:
            self._opening(receiver, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.pool.forget(self)
        receiver = self._receiver
        if receiver is None:
            return
        if self._until_close and self._in_body and exc is None:
            self._receiver = None
            receiver.on_end(b"")
            return
        self._break("reset the connection" if exc else "closed the connection")

    # The parser's side.

    def on_message_begin(self) -> None:
        self._begun += 1

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_done:
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        self._head_done = True

    def on_message_complete(self) -> None:
        self._complete = True
        self._flows = False
        self._keep = self._parser is not None and self._parser.should_keep_alive()

    # Inside.

    def _opening(self, receiver: Receiver, data: bytes) -> None:
        if self._head:
            data = self._head + data
        self._head = data
        if not self._head_done:
            if len(data) > HEAD_LIMIT:
                self._break(f"sent more than {HEAD_LIMIT} bytes of headers")
            return
        end = data.find(_END)
        if end < 0 or self._parser is None:
            self._break("sent headers without an end")
            return
        head = AnswerHead.of(self._parser.get_status_code(), self._fields)
        # Requests go out without `Expect`, so no 100 is due.
        if head.status < 200:
            self._break(f"sent an unasked {head.status}")
            return
        self._until_close = head.length is None and not head.chunked and not self._complete
        self._in_body, self._head = True, data[:end]
        receiver.on_head(head)
        if self._receiver is receiver:
            self._flows = not self._complete and self._unchunker is None
            if len(data) > end + len(_END) or self._complete:
                self._body(receiver, data[end + len(_END) :])

    def _body(self, receiver: Receiver, data: bytes) -> None:
        if self._unchunker is not None:
            data = self._unchunker.take()
        if not self._complete:
            if data:
                receiver.on_bytes(data)
            return
        self._receiver = self._parser = None
        if self._keep:
            self._reused = True
            # Before the receiver hears of the end: what waits in the queue is sent from there, and may use this
            # connection.
            self.pool.keep(self)
        else:
            self.transport.close()
        receiver.on_end(data)

    def _break(self, why: str) -> None:
        receiver, self._receiver = self._receiver, None
        self.pool.forget(self)
        self.transport.abort()
        if receiver is not None:
            receiver.on_broken(why, untouched=self._reused and not self._head)
