"""What the router itself writes to clients around a replica's bytes.

Belongs here: heads of spliced answers, error answers, and what can be read off an answer's end.
"""

from __future__ import annotations

import re

from trimode_api.errors import ApiError
from trimode_api.wire import REQUEST_ID_HEADER
from trimode_router.http.client import ClientConnection
from trimode_router.http.outgoing import answer, connection_field, error_bytes, error_fields, head
from trimode_router.http.request import Request
from trimode_router.http.upstream import AnswerHead

_ID = REQUEST_ID_HEADER.encode()
_USAGE = re.compile(rb'"completion_tokens"\s*:\s*(\d+)')
_OWN = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"te", b"trailer", b"upgrade", b"date", b"server", _ID)
)
"""Fields of a replica that concern its own connection, or that the router sets itself."""


def head_for(request: Request, framing: AnswerHead) -> bytes:
    """The client's head for a replica's answer; clears `request.keep` where only the end of the connection tells the
    client where this answer ends."""
    if framing.length is None and (request.http10 or not framing.chunked):
        request.keep = False
    fields = [field for field in framing.fields if field[0].lower() not in _OWN]
    if request.http10:
        fields = [field for field in fields if field[0].lower() != b"transfer-encoding"]
    if framing.status in (429, 503) and not framing.field(b"retry-after"):
        fields.append((b"retry-after", b"1"))
    fields.append((_ID, request.request_id.encode()))
    fields.extend(connection_field(request.keep, request.http10))
    return head(framing.status, fields)


def refuse(client: ClientConnection, request: Request, error: ApiError) -> None:
    """A whole error answer to a request that no exchange serves (any longer)."""
    fields = [
        (_ID, request.request_id.encode()),
        *error_fields(error),
        *connection_field(request.keep, request.http10),
    ]
    client.write(answer(error.status, error_bytes(error), fields, bare=request.method == "HEAD"))
    client.finished()


def output_tokens(tail: bytes) -> int | None:
    """Tokens of an answer, from the usage at its end."""
    found = _USAGE.findall(tail)
    return int(found[-1]) if found else None
