"""The data path as clients see it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from trimode_lab.doubles.replica.replica import chunk
from trimode_router.http.limits import Limits

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
STREAM = CHAT | {"stream": True}


def contents(text: str) -> list[str]:
    events = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
    return [json.loads(e)["choices"][0]["delta"].get("content", "") for e in events if e != "[DONE]"]


def posted(body: bytes) -> bytes:
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


async def test_whole_answer_passes_unchanged(house: Any) -> None:
    response = await house.http.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"] == "t0 t1 t2 "
    assert response.headers["x-request-id"].startswith("req-")
    assert response.headers["content-type"] == "application/json"


async def test_text_completions(house: Any) -> None:
    response = await house.http.post("/v1/completions", json={"model": "tiny", "prompt": "hi", "max_tokens": 2})
    assert response.json()["choices"][0]["text"] == "t0 t1 "
    assert house.replicas[0].calls[0].path == "/v1/completions"


async def test_stream_passes_unchanged(house: Any) -> None:
    response = await house.http.post("/v1/chat/completions", json=STREAM)
    assert "".join(contents(response.text)) == "t0 t1 t2 "
    assert response.text.endswith("data: [DONE]\n\n")
    assert response.headers["content-type"] == "text/event-stream"


async def test_what_reaches_the_replica(house: Any) -> None:
    body = json.dumps(CHAT | {"unknown": [1, None], "temperature": 0.5}, indent=3).encode()
    headers = {
        "Authorization": "Bearer client-secret",
        "x-trimode-tier": "premium",
        "x-request-id": "abc",
        "traceparent": "00-1-2-03",
        "x-other": "dropped",
    }
    await house.http.post("/v1/chat/completions?x=y", content=body, headers=headers)
    call = house.replicas[0].calls[0]
    assert call.body == body
    headers_sent = dict(call.headers)
    left_ms = int(headers_sent.pop("x-trimode-first-token-left"))
    assert 500 - 100_000 < left_ms <= 500, "the objective of premium, less its wait"
    assert headers_sent == {
        "host": f"127.0.0.1:{house.replicas[0].port}",
        "authorization": "Bearer fleet-token",
        "content-type": "application/json",
        "content-length": str(len(body)),
        "x-trimode-tier": "premium",
        "x-trimode-tier-rules": "priority=10;tpot=8",
        "x-request-id": "abc",
        "traceparent": "00-1-2-03",
    }


async def test_no_tier_is_the_lowest_priority(house: Any) -> None:
    await house.http.post("/v1/chat/completions", json=CHAT)
    assert house.replicas[0].calls[0].headers["x-trimode-tier"] == "standard"


async def test_first_token_arrives_before_the_second_exists(house: Any) -> None:
    async def script(call: Any) -> None:
        await call.begin()
        await call.say("first")
        await call.go.wait()
        await call.end()

    house.replicas[0].script = script
    async with house.http.stream("POST", "/v1/chat/completions", json=STREAM) as response:
        lines = response.aiter_lines()
        assert "first" in await anext(lines)
        house.replicas[0].calls[0].go.set()
        rest = [line async for line in lines]
    assert rest[-2] == "data: [DONE]"


async def test_a_client_that_leaves_cancels_its_replica(house: Any) -> None:
    async def script(call: Any) -> None:
        await call.begin()
        await call.say("first")
        await call.go.wait()

    house.replicas[0].script = script
    async with house.http.stream("POST", "/v1/chat/completions", json=STREAM) as response:
        await anext(response.aiter_lines())
    async with asyncio.timeout(5):
        await house.replicas[0].calls[0].gone.wait()
    await house.until(lambda: not house.router.dispatcher.in_flight)
    assert house.router.fleet.get("r1").in_flight == 0


async def test_a_client_that_leaves_before_the_first_byte_cancels_too(house: Any) -> None:
    async def script(call: Any) -> None:
        await call.go.wait()

    house.replicas[0].script = script
    body = json.dumps(STREAM).encode()
    _, writer = await house.raw(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    writer.write(body)
    call = await house.replicas[0].next_call()
    writer.close()
    async with asyncio.timeout(5):
        await call.gone.wait()
    await house.until(lambda: not house.router.dispatcher.in_flight)
    assert house.router.fleet.get("r1").queued_prompt_tokens == 0


async def test_a_slow_client_pauses_its_replica_and_nobody_else(open_house: Any) -> None:
    house = await open_house(max_running=8)
    blocked = asyncio.Event()

    async def flood(call: Any) -> None:
        if call.json["max_tokens"] == 1:
            await call.begin()
            await call.end()
            return
        await call.begin()
        for index in range(2000):
            if index == 1999:
                blocked.set()
            await call.say("x" * 16000)
        await call.end()

    house.replicas[0].script = flood
    body = json.dumps(STREAM | {"max_tokens": 2}).encode()
    reader, _ = await house.raw(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )
    await house.until(lambda: any(connection.paused for connection in house.router._connections))
    for _ in range(5):
        response = await house.http.post("/v1/chat/completions", json=STREAM | {"max_tokens": 1})
        assert response.status_code == 200
    assert not blocked.is_set()
    (slow,) = [connection for connection in house.router._connections if connection.paused]
    assert slow.transport.get_write_buffer_size() < 1_000_000
    total = 0
    async with asyncio.timeout(20):
        while not (data := await reader.read(1 << 20)).endswith(b"0\r\n\r\n"):
            total += len(data)
    assert total > 2000 * 16000
    assert blocked.is_set()


async def test_a_client_that_never_reads_is_dropped(house: Any) -> None:
    async def flood(call: Any) -> None:
        await call.begin()
        while True:
            await call.say("x" * 16000)

    house.replicas[0].script = flood
    body = json.dumps(STREAM).encode()
    await house.raw(posted(body))
    call = await house.replicas[0].next_call()
    await house.until(lambda: any(connection.paused for connection in house.router._connections))
    house.pass_time(121)
    async with asyncio.timeout(5):
        await call.gone.wait()


async def test_events_torn_across_packets_reach_the_client_whole(house: Any) -> None:
    """What the client has is always whole events, so that a stream can be ended or continued cleanly."""

    async def script(call: Any) -> None:
        await call.begin()
        data = chunk(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n')
        await call.raw(data + data[:20])
        await call.go.wait()
        await call.raw(data[20:])
        await call.end()

    house.replicas[0].script = script
    body = json.dumps(STREAM).encode()
    reader, _ = await house.raw(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )
    async with asyncio.timeout(5):
        await reader.readuntil(b"\r\n\r\n")
        piece = await reader.read(65536)
    assert piece.endswith(b"\n\n\r\n")
    house.replicas[0].calls[0].go.set()
    async with asyncio.timeout(5):
        rest = await reader.readuntil(b"0\r\n\r\n")
    assert rest.count(b'"content":"a"') == 1


async def test_an_event_in_two_halves_stays_in_order(house: Any) -> None:
    """In mid-stream, behind whole events that passed at once."""
    whole = [chunk(b'data: {"choices":[{"delta":{"content":"%d"}}]}\n\n' % number) for number in range(4)]

    async def script(call: Any) -> None:
        await call.begin()
        for part in (whole[0], whole[1], whole[2][:20], whole[2][20:], whole[3]):
            await call.raw(part)
            await asyncio.sleep(0.02)  # each a read of its own
        await call.end()

    house.replicas[0].script = script
    response = await house.http.post("/v1/chat/completions", json=STREAM)
    assert "".join(contents(response.text)) == "0123"


async def test_a_server_whose_chunks_are_not_events_is_not_held_up(house: Any) -> None:
    async def script(call: Any) -> None:
        await call.begin()
        await call.raw(chunk(b'data: {"choices":[{"delta":{"cont'))
        await call.go.wait()
        await call.raw(chunk(b'ent":"a"}}]}\n\n') + b"0\r\n\r\n")

    house.replicas[0].script = script
    async with house.http.stream("POST", "/v1/chat/completions", json=STREAM) as response:
        pieces = response.aiter_bytes()
        first = await anext(pieces)
        assert first.endswith(b"cont")
        house.replicas[0].calls[0].go.set()
        rest = b"".join([piece async for piece in pieces])
    assert contents((first + rest).decode()) == ["a"]


async def test_a_stream_that_ends_with_its_connection(house: Any) -> None:
    async def script(call: Any) -> None:
        await call.raw(b'HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: {"a":1}\n\n')
        await call.raw(b"data: [DONE]\n\n")
        call.close()

    house.replicas[0].script = script
    response = await house.http.post("/v1/chat/completions", json=STREAM)
    assert response.text == 'data: {"a":1}\n\ndata: [DONE]\n\n'
    assert response.headers["connection"] == "close"


async def test_errors_of_the_replica_pass(house: Any) -> None:
    async def script(call: Any) -> None:
        error = {"message": "hi is too long", "type": "invalid_request_error", "code": "context_length_exceeded"}
        await call.answer({"error": error}, status=400)

    house.replicas[0].script = script
    with capture_logs() as logs:
        response = await house.http.post("/v1/chat/completions", json=STREAM)
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "hi is too long"
    (line,) = logs
    assert (line["status"], line["replica"], line["refusal"]) == ("400", "r1", "context_length_exceeded")
    assert "hi is" not in str(line)


async def test_large_bodies_both_ways(open_house: Any) -> None:
    house = await open_house(limits=Limits())
    text = "y" * 3_000_000

    async def script(call: Any) -> None:
        await call.answer({"echo": call.json["messages"][0]["content"]})

    house.replicas[0].script = script
    body = CHAT | {"messages": [{"role": "user", "content": text}]}
    response = await house.http.post("/v1/chat/completions", json=body)
    assert response.json()["echo"] == text


BAD_BODIES = {
    "not json": (b"{", 400, None, "not valid JSON"),
    "not utf-8": (b'{"model": "\xff"}', 400, None, ""),
    "a list": (b"[]", 400, None, "must be an object"),
    "no model": (b'{"messages": []}', 400, "model", "is required"),
    "wrong type": (b'{"model": 3, "messages": []}', 400, "model", "expected str, got int"),
    "no messages": (b'{"model": "tiny"}', 400, "messages", "is required"),
    "messages not a list": (b'{"model": "tiny", "messages": "hi"}', 400, "messages", "must be a list"),
    "negative": (b'{"model": "tiny", "messages": [], "max_tokens": -3}', 400, "max_tokens", "at least 1, got -3"),
    "quality": (b'{"model": "tiny", "messages": [], "quality": "good"}', 400, "quality", "lossless, lossy-ok"),
    "mode": (
        b'{"model": "tiny", "messages": [], "trimode": {"mode": "Fast"}}',
        400,
        "trimode.mode",
        "AR, SelfSpeculation, ",
    ),
    "block": (
        b'{"model": "tiny", "messages": [], "trimode": {"mode": "SelfSpeculation", "blockLength": 64}}',
        400,
        "trimode",
        "AR, S8, S16, S32",
    ),
    "no mode": (b'{"model": "tiny", "messages": [], "trimode": {"blockLength": 8}}', 400, "trimode.mode", "required"),
    "unknown model": (b'{"model": "gpt", "messages": []}', 404, "model", "served here: tiny"),
    "empty": (b"", 400, None, "not valid JSON"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
async def test_bad_bodies_get_a_clear_error(house: Any, name: str) -> None:
    body, status, param, message = BAD_BODIES[name]
    response = await house.http.post("/v1/chat/completions", content=body)
    assert response.status_code == status
    error = response.json()["error"]
    assert error["param"] == param
    assert message in error["message"]
    assert house.replicas[0].calls == []


async def test_unknown_tier_names_the_known(house: Any) -> None:
    response = await house.http.post("/v1/chat/completions", json=CHAT, headers={"x-trimode-tier": "gold"})
    assert response.status_code == 400
    assert "premium, standard" in response.json()["error"]["message"]


async def test_unknown_model_has_openais_code(house: Any) -> None:
    response = await house.http.post("/v1/chat/completions", json=CHAT | {"model": "x"})
    assert response.json()["error"]["code"] == "model_not_found"


async def test_models(house: Any) -> None:
    listed = (await house.http.get("/v1/models")).json()
    assert [model["id"] for model in listed["data"]] == ["tiny"]
    assert (await house.http.get("/v1/models/tiny")).json()["id"] == "tiny"
    missing = await house.http.get("/v1/models/other")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"


async def test_connections_that_nobody_needs_any_longer_are_let_go(open_house: Any) -> None:
    house = await open_house(max_running=16)
    (replica,) = house.replicas

    async def script(call: Any) -> None:
        await call.go.wait()
        await call.answer({"usage": {"completion_tokens": 1}})

    replica.script = script
    requests = [asyncio.ensure_future(house.http.post("/v1/chat/completions", json=CHAT)) for _ in range(8)]
    for _ in requests:
        (await replica.next_call()).go.set()
    assert all(response.status_code == 200 for response in await asyncio.gather(*requests))
    (pool,) = house.router.dispatcher._connections._pools.values()
    kept = []
    for _ in range(6):
        kept.append(len(pool._idle))
        house.pass_time(1)
    assert kept == [8, 8, 4, 2, 1, 0]
    again = asyncio.ensure_future(house.http.post("/v1/chat/completions", json=CHAT))
    (await replica.next_call()).go.set()
    assert (await again).status_code == 200
