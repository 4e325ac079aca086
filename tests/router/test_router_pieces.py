"""However a replica's bytes are cut by the network, the client gets all of them, in order, by whole events."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trimode_lab.doubles.replica.replica import chunk
from trimode_router.fleet.policy import Tier
from trimode_router.http.limits import Limits
from trimode_router.http.request import Request
from trimode_router.http.upstream import Link
from trimode_router.request.event_splitter import CHUNKED_EVENT_END, cut
from trimode_router.request.exchange import Exchange
from trimode_router.request.parse import ParsedRequest

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

    def first_byte(self, _: Exchange, *, well: bool) -> None: ...
    def over(self, _: Exchange) -> None: ...


def told(pieces: list[bytes]) -> tuple[list[bytes], Exchange]:
    """What a client is written, for what is read from its replica."""
    replica, client = Wire(), Wire()
    any_client: Any = client
    any_desk: Any = ExchangeOwner()
    exchange = Exchange(
        any_client, REQUEST, ParsedRequest("m", True, 1, None, False, None), Tier("t", 0, 1, 1), any_desk
    )
    link = Link(replica)
    link.connection_made(replica)  # type: ignore[arg-type]
    exchange.awaits = True
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
def test_a_cut_loses_nothing(parts: list[bytes], most: int) -> None:
    data = b"".join(parts)
    ready, held, aligned = cut(data, CHUNKED_EVENT_END, most)
    assert ready + held == data
    assert aligned == ready.endswith(CHUNKED_EVENT_END)
    assert len(held) <= most or aligned


def test_the_last_events_and_the_end_are_one_write() -> None:
    written, _ = told([HEAD + BODY])
    assert len(written) == 1
