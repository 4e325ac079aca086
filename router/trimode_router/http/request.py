"""A client's request, once it is complete or known to be wrong, and the collecting of its head. [pure]"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from trimode_api.errors import ApiError
from trimode_api.wire import REQUEST_ID_HEADER, TIER_HEADER

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_TIER = TIER_HEADER.encode()
_ID = REQUEST_ID_HEADER.encode()
_BLANKS = 2048
PASSED = (b"traceparent", b"tracestate")
"""Fields of the client that travel on to the replica; its Authorization never does."""


@dataclass(slots=True)
class Request:
    """One request. `problem` set means: answer this error, then close."""

    method: str
    path: str
    query: str
    http10: bool
    keep: bool
    request_id: str
    tier: str | None
    passed: tuple[tuple[bytes, bytes], ...]
    body: bytes
    authorization: bytes | None = None
    problem: ApiError | None = None
    host: bytes = b""
    coding: bytes = b""
    """Content-Encoding of the body."""
    origin: bytes | None = None
    """Of the page that a browser asks for; None from any other client."""
    wants: tuple[bytes, bytes] = (b"", b"")
    """Method and fields that a browser asks about beforehand (Access-Control-Request-*)."""
    added: bytes = b""
    """Lines that the head of any answer to it gets."""
    sent_as: str = ""
    """The path that replicas are asked at, where the body was translated for it."""


_METHOD, _FIELDS = b"access-control-request-method", b"access-control-request-headers"
_KNOWN = frozenset(
    (
        *(b"host", b"content-length", b"transfer-encoding", b"expect", _TIER, _ID, b"authorization", *PASSED),
        *(b"content-encoding", b"origin", _METHOD, _FIELDS),
    )
)


class Head:
    """Collects one request's head, and notices what is wrong with it.

    Fields wait in `fields` until `read`: one look at all of them costs less than a look at each.
    """

    __slots__ = (
        "_limits", "_raw", "authorization", "coding", "codings", "expects", "fields", "host", "hosts", "length",
        "most", "origin", "passed", "problem", "request_id", "size", "tier", "url", "version", "wants",
    )  # fmt: skip

    def __init__(self, header_bytes: int, body_bytes: int, most: int) -> None:
        """`most`: bytes that the head can have at most, as no more have come; the caller adds what comes later."""
        self.most = most
        self._limits = (header_bytes, body_bytes)
        self.url = b""
        self.version = ""
        self.fields: list[tuple[bytes, bytes]] = []
        self.size = self._raw = self.hosts = 0
        self.length: int | None = None
        self.expects = self.codings = self.coding = self.host = b""
        self.origin: bytes | None = None
        self.wants = (b"", b"")
        self.tier: str | None = None
        self.authorization: bytes | None = None
        self.request_id: str | None = None
        self.passed: tuple[tuple[bytes, bytes], ...] = ()
        self.problem: ApiError | None = None

    @property
    def has_body(self) -> bool:
        return bool(self.codings) or bool(self.length)

    def add_url(self, part: bytes) -> None:
        self.url += part
        self.grow(len(part))

    def read(self) -> None:
        """Take in the fields that wait, their names in any case."""
        if self.most > self._limits[0]:
            self.grow(sum(len(name) + len(value) + 4 for name, value in self.fields))
        for name, value in self.fields:
            name = name.lower()
            if name not in _KNOWN:
                continue
            if name == b"host":
                self.hosts += 1
                self.host = value
            elif name == b"content-length":
                # The parser has not judged the value yet; it raises on anything but digits.
                if value.isdigit():
                    self.length = int(value[:20])
                    if self.length > self._limits[1]:
                        message = f"the request body is longer than {self._limits[1]} bytes"
                        self.fail(413, message, "body_too_large")
            elif name == b"authorization":
                self.authorization = value
            elif name == b"transfer-encoding":
                self.codings += b"," + value.lower()
            elif name == b"expect":
                self.expects = value.lower()
            elif name == _TIER:
                self.tier = value.decode("latin-1").strip()
            elif name == _ID:
                # It is repeated in heads and logs: nothing that ends a line, and nothing long.
                if _REQUEST_ID.fullmatch(value):
                    self.request_id = value.decode()
            elif name in PASSED:
                self.passed += ((name, value),)
            else:
                self._rare(name, value)
        self.fields = []

    def grow(self, count: int) -> None:
        """Count bytes of the head; too many are a problem."""
        self.size += count
        limit = self._limits[0]
        if self.size > limit:
            self.fail(431, f"the request's headers are longer than {limit} bytes", "headers_too_large")

    def feed(self, count: int) -> None:
        """Count bytes read while the head is unfinished: a field still growing is known to the parser only.

        Generously, as line ends and blanks are among them: where reads happen to be cut must not decide.
        """
        self._raw += count
        if self._raw > self._limits[0] + _BLANKS:
            self.grow(self._raw)

    def check(self, version: str) -> None:
        """At the end of the headers: what only the whole head can tell."""
        self.version = version
        self.read()
        if version not in ("1.0", "1.1"):
            self.fail(505, f"HTTP/{version} is not spoken here; use HTTP/1.1", "unsupported_version")
        elif self.hosts > 1 or (version == "1.1" and not self.hosts):
            self.fail(400, f"a request needs exactly one Host header, got {self.hosts}", "invalid_request")
        if self.codings:
            # RFC 9112, 6.1: what a body is wrapped in. The parser looks at the last coding alone.
            codings = [coding.strip() for coding in self.codings.split(b",") if coding.strip()]
            if version == "1.0":
                self.fail(400, "HTTP/1.0 has no Transfer-Encoding; send Content-Length", "invalid_request")
            elif codings[-1:] != [b"chunked"] or codings.count(b"chunked") > 1:
                self.fail(400, "Transfer-Encoding must end with chunked, and have it once", "invalid_request")
            elif codings != [b"chunked"]:
                got = b", ".join(codings)[:100].decode("latin-1")
                self.fail(501, f"Transfer-Encoding: only chunked is understood, got {got}", "unsupported_coding")
        if version == "1.0":
            self.expects = b""  # RFC 9110, 10.1.1: its clients would take the 100 for the answer
        elif self.expects not in (b"", b"100-continue"):
            self.fail(417, "only `Expect: 100-continue` is understood", "expectation_failed")

    def fail(self, status: int, message: str, code: str) -> None:
        """Note the first problem only: it is the cause of those after it."""
        if self.problem is None:
            self.problem = ApiError(status, message, code=code)

    def _rare(self, name: bytes, value: bytes) -> None:
        if name == b"content-encoding":
            self.coding = value.strip().lower()
        elif name == b"origin":
            self.origin = value
        elif name == _METHOD:
            self.wants = (value, self.wants[1])
        else:
            self.wants = (self.wants[0], value)


@lru_cache(maxsize=64)
def split_target(target: bytes) -> tuple[str, str]:
    """Path, percent-decoded and without a slash at its end, and query of a request target, in origin or absolute form.

    Clients write a model's name into a path with `%2F` for its slash, and lists with a slash behind them.
    """
    text = target.decode("latin-1")
    if not text.startswith("/") and "://" in text:
        _, _, rest = text.partition("://")
        text = "/" + rest.partition("/")[2]
    path, _, query = text.partition("?")
    if "%" in path:
        path = unquote_to_bytes(path).decode("utf-8", "replace")
    return path.rstrip("/") or path[:1], query
