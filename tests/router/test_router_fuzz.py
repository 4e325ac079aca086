"""Arbitrary bytes at both edges: no crash, no hang, no smuggling, a correct status each."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trimode_lab.doubles.replica.replica import Call, chat_chunk, chunk, polite
from trimode_router.http.limits import Limits

FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
BODY = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}).encode()
SMUGGLED = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Request-Id: smuggled\r\nContent-Length: 0\r\n\r\n"
LAST = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) [A-Za-z -]+\r\n")
_KNOWN = {100, 200, 400, 404, 405, 408, 411, 413, 414, 417, 431, 502, 503, 505}

# The client's edge.

LINES = st.sampled_from(
    (
        b"POST /v1/chat/completions HTTP/1.1", b"POST /v1/chat/completions HTTP/1.0", b"GET /healthz HTTP/1.1",
        b"GET  /healthz HTTP/1.1", b"GET /healthz HTTP/9.9", b"GET /healthz", b"get /healthz HTTP/1.1", b"\x00\xff",
        b"POST http://x/v1/chat/completions HTTP/1.1", b"CONNECT x:1 HTTP/1.1", b"OPTIONS * HTTP/1.1",
    )
)  # fmt: skip
FIELDS = st.sampled_from(
    (
        b"Host: x", b"Host: x", b"Host: x", b"Host: y", b"Content-Length: %d" % len(BODY), b"Content-Length: 0",
        b"Content-Length: 0x5", b"Content-Length: 5, 5", b"Content-Length: +%d" % len(BODY), b"Content-Length:",
        b"content-length:\t%d" % len(BODY), b"Content-Length: 99999999999999999999999", b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: Chunked", b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: xchunked", b"Transfer-Encoding:\x0bchunked", b"Transfer_Encoding: chunked",
        b"Transfer-Encoding : chunked", b" Transfer-Encoding: chunked", b"Connection: close", b"Connection: keep-alive",
        b"Connection: upgrade", b"Upgrade: h2c", b"Expect: 100-continue", b"Expect: 100-Continue", b"Expect: tea",
        b"X-Request-Id: a\rb", b"X: " + b"y" * 3000, b": nameless", b"nocolon", b"X: \x00", b"X: \xff\xfe",
        b"x-trimode-tier: premium", b"x-trimode-tier: gold",
    )
)  # fmt: skip
BODIES = st.sampled_from(
    (
        b"", BODY, BODY + SMUGGLED, b"0\r\n\r\n" + SMUGGLED, b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
        b"%x;a=b\r\n%b\r\n0\r\nx: y\r\n\r\n" % (len(BODY), BODY), b"fffffffffffffffff\r\n", b"-1\r\n",
        b"5\nabcde\n0\n\n",
        b"0x5\r\nabcde\r\n", b"5 \r\nabcde\r\n0\r\n\r\n", b'{"model": 3}', b'{"model": "tiny"', b"\xff" * 40,
    )
)  # fmt: skip
ENDS = st.sampled_from((b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"))


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    end = draw(ENDS)
    head = end.join([draw(LINES), *draw(st.lists(FIELDS, max_size=6))])
    data = head + end + end + draw(BODIES)
    if draw(st.booleans()):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=4)) + data[at + draw(st.integers(0, 3)) :]
    return data


@FUZZ
@given(st.lists(requests(), min_size=1, max_size=3), st.lists(st.integers(0, 3000), max_size=4))
async def test_whatever_a_client_sends(house: Any, pieces: list[bytes], cuts: list[int]) -> None:
    replica = house.replicas[0]
    replica.calls.clear()
    data = b"".join(pieces)
    reader, writer = await house.raw()
    parts = [data[start:end] for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True)]
    for part in (*parts, LAST):
        if not writer.is_closing():  # as the router does after a request that said so
            writer.write(part)
            await asyncio.sleep(0)
    answer = await _all_of(reader, writer)
    statuses = [int(status) for status in _STATUS.findall(answer)]
    assert set(statuses) <= _KNOWN, statuses
    assert statuses  # the last request at least, or the error that made it meaningless
    assert len(replica.calls) <= data.count(b"/v1/chat/completions")
    for call in replica.calls:
        assert call.headers.get("x-request-id") != "smuggled"  # it has no body, so no replica should ever see it
        assert json.loads(call.body)
    if _ambiguous(data):
        assert all(call.body in data for call in replica.calls)
    assert (await house.http.get("/healthz")).status_code == 200
    assert house.router.dispatcher.in_flight == {}


async def _all_of(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Until the router closes; where it waits for more of a body, the client closes first."""
    answer = b""
    async with asyncio.timeout(5):
        try:
            async with asyncio.timeout(0.15):
                while piece := await reader.read(65536):
                    answer += piece
        except TimeoutError:
            answer = answer or b"HTTP/1.1 100 Continue\r\n"
            writer.write_eof()
            await reader.read()
        except ConnectionError:
            # Bytes behind a request that ends the connection bring a reset. What came ahead of it is here all the same,
            # only that the reader tells of the reset first.
            answer += bytes(reader._buffer)  # type: ignore[attr-defined]
    return answer


def _ambiguous(data: bytes) -> bool:
    lowered = data.lower()
    return b"content-length" in lowered and b"transfer" in lowered


async def test_both_lengths_never_reach_a_replica(house: Any) -> None:
    """Every order, case and spelling of two framings in one request."""
    lengths = [b"Content-Length: %d" % len(BODY), b"content-length:%d" % len(BODY), b"Content-Length: 0"]
    codings = [
        b"Transfer-Encoding: chunked", b"transfer-encoding:chunked", b"Transfer-Encoding: identity, chunked",
        b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        b"Transfer-Encoding: \tchunked", b"Transfer-Encoding: xchunked", b"Transfer-Encoding:\r\n chunked",
    ]  # fmt: skip
    for length in lengths:
        for coding in codings:
            for fields in ((length, coding), (coding, length)):
                data = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n" + b"\r\n".join(fields) + b"\r\n\r\n"
                answer = await house.exchange(data + b"0\r\n\r\n" + SMUGGLED)
                assert _STATUS.findall(answer) == [b"400"], data
    assert house.replicas[0].calls == []


# The replica's edge.

_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_EVENT = chunk(b"data: " + json.dumps(chat_chunk({"content": "word "})).encode() + b"\n\n")
_DONE = chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
_WHOLE = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n{"choices": []}'
ANSWERS = st.sampled_from(
    (
        _STREAM + _EVENT * 3 + _DONE,
        _STREAM + _DONE,
        _STREAM.replace(b"chunked", b"gzip, chunked") + _EVENT + _DONE,
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + b"data: x\n\n" * 5,
        _WHOLE,
        _WHOLE + _WHOLE,
        _WHOLE.replace(b"15", b"15\r\ncontent-length: 16"),
        _WHOLE.replace(b"content-length: 15", b"content-length: 15\r\ntransfer-encoding: chunked"),
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/0.9 200 OK\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
    )
)


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    data = draw(ANSWERS)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=6)) + data[at + draw(st.integers(0, 6)) :]
    return data


@FUZZ
@given(answers(), st.lists(st.integers(0, 600), max_size=3), st.booleans())
async def test_whatever_a_replica_answers(house: Any, data: bytes, cuts: list[int], stream: bool) -> None:
    replica = house.replicas[0]

    async def script(call: Call) -> None:
        for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True):
            await call.raw(data[start:end])
            await asyncio.sleep(0)
        call.close()

    replica.script = script
    body = json.dumps(json.loads(BODY) | {"stream": stream}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(
        body
    )
    reader, _ = await house.raw(head + body)
    async with asyncio.timeout(5):
        try:
            answer = await reader.read()
        except ConnectionError:
            answer = b""  # cut, as it should be where an answer could not be told to its end
    assert not answer or _STATUS.match(answer), answer[:100]
    replica.script = polite
    house.clock.value += 10  # whatever it failed, it may be asked again
    await house.report(replica.report())
    assert (await house.http.post("/v1/chat/completions", content=BODY)).status_code == 200
    assert house.router.dispatcher.in_flight == {}


async def test_a_trickle_of_headers_is_cut_off(open_house: Any) -> None:
    house = await open_house(limits=Limits(header_seconds=5))
    reader, writer = await house.raw(b"GET /healthz HTTP/1.1\r\n")
    for index in range(6):
        writer.write(b"X%d: y\r\n" % index)
        await asyncio.sleep(0.01)
        house.pass_time(1)
    async with asyncio.timeout(5):
        assert _STATUS.findall(await reader.read()) == [b"408"]
