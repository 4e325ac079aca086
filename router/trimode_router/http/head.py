"""A replica's answer as its head announces it. [pure]"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from trimode_api.wire import REQUEST_ID_HEADER

EVENT_STREAM = b"text/event-stream"
_OWN = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"te", b"trailer", b"upgrade", b"date", b"server"),
        *(b"access-control-allow-origin", b"access-control-expose-headers", b"access-control-allow-credentials"),
        b"x-accel-buffering",
        REQUEST_ID_HEADER.encode(),
    )
)
"""Fields of a replica that concern its own connection, or that the router sets itself: twice
Access-Control-Allow-Origin is none to a browser."""


@dataclass(slots=True)
class AnswerHead:
    """Neither `length` nor `chunked`: the answer ends with the connection. `stream`: it is one of events."""

    status: int
    length: int | None = None
    chunked: bool = False
    stream: bool = False
    retry_after: bool = False
    """Whether it says when to come again."""
    coding: bytes = b""
    """The field that announces HTTP chunks, as a line; it is for clients that understand them."""
    passed: bytes = b""
    """The other fields that are the client's business, as lines."""

    @classmethod
    def of(cls, status: int, fields: Iterable[tuple[bytes, bytes]]) -> AnswerHead:
        """From fields that the parser has accepted."""
        head, passed = cls(status), []
        for name, value in fields:
            lowered = name.lower()
            if lowered in _OWN:
                continue
            line = b"%b: %b\r\n" % (name, value)
            if lowered == b"transfer-encoding":
                head.chunked, head.coding = value.lower().endswith(b"chunked"), head.coding + line
                continue
            if lowered == b"content-length":
                head.length = int(value) if value.isdigit() else head.length
            elif lowered == b"content-type":
                head.stream = value.startswith(EVENT_STREAM)
            elif lowered == b"retry-after":
                head.retry_after = True
            passed.append(line)
        head.passed = b"".join(passed)
        return head
