"""Bytes of HTTP heads and small answers. [pure]"""

from __future__ import annotations

import json
from collections.abc import Iterable
from http import HTTPStatus

from trimode_api.errors import ApiError

Fields = Iterable[tuple[bytes, bytes]]

JSON = b"application/json"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class MethodNotAllowed(ApiError):
    """405, with what would be allowed (`GET, HEAD`)."""

    def __init__(self, method: str, path: str, allowed: str) -> None:
        super().__init__(405, f"{path} does not take {method}; allowed: {allowed}", code="method_not_allowed")
        self.allowed = allowed


class UnknownCoding(ApiError):
    """415, with the content codings that are understood."""

    def __init__(self, coding: str, accepted: str) -> None:
        message = f"Content-Encoding: {coding!r} is not understood; allowed: {accepted}"
        super().__init__(415, message, code="unsupported_content_encoding")
        self.accepted = accepted


def status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or f"HTTP/1.1 {status} Unknown\r\n".encode()


def fields_bytes(fields: Fields) -> bytes:
    return b"".join([b"%b: %b\r\n" % field for field in fields])


def connection_field(keep: bool, http10: bool) -> Fields:
    """The Connection field, where the version's default does not already say it."""
    if keep:
        return [(b"connection", b"keep-alive")] if http10 else []
    return [(b"connection", b"close")]


def answer(
    status: int,
    body: bytes,
    fields: Fields,
    *,
    content_type: bytes = JSON,
    bare: bool = False,
    added: bytes = b"",
) -> bytes:
    """A whole answer; `bare` leaves the body out, as for HEAD. `added`: more fields, as lines."""
    # RFC 9110, 8.6: a 204 has no Content-Length.
    about = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))] if status != 204 else []
    head = status_line(status) + fields_bytes([*about, *fields]) + added
    return head + b"\r\n" + (b"" if bare else body)


def error_fields(error: ApiError) -> list[tuple[bytes, bytes]]:
    """Fields that an error answer carries besides its body."""
    if isinstance(error, MethodNotAllowed):
        return [(b"allow", error.allowed.encode())]
    if isinstance(error, UnknownCoding):
        return [(b"accept-encoding", error.accepted.encode())]
    if error.retry_after_s is None:
        return []
    return [(b"retry-after", b"%d" % error.retry_after_s)]


def error_bytes(error: ApiError) -> bytes:
    """The body of an error answer, in OpenAI's shape."""
    return json.dumps(error.body(), ensure_ascii=False).encode()


def chunk(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(data: bytes) -> bytes:
    """One server-sent event."""
    return b"data: " + data + b"\n\n"
