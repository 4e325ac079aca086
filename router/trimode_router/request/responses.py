"""What the router itself writes to clients around a replica's bytes: heads, error answers, ends of broken streams."""

from __future__ import annotations

from trimode_api.errors import ApiError
from trimode_api.wire import REQUEST_ID_HEADER
from trimode_router.http.client import Client
from trimode_router.http.head import AnswerHead
from trimode_router.http.outgoing import (
    LAST_CHUNK,
    answer,
    chunk,
    connection_field,
    error_bytes,
    error_fields,
    event,
    fields_bytes,
    status_line,
)
from trimode_router.http.request import Request
from trimode_router.request.transcript import Transcript

_ID = REQUEST_ID_HEADER.encode()
UNBUFFERED = b"x-accel-buffering: no\r\n"
"""nginx, and what is built on it, keeps a stream back until a buffer is full unless told so."""
_DONE = b"data: [DONE]"
_ERROR = b'data: {"error"'


def head_for(request: Request, framing: AnswerHead) -> bytes:
    """The client's head for a replica's answer; clears `request.keep` where only the end of the connection tells the
    client where this answer ends."""
    if framing.length is None and (request.http10 or not framing.chunked):
        request.keep = False
    own = fields_bytes(connection_field(request.keep, request.http10)) if not request.keep or request.http10 else b""
    if framing.status in (429, 503) and not framing.retry_after:
        own += b"retry-after: 1\r\n"
    if framing.stream:
        own += UNBUFFERED
    # HTTP/1.0 has no chunks: its clients get the bare body, and the connection's end as the answer's.
    coding = b"" if request.http10 else framing.coding
    line, request_id = status_line(framing.status), request.request_id.encode()
    return b"%b%b%b%b: %b\r\n%b%b\r\n" % (line, framing.passed, coding, _ID, request_id, request.added, own)


def refuse(client: Client, request: Request, error: ApiError) -> None:
    """A whole error answer to a request that no exchange serves (any longer)."""
    fields = [
        (_ID, request.request_id.encode()),
        *error_fields(error),
        *connection_field(request.keep, request.http10),
    ]
    body, bare = error_bytes(error), request.method == "HEAD"
    client.write(answer(error.status, body, fields, bare=bare, added=request.added))
    client.finished()


def ending(transcript: Transcript, why: str, *, chunked: bool) -> tuple[bytes, bool]:
    """What a client that has `transcript` still needs for a proper end of its stream; whether the answer is whole then.

    `why` goes into the error event of one that is not.
    """
    tail = transcript.tail
    data, whole = b"", _DONE in tail
    if not whole and transcript.finished:  # nothing but the end mark is missing
        data, whole = _DONE + b"\n\n", True
    elif not whole and _ERROR not in tail:  # a replica that could still speak has said why
        data = event(error_bytes(ApiError(502, why, code="stream_broken")))
    if chunked:
        data = (chunk(data) if data else b"") + LAST_CHUNK
    return data, whole
