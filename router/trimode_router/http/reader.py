"""From bytes of a client to its requests: the parser's callbacks, and the limits on what it is fed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum

import httptools

from trimode_api.errors import ApiError
from trimode_router.http.limits import Limits
from trimode_router.http.request import Head, Request, split_target

Refuse = Callable[[str, str], ApiError | None]
"""(method, path) -> the error a request would get for any body; asked before `100 Continue` is sent."""


class Phase(Enum):
    """Where in a request the input stands."""

    IDLE = 0
    HEAD = 1
    BODY = 2


class _WrongError(Exception):
    """A request is complete, and wrong."""


class RequestReader:
    """Fills `ready`. After a request that can not be read the reader is `deaf`: that request is its last."""

    __slots__ = (
        "_body", "_head", "_limits", "_new_id", "_parser", "_piece", "_refuse", "_size", "deaf", "owes_continue",
        "phase", "ready",
    )  # fmt: skip

    def __init__(self, limits: Limits, new_id: Callable[[], str], refuse: Refuse) -> None:
        self._limits = limits
        self._new_id = new_id
        self._refuse = refuse
        self._parser = httptools.HttpRequestParser(self)
        self._head: Head | None = None
        self._body: list[bytes] = []
        self._size = self._piece = 0
        self.ready: deque[Request] = deque()
        self.phase = Phase.IDLE
        self.deaf = False
        self.owes_continue = False
        """The request being read waits for `100 Continue` before it sends its body."""

    def feed(self, data: bytes) -> None:
        """Take in bytes as they come; a piece may hold part of a request, or many."""
        before = len(self.ready)
        self._piece = len(data)
        if self._head is not None:
            self._head.most += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # noted in on_message_complete
        except httptools.HttpParserError as error:
            if self._head is not None and self._head.problem is not None:
                self.fail(self._head.problem)
                return
            text = str(error)
            self.fail(ApiError(400, f"malformed HTTP request: {text[:1].lower()}{text[1:]}", code="invalid_request"))
            return
        head = self._head
        if head is None:
            return
        if self.phase is Phase.HEAD and before == len(self.ready):
            head.feed(len(data))
        if head.problem is not None:
            self.fail(head.problem)

    def fail(self, problem: ApiError) -> None:
        """The rest of the input is meaningless: what is whole is ready, then comes this error, then nothing."""
        if self.deaf:
            return
        head = self._head or Head(0, 0, 0)
        head.problem = problem
        self.ready.append(self._request(head, False, b""))
        self.deaf = True

    # Called by the parser.

    def on_message_begin(self) -> None:
        self._head = Head(self._limits.header_bytes, self._limits.body_bytes, self._piece)
        self.phase = Phase.HEAD
        self._body.clear()
        self._size = 0

    def on_url(self, url: bytes) -> None:
        if self._head is not None:
            self._head.add_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        head = self._head
        if head is None:
            return
        if self.phase is Phase.HEAD:
            head.fields.append((name, value))
        else:
            head.grow(len(name) + len(value) + 4)  # a trailer: counted, never believed

    def on_headers_complete(self) -> None:
        head = self._head
        if head is None:
            return
        head.check(self._parser.get_http_version())
        self.phase = Phase.BODY
        if head.expects and head.problem is None:
            head.problem = self._refuse(self._parser.get_method().decode(), split_target(head.url)[0])
            self.owes_continue = head.problem is None

    def on_body(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= self._limits.body_bytes:
            self._body.append(data)
        elif self._head is not None:
            self._body.clear()
            message = f"the request body is longer than {self._limits.body_bytes} bytes"
            self._head.fail(413, message, "body_too_large")

    def on_message_complete(self) -> None:
        head = self._head
        self.owes_continue = False
        if head is None or self.deaf:
            return
        if head.problem is not None:
            # Ends the parser: where another request followed in the same read, its answer went out as this one's.
            raise _WrongError
        keep = self._parser.should_keep_alive()
        if self._parser.should_upgrade():
            # The parser stops here whether or not a body follows: what follows can not be told apart.
            if head.has_body:
                head.fail(400, "protocol upgrades are not supported", "upgrade_not_supported")
                return
            self.deaf, keep = True, False
        self.ready.append(self._request(head, keep, b"".join(self._body)))
        self._body.clear()
        self._head = None
        self.phase = Phase.IDLE

    def _request(self, head: Head, keep: bool, body: bytes) -> Request:
        if head.fields:
            head.read()
        path, query = split_target(head.url)
        return Request(
            method=self._parser.get_method().decode() if head.url else "",
            path=path,
            query=query,
            http10=head.url != b"" and (head.version or self._parser.get_http_version()) == "1.0",
            keep=keep,
            request_id=head.request_id or self._new_id(),
            tier=head.tier,
            passed=head.passed,
            body=body,
            authorization=head.authorization,
            problem=head.problem,
            host=head.host,
            coding=head.coding,
            origin=head.origin,
            wants=head.wants,
        )
