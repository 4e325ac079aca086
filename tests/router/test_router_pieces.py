"""However a replica's bytes are cut by the network, the client gets all of them, in order, by whole events."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode_lab.doubles.replica.replica import chunk
from trimode_router.fleet.policy import Tier
from trimode_router.http.limits import Limits
from trimode_router.http.request import Request
from trimode_router.http.upstream import Link
from trimode_router.request.event_splitter import CHUNKED_EVENT_END, EVENT_END, EventSplitter
from trimode_router.request.exchange import Exchange
from trimode_router.request.parse import ParsedRequest
from trimode_router.request.record import Caller, Phase

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
BODY = (
    b"".join(chunk(b'data: {"n":%d}\n\n' % number) for number in range(6)) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
)
REQUEST = Request("POST", "/v1/chat/completions", "", False, True, "id", None, (), b"{}")


class Wire:
    """A transport, a client and a keeper of links in one: collects what is written."""

    paused = gone = False

    def __init__(self) -> None:
        self.transport = self
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def keep(self, _: Link) -> None: ...
    def forget(self, _: Link) -> None: ...
    def finished(self) -> None: ...


class ExchangeOwner:
    """Nothing goes wrong here."""

    limits = Limits()
    passes_keys = False

    def now(self) -> float:
        return 0.0

    def first_byte(self, _: Exchange, *, well: bool, pause_s: float | None) -> None: ...
    def over(self, _: Exchange, last: Phase) -> None: ...


def told(pieces: list[bytes]) -> tuple[list[bytes], Exchange]:
    """What a client is written, for what is read from its replica."""
    replica, client = Wire(), Wire()
    any_client: Any = client
    any_owner: Any = ExchangeOwner()
    asked = ParsedRequest("m", True, 1, None, False, None)
    exchange = Exchange(any_owner, any_client, REQUEST, asked, Caller(Tier("t", 0, 1, 1)))
    link = Link(replica)
    link.connection_made(replica)  # type: ignore[arg-type]
    exchange.placed("r-1", 0.0)
    exchange.send(link, b"")
    for piece in pieces:
        link.data_received(piece)
    return client.written, exchange


@given(st.lists(st.integers(1, len(HEAD + BODY) - 1), max_size=12))
def test_all_bytes_arrive_in_order_and_by_whole_events(at: list[int]) -> None:
    whole = HEAD + BODY
    edges = [0, *sorted(set(at)), len(whole)]
    written, exchange = told([whole[start:end] for start, end in pairwise(edges)])
    assert b"".join(written).partition(b"\r\n\r\n")[2] == BODY
    assert exchange.over
    assert exchange.record.status == "200"
    assert all(piece.endswith(CHUNKED_EVENT_END) for piece in written[:-1])


@given(
    st.lists(st.sampled_from([b"data: x\n\n\r\n", b"5\r\n", b"da", b"\r\n", b"\n\n"]), max_size=8), st.integers(5, 40)
)
def test_a_splitter_loses_nothing(parts: list[bytes], most: int) -> None:
    splitter, out = EventSplitter(CHUNKED_EVENT_END, most), b""
    for taken, part in enumerate(parts, 1):
        ready = splitter.feed(part)
        out += ready
        assert out + splitter.held == b"".join(parts[:taken])
        assert splitter.aligned == out.endswith(CHUNKED_EVENT_END) or not ready
        assert splitter.passing == (splitter.aligned and not splitter.held)
        assert len(splitter.held) <= most or splitter.aligned


WHOLE, HALF = b"data: x\n\n", b"data: "


@pytest.mark.parametrize(
    ("boundary", "pieces", "out", "held", "aligned", "passing"),
    [
        (EVENT_END, [WHOLE], [WHOLE], b"", True, True),
        (EVENT_END, [WHOLE + WHOLE], [WHOLE + WHOLE], b"", True, True),
        (EVENT_END, [HALF], [b""], HALF, False, False),
        (EVENT_END, [HALF, b"y\n\n"], [b"", HALF + b"y\n\n"], b"", True, True),
        (EVENT_END, [WHOLE + HALF], [WHOLE], HALF, True, False),
        (EVENT_END, [WHOLE, HALF], [WHOLE, b""], HALF, True, False),
        (EVENT_END, [HALF, b"z" * 30], [b"", HALF + b"z" * 30], b"", False, False),
        (EVENT_END, [b"z" * 30, WHOLE], [b"z" * 30, WHOLE], b"", True, True),
        (CHUNKED_EVENT_END, [b"9\r\n", WHOLE + b"\r\n"], [b"", b"9\r\n" + WHOLE + b"\r\n"], b"", True, True),
        (CHUNKED_EVENT_END, [b"6\r\n" + HALF + b"\r\n"], [b"6\r\n" + HALF + b"\r\n"], b"", False, False),
        (b"", [b"{", b"}"], [b"", b""], b"{}", False, False),
        (b"", [b"{", b"z" * 20], [b"", b"{" + b"z" * 20], b"", False, True),
    ],
    ids=[
        "one event", "two events", "half an event", "an event in two pieces", "an event and a half",
        "half an event behind a whole one", "more than may be held", "a whole event behind a torn one",
        "a chunk's size alone", "a chunk that does not end an event", "no stream", "a large answer that is no stream",
    ],
)  # fmt: skip
def test_what_a_splitter_gives_out(
    boundary: bytes, pieces: list[bytes], out: list[bytes], held: bytes, aligned: bool, passing: bool
) -> None:
    splitter = EventSplitter(boundary, 20)
    assert [splitter.feed(piece) for piece in pieces] == out
    assert (splitter.held, splitter.aligned, splitter.passing) == (held, aligned, passing)


def test_a_splitter_that_restarts_forgets_what_never_gets_its_end() -> None:
    splitter = EventSplitter(EVENT_END, 20)
    splitter.feed(WHOLE + HALF)
    splitter.restart()
    assert (splitter.held, splitter.aligned, splitter.passing) == (b"", True, False)
    assert splitter.feed(WHOLE) == WHOLE


def test_the_last_events_and_the_end_are_one_write() -> None:
    written, _ = told([HEAD + BODY])
    assert len(written) == 1
