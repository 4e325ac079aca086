"""The HTTP edge, with raw sockets: framing, limits, order."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from structlog.testing import capture_logs

from trimode_router.http.limits import Limits

BODY = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}).encode()
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"


def statuses(answers: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d+) ", answers)]


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    """Status, head and body of one answer with a content-length."""
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        body = await reader.readexactly(int(length[1])) if length else b""
    return int(head[9:12]), head, body


MALFORMED = {
    "length and chunks": (POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunks and length": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400),
    "negative length": (POST + b"Content-Length: -1\r\n\r\n", 400),
    "signed length": (POST + b"Content-Length: +3\r\n\r\nabc", 400),
    "chunked not last": (POST + b"Transfer-Encoding: chunked, identity\r\n\r\nabc", 400),
    "unknown coding": (POST + b"Transfer-Encoding: gzip\r\n\r\nabc", 400),
    "space before colon": (POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    "bad chunk size": (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc", 400),
    "folded field": (GET + b"A: b\r\n c\r\n\r\n", 400),
    "bare newlines": (b"GET /healthz HTTP/1.1\nHost: x\n\n", 400),
    "no host": (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
    "two hosts": (GET + b"Host: y\r\n\r\n", 400),
    "nul in field": (GET + b"A: \x00\r\n\r\n", 400),
    "not http": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "http 2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "http 3": (b"GET /healthz HTTP/3.0\r\nHost: x\r\n\r\n", 400),
    "http 2 in the line": (b"GET /healthz HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    "upgrade with a body": (
        POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 25\r\n\r\nGET /healthz HTTP/1.1\r\n\r\n",
        400,
    ),
    "long target": (b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
    "long field": (GET + b"A: " + b"a" * 20000 + b"\r\n\r\n", 431),
    "many fields": (GET + b"".join(b"A%d: b\r\n" % i for i in range(3000)) + b"\r\n", 431),
    "unfinished long field": (GET + b"A: " + b"a" * 20000, 431),
    "announced body too long": (POST + b"Content-Length: 9000000\r\n\r\n", 413),
    "strange expectation": (POST + b"Expect: coffee\r\nContent-Length: 2\r\n\r\n{}", 417),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_malformed_requests_get_one_clear_answer_and_the_end(house: Any, name: str) -> None:
    data, status = MALFORMED[name]
    with capture_logs() as logs:
        answer = await house.exchange(data)
    assert statuses(answer) == [status]
    assert b"connection: close" in answer
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert error["type"] == "invalid_request_error" or status == 505
    assert error["message"]
    assert house.replicas[0].calls == []
    assert [(line["event"], line["status"], line["refusal"]) for line in logs] == [
        ("refused", str(status), error["code"])
    ]
    counted = f'trimode_router_rejections_total{{code="{error["code"]}"}} 1.0'
    assert counted in (await house.http.get("/metrics")).text


async def test_long_field_in_small_pieces(house: Any) -> None:
    reader, writer = await house.raw(GET + b"A: ")
    for _ in range(40):
        writer.write(b"a" * 1000)
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        assert statuses(await reader.read()) == [431]


async def test_chunked_body_beyond_the_limit(open_house: Any) -> None:
    house = await open_house(limits=Limits(body_bytes=1000))
    chunk = b"3e8\r\n" + b"a" * 1000 + b"\r\n"
    answer = await house.exchange(POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + chunk)
    assert statuses(answer) == [413]


async def test_chunked_request_body(house: Any) -> None:
    reader, writer = await house.raw(POST + b"Transfer-Encoding: chunked\r\n\r\n")
    for index in range(0, len(BODY), 7):
        piece = BODY[index : index + 7]
        writer.write(b"%x;ext=1\r\n%b\r\n" % (len(piece), piece))
    writer.write(b"0\r\nx-trimode-tier: nonsense\r\n\r\n")
    assert (await read_answer(reader))[0] == 200
    assert house.replicas[0].calls[0].body == BODY


async def test_byte_by_byte(house: Any) -> None:
    reader, writer = await house.raw()
    for byte in POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY:
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    assert (await read_answer(reader))[0] == 200


async def test_keep_alive_serves_many_requests_on_one_connection(house: Any) -> None:
    reader, writer = await house.raw()
    for _ in range(3):
        writer.write(POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
        status, head, _ = await read_answer(reader)
        assert status == 200
        assert b"connection:" not in head
    assert house.replicas[0].connections == 1


async def test_pipelined_answers_come_in_order(house: Any) -> None:
    one = POST + b"Content-Length: %d\r\nx-request-id: a\r\n\r\n" % len(BODY) + BODY
    two = GET + b"x-request-id: b\r\n\r\n"
    three = b"GET /nowhere HTTP/1.1\r\nHost: x\r\nx-request-id: c\r\nConnection: close\r\n\r\n"
    answer = await house.exchange(one + two + three)
    assert statuses(answer) == [200, 200, 404]
    assert re.findall(rb"x-request-id: (\w)", answer) == [b"a", b"b", b"c"]


async def test_pipelined_requests_wait_for_a_stream(house: Any) -> None:
    house.replicas[0].script = _stepwise
    body = json.dumps(json.loads(BODY) | {"stream": True}).encode()
    reader, writer = await house.raw(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    call = await house.replicas[0].next_call()
    writer.write(GET + b"\r\n" + GET + b"Connection: close\r\n\r\n")
    await house.until(lambda: all(connection.backlog for connection in house.router._connections))
    call.go.set()
    async with asyncio.timeout(5):
        answer = await reader.read()
    assert statuses(answer) == [200, 200, 200]
    assert answer.index(b"[DONE]") < answer.index(b"alive")


async def _stepwise(call: Any) -> None:
    await call.begin()
    await call.say("a")
    await call.go.wait()
    await call.end()


async def test_two_thousand_streams_at_once(open_house: Any) -> None:
    """All of them are open before the first one ends."""
    house = await open_house(max_running=2000)
    house.replicas[0].script = _stepwise
    body = json.dumps(json.loads(BODY) | {"stream": True}).encode()
    request = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    readers = [(await house.raw(request))[0] for _ in range(2000)]
    async with asyncio.timeout(60):
        calls = [await house.replicas[0].next_call() for _ in readers]
        for call in calls:
            call.go.set()
        for reader in readers:
            assert (await reader.readuntil(b"[DONE]")).startswith(b"HTTP/1.1 200")


async def test_a_thousand_pipelined_requests(house: Any) -> None:
    answer = await house.exchange((GET + b"\r\n") * 1000 + GET + b"Connection: close\r\n\r\n")
    assert statuses(answer) == [200] * 1001


async def test_garbage_behind_a_good_request(house: Any) -> None:
    answer = await house.exchange(GET + b"\r\n" + b"what is this\r\n\r\n")
    assert statuses(answer) == [200, 400]


async def test_expect_continue_invites_the_body(house: Any) -> None:
    reader, writer = await house.raw(POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY))
    async with asyncio.timeout(5):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(BODY)
    assert (await read_answer(reader))[0] == 200


async def test_expect_continue_is_not_given_where_the_answer_is_known(house: Any) -> None:
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    assert statuses(await house.exchange(head)) == [404]


async def test_http10_gets_a_plain_stream_that_ends_with_the_connection(house: Any) -> None:
    body = json.dumps(json.loads(BODY) | {"stream": True}).encode()
    head = b"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer = await house.exchange(head + body)
    top, _, rest = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in top
    assert b"connection: close" in top
    assert rest.startswith(b"data: {")
    assert rest.endswith(b"data: [DONE]\n\n")


async def test_http10_keep_alive(house: Any) -> None:
    reader, writer = await house.raw()
    for _ in range(2):
        writer.write(b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        status, head, _ = await read_answer(reader)
        assert status == 200
        assert b"connection: keep-alive" in head


async def test_upgrade_without_a_body_is_answered_plainly(house: Any) -> None:
    answer = await house.exchange(GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n")
    assert statuses(answer) == [200]


async def test_head_has_no_body(house: Any) -> None:
    answer = await house.exchange(b"HEAD /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert statuses(answer) == [200]
    assert answer.endswith(b"\r\n\r\n")
    assert b"content-length: 18" in answer


async def test_absolute_form(house: Any) -> None:
    answer = await house.exchange(b"GET http://x/healthz?a=b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert statuses(answer) == [200]


@pytest.mark.parametrize(
    ("sent", "state"),
    [(b"", None), (b"GET /heal", 408), (POST + b"Content-Length: 10\r\n\r\n{", 408), (GET + b"\r\n", 200)],
)
async def test_slow_clients_are_let_go(house: Any, sent: bytes, state: int | None) -> None:
    reader, _ = await house.raw(sent)
    await house.until(lambda: len(house.router._connections) == 1)
    if sent:
        await house.until(lambda: any(c.deadline for c in house.router._connections))
        await asyncio.sleep(0)
    house.pass_time(130)
    async with asyncio.timeout(5):
        answer = await reader.read()
    assert statuses(answer) == ([] if state is None else [state])
    late = 'trimode_router_rejections_total{code="request_timeout"} 1.0' in (await house.http.get("/metrics")).text
    assert late is (state == 408)


async def test_what_a_gateway_dialled_ahead_is_kept_as_long_as_what_it_used(house: Any) -> None:
    """Go's transport does so, keeps it for 90 s, and does not send a POST again that met a closed connection."""
    reader, writer = await house.raw()
    await house.until(lambda: len(house.router._connections) == 1)
    house.pass_time(95)
    writer.write(GET + b"\r\n")
    assert (await read_answer(reader))[0] == 200


async def test_a_trickle_does_not_push_the_deadline_out(house: Any) -> None:
    reader, writer = await house.raw(b"GET /healthz HTTP/1.1\r\n")
    for _ in range(11):
        writer.write(b"A: b\r\n")
        await asyncio.sleep(0)
        house.pass_time(1)
    async with asyncio.timeout(5):
        assert statuses(await reader.read()) == [408]


async def test_methods_and_paths(house: Any) -> None:
    response = await house.http.get("/v1/chat/completions")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    response = await house.http.post("/healthz")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")
    response = await house.http.get("/v1/nothing")
    assert response.status_code == 404
    assert response.json()["error"]["type"] == "not_found_error"


async def test_request_ids(house: Any) -> None:
    response = await house.http.get("/healthz", headers={"x-request-id": "mine-1"})
    assert response.headers["x-request-id"] == "mine-1"
    response = await house.http.get("/healthz", headers={"x-request-id": "bad id!"})
    assert response.headers["x-request-id"].startswith("req-")


async def test_a_fault_of_our_own_is_answered_and_costs_nobody_else(house: Any) -> None:
    rules, house.router.fleet.rules = house.router.fleet.rules, None
    response = await house.http.post("/v1/chat/completions", content=BODY)
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    house.router.fleet.rules = rules
    assert (await house.http.post("/v1/chat/completions", content=BODY)).status_code == 200
    assert not house.router.dispatcher.in_flight
