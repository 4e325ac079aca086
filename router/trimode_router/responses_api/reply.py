"""The client of a chat exchange that is in truth one of `/v1/responses`.

What the exchange writes, an HTTP answer in any framing, is read again here and told on as events or as a response. So
retries, resumption, tiers and accounts are those of chat completions, and these pay nothing for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import httptools
import msgspec

from trimode_router.http.client import ClientConnection
from trimode_router.http.outgoing import JSON, LAST_CHUNK, answer, chunk, connection_field, fields_bytes, status_line
from trimode_router.http.request import Request
from trimode_router.request.parse import CHAT_PATH
from trimode_router.responses_api.asked import Asked, param_here
from trimode_router.responses_api.events import Event, Translation, chunk_of

_FRAMING = frozenset((b"content-length", b"transfer-encoding", b"content-type", b"connection", b"keep-alive"))
_DATA = b"data:"
_DONE = b"[DONE]"
_decode = msgspec.json.Decoder().decode


def as_chat(request: Request, asked: Asked) -> Request:
    """The request that the exchange is given. It is a copy, since its connection is not the client's."""
    return replace(request, body=asked.chat, sent_as=CHAT_PATH, coding=b"", http10=False, keep=True)


class ResponsesReply:
    """Takes the place of the client's connection before an exchange, for one answer."""

    def __init__(self, client: ClientConnection, request: Request, asked: Asked, created: int) -> None:
        """`created`: Unix seconds, for servers whose chunks do not say."""
        self._client = client
        self._request = request
        self._asked = asked
        self._parser = httptools.HttpResponseParser(self)
        self._translation = Translation(asked.said_back, request.request_id.replace("-", "_"), created)
        self._fields: list[tuple[bytes, bytes]] = []
        self._body = b""
        self._streams = False
        self.transport = self

    # As the exchange sees it.

    @property
    def gone(self) -> bool:
        return self._client.gone

    @property
    def paused(self) -> bool:
        return self._client.paused

    def write(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def finished(self) -> None:
        request, translation, status = self._request, self._translation, self._parser.get_status_code()
        if self._streams:
            self._tell(translation.end())
            self._client.write(b"" if request.http10 else LAST_CHUNK)
            self._client.finished()
            return
        # A whole answer: a response, or an error in the request's own words.
        if status != 200:
            body = self._error()
        else:
            try:
                translation.take(chunk_of(_decode(self._body)))
            except (msgspec.DecodeError, AttributeError, TypeError):
                translation.problem = "the server sent what is no chat completion"
            translation.end()
            if translation.problem:
                error = {"message": translation.problem, "type": "server_error", "param": None, "code": "bad_answer"}
                status, body = 502, msgspec.json.encode({"error": error})
            else:
                body = msgspec.json.encode(translation.response())
        fields = [*self._fields, *connection_field(request.keep, request.http10)]
        self._client.write(answer(status, body, fields, content_type=JSON))
        self._client.finished()

    def abort(self) -> None:
        self._client.abort()

    # The parser's side.

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() not in _FRAMING:
            self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._streams = self._asked.stream and self._parser.get_status_code() == 200
        if self._streams:
            request = self._request
            if request.http10:
                request.keep = False  # it knows no chunks: the connection's end is the answer's
            fields = [(b"content-type", b"text/event-stream"), *self._fields]
            fields += [] if request.http10 else [(b"transfer-encoding", b"chunked")]
            fields += connection_field(request.keep, request.http10)
            self._client.write(status_line(200) + fields_bytes(fields) + b"\r\n")

    def on_body(self, data: bytes) -> None:
        self._body += data
        if not self._streams:
            return
        *lines, self._body = self._body.split(b"\n")
        events: list[Event] = []
        for line in lines:
            said = line[len(_DATA) :].strip()
            if not line.startswith(_DATA) or said == _DONE or self._translation.problem:
                continue
            try:
                events += self._translation.take(_decode(said))
            except (msgspec.DecodeError, AttributeError, TypeError):
                self._translation.problem = "the server sent what is no chunk of a chat completion"
        self._tell(events)

    # Inside.

    def _tell(self, events: Iterable[Event]) -> None:
        data = b"".join([b"event: %b\ndata: %b\n\n" % (e["type"].encode(), msgspec.json.encode(e)) for e in events])
        if data:
            self._client.write(data if self._request.http10 else chunk(data))

    def _error(self) -> bytes:
        try:
            said: Any = _decode(self._body)
            error = said["error"]
            param, message = error.get("param"), error["message"]
        except (msgspec.DecodeError, AttributeError, TypeError, KeyError):
            return self._body
        if isinstance(param, str) and isinstance(message, str):
            error["param"] = param_here(param, self._asked.origins)
            error["message"] = message.replace(param, error["param"], 1)
        return msgspec.json.encode(said)
