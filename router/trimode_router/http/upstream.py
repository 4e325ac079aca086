"""Connections to one replica: kept, reused, and watched by a C parser while their bytes pass.

Belongs here: framing of answers and the life of a connection. What the bytes mean is the receiver's business.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol, cast

import httptools

HEAD_LIMIT = 64 * 1024
_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """A replica's answer so far. Neither `length` nor `chunked`: it ends with the connection."""

    status: int
    fields: tuple[tuple[bytes, bytes], ...]
    length: int | None
    chunked: bool

    def field(self, name: bytes) -> bytes:
        """The first field of this lower-case name, or nothing."""
        return next((value for key, value in self.fields if key.lower() == name), b"")


class Receiver(Protocol):
    """Takes one answer: `on_head`, any number of `on_bytes`, then `on_complete`; or `on_broken` at any time."""

    def on_head(self, head: AnswerHead) -> None: ...
    def on_bytes(self, data: bytes) -> None: ...
    def on_complete(self) -> None: ...
    def on_broken(self, why: str, untouched: bool) -> None:
        """`untouched`: a reused connection closed without a byte; the request may never have been seen."""


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
        "_begun", "_complete", "_fields", "_head", "_head_done", "_keep", "_parser", "_pool", "_receiver", "_reused",
        "_touched", "_unchunker", "_until_close", "heard", "in_body", "transport",
    )  # fmt: skip

    def __init__(self, pool: LinkPool) -> None:
        self._pool = pool
        self._receiver: Receiver | None = None
        self._reused = False
        self._reset()

    def _reset(self) -> None:
        self._parser: httptools.HttpResponseParser | None = None
        self._unchunker: _Unchunker | None = None
        self._head = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._head_done = self._complete = self._keep = self._touched = self._until_close = False
        self._begun = 0
        self.in_body = False
        self.heard = True

    def begin(self, receiver: Receiver, head: bytes, body: bytes, *, unchunk: bool) -> None:
        """Send a request; the answer goes to `receiver`."""
        self._reset()
        self._receiver = receiver
        if unchunk:
            self._unchunker = _Unchunker(self)
        self._parser = httptools.HttpResponseParser(self._unchunker or self)
        self.transport.write(head + body if len(body) < 16384 else head)
        if len(body) >= 16384:
            self.transport.write(body)

    def drop(self) -> None:
        """Forget the receiver and close at once: the replica sees its client leave."""
        self._receiver = None
        self._pool.forget(self)
        self.transport.abort()

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        receiver, parser = self._receiver, self._parser
        if receiver is None or parser is None:
            self.drop()  # a replica that speaks unasked can not be trusted with a next request
            return
        self.heard = self._touched = True
        try:
            parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._break(f"sent malformed HTTP: {error}")
            return
        if self._begun > 1:
            self._break("sent more than its answer")
        elif self.in_body:
            if self._complete or self._unchunker is not None:
                self._body(receiver, data)
            else:  # nearly every piece
                receiver.on_bytes(data)
        else:
            self._opening(receiver, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.forget(self)
        receiver = self._receiver
        if receiver is None:
            return
        if self._until_close and self.in_body and exc is None:
            self._receiver = None
            receiver.on_complete()
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
        self._keep = self._parser is not None and self._parser.should_keep_alive()

    # Inside.

    def _opening(self, receiver: Receiver, data: bytes) -> None:
        self._head += data
        if not self._head_done:
            if len(self._head) > HEAD_LIMIT:
                self._break(f"sent more than {HEAD_LIMIT} bytes of headers")
            return
        end = self._head.find(_END)
        if end < 0 or self._parser is None:
            self._break("sent headers without an end")
            return
        body, self._head = self._head[end + 4 :], b""
        head = self._answer_head(self._parser.get_status_code())
        if head.status < 200:
            self._break(f"sent an unasked {head.status}")
            return
        self._until_close = head.length is None and not head.chunked and not self._complete
        self.in_body = True
        receiver.on_head(head)
        if self._receiver is receiver and (body or self._complete):
            self._body(receiver, body)

    def _body(self, receiver: Receiver, data: bytes) -> None:
        if self._unchunker is not None:
            data = self._unchunker.take()
        if data:
            receiver.on_bytes(data)
        if self._complete and self._receiver is receiver:
            self._receiver = self._parser = None
            if self._keep:
                self._reused = True
                self._pool.keep(self)
            else:
                self.transport.close()
            receiver.on_complete()

    def _answer_head(self, status: int) -> AnswerHead:
        length, chunked = None, False
        for name, value in self._fields:
            lowered = name.lower()
            if lowered == b"content-length" and value.isdigit():
                length = int(value)
            elif lowered == b"transfer-encoding":
                chunked = value.lower().endswith(b"chunked")
        return AnswerHead(status, tuple(self._fields), length, chunked)

    def _break(self, why: str) -> None:
        receiver, self._receiver = self._receiver, None
        self._pool.forget(self)
        self.transport.abort()
        if receiver is not None:
            receiver.on_broken(why, untouched=self._reused and not self._touched)


class LinkPool:
    """Kept connections to one replica, the latest used first."""

    def __init__(self, url: str, host: str, port: int) -> None:
        self.url = url
        self.host = host
        self.port = port
        self._idle: list[Link] = []
        self._closed = False

    def take(self) -> Link | None:
        while self._idle:
            link = self._idle.pop()
            if not link.transport.is_closing():
                return link
        return None

    def keep(self, link: Link) -> None:
        if self._closed:
            link.transport.close()
        else:
            self._idle.append(link)

    def forget(self, link: Link) -> None:
        if link in self._idle:
            self._idle.remove(link)

    async def connect(self, timeout_s: float) -> Link:
        """A new connection. Raises OSError (TimeoutError included) when there is none in time."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout_s):
            _, link = await loop.create_connection(lambda: Link(self), self.host, self.port)
        return link

    def close(self) -> None:
        """Close what is idle; links in use close when they are done or dropped."""
        self._closed = True
        for link in self._idle:
            link.transport.close()
        self._idle.clear()
