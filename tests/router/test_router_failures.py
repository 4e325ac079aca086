"""Replicas that die, hang, lie or answer garbage."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest

from trimode_lab.doubles.replica.replica import FakeReplica, chunk, polite
from trimode_router.http.limits import Limits

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
STREAM = CHAT | {"stream": True}


async def _reset(call: Any) -> None:
    call.reset()


async def _close(call: Any) -> None:
    call.close()


async def _garbage(call: Any) -> None:
    await call.raw(b"\x00\x01 this is no HTTP\r\n\r\n")


async def _head_then_reset(call: Any) -> None:
    await call.begin()
    call.reset()


async def _half_a_head(call: Any) -> None:
    await call.raw(b"HTTP/1.1 200 OK\r\ncontent-ty")
    call.close()


async def _half_a_json(call: Any) -> None:
    await call.raw(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"a"')
    call.close()


async def _too_much(call: Any) -> None:
    await call.raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}{}{}{}")


async def _draining(call: Any) -> None:
    await call.answer({"error": {"message": "draining"}}, status=503)


async def _endless_head(call: Any) -> None:
    await call.raw(b"HTTP/1.1 200 OK\r\n" + b"a: " + b"b" * 200_000)


async def _unasked(call: Any) -> None:
    await call.raw(b"HTTP/1.1 100 Continue\r\n\r\n")


BEFORE_THE_FIRST_BYTE = [
    _reset, _close, _garbage, _head_then_reset, _half_a_head, _half_a_json, _too_much, _draining, _endless_head,
    _unasked,
]  # fmt: skip


@pytest.mark.parametrize("script", BEFORE_THE_FIRST_BYTE, ids=lambda script: script.__name__)
@pytest.mark.parametrize("stream", [True, False])
async def test_failures_before_the_first_byte_are_retried_elsewhere(open_house: Any, script: Any, stream: bool) -> None:
    house = await open_house(replicas=2)
    bad, good = house.replicas
    # The good one looks busier, so the bad one is asked first.
    await house.report(good.report(running=3))
    bad.script = script
    response = await house.http.post("/v1/chat/completions", json=CHAT | {"stream": stream})
    assert response.status_code == 200
    assert "t0 " in response.text
    assert (len(bad.calls), len(good.calls)) == (1, 1)
    assert bad.calls[0].body == good.calls[0].body
    metrics = (await house.http.get("/metrics")).text
    assert "trimode_router_retries_total 1.0" in metrics


async def test_a_replica_that_can_not_be_reached(open_house: Any) -> None:
    house = await open_house(replicas=1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        await house.report(house.replicas[0].report(running=3))
        await house.report(FakeReplica(replica_id="gone").report(url=url))
        response = await house.http.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 200


async def test_replicas_that_can_not_be_reached_spend_no_attempts(open_house: Any) -> None:
    """None of them saw the request, so however many are away, it is no reason to give it up."""
    house = await open_house(replicas=1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        await house.report(house.replicas[0].report(running=3))
        for number in range(6):
            await house.report(FakeReplica(replica_id=f"gone{number}").report(url=url))
        response = await house.http.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 200
    assert len(house.replicas[0].calls) == 1


async def test_one_replica_failing_every_time_ends_in_a_clear_error(house: Any) -> None:
    house.replicas[0].script = _reset
    response = await house.http.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert "r1" in response.json()["error"]["message"]
    assert len(house.replicas[0].calls) == 1


async def test_attempts_are_bounded(open_house: Any) -> None:
    house = await open_house(replicas=5)
    for replica in house.replicas:
        replica.script = _reset
    response = await house.http.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 502
    assert sum(len(replica.calls) for replica in house.replicas) == 3


async def test_a_kept_connection_that_died_is_replaced_on_the_same_replica(house: Any) -> None:
    """The request may never have been seen: the only replica gets it again."""
    replica = house.replicas[0]
    await house.http.post("/v1/chat/completions", json=CHAT)
    seen = 0

    async def die_once(call: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == 1:
            call.close()
        else:
            await polite(call)

    replica.script = die_once
    response = await house.http.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 200
    assert seen == 2


async def test_a_failing_replica_is_passed_over_for_a_moment(open_house: Any) -> None:
    house = await open_house(replicas=2)
    bad, good = house.replicas
    await house.report(good.report(running=2))
    bad.script = _reset
    for _ in range(3):
        assert (await house.http.post("/v1/chat/completions", json=CHAT)).status_code == 200
    assert len(bad.calls) == 1
    house.pass_time(0.3)
    bad.script = polite
    assert (await house.http.post("/v1/chat/completions", json=CHAT)).status_code == 200
    assert len(bad.calls) == 2


async def test_a_replica_that_dies_in_mid_stream_ends_the_stream_with_an_error_event(house: Any) -> None:
    async def script(call: Any) -> None:
        await call.begin()
        await call.say("one")
        await call.go.wait()
        call.reset()

    house.replicas[0].script = script
    async with house.http.stream("POST", "/v1/chat/completions", json=STREAM) as response:
        lines = response.aiter_lines()
        assert "one" in await anext(lines)
        house.replicas[0].calls[0].go.set()
        rest = [line async for line in lines if line]
    (event,) = rest
    error = json.loads(event.removeprefix("data: "))["error"]
    assert error["type"] == "server_error"
    assert error["code"] == "stream_broken"
    # The client's connection is still good.
    house.replicas[0].script = polite
    assert (await house.http.post("/v1/chat/completions", json=STREAM)).status_code == 200
    assert 'status="broken"' in (await house.http.get("/metrics")).text


async def test_a_replica_that_dies_within_an_event_ends_the_stream_cleanly_too(house: Any) -> None:
    async def script(call: Any) -> None:
        await call.begin()
        await call.say("one")
        await call.raw(chunk(b"data: torn event\n\n")[:9])
        await call.go.wait()
        call.reset()

    house.replicas[0].script = script
    async with house.http.stream("POST", "/v1/chat/completions", json=STREAM) as response:
        lines = response.aiter_lines()
        assert "one" in await anext(lines)
        house.replicas[0].calls[0].go.set()
        rest = [line async for line in lines if line]
    assert [json.loads(line[6:])["error"]["code"] for line in rest] == ["stream_broken"]


async def test_garbage_in_mid_stream(house: Any) -> None:
    async def script(call: Any) -> None:
        await call.begin()
        await call.say("one")
        await call.go.wait()
        await call.raw(b"zz not a chunk size\r\n")
        await call.go.wait()

    house.replicas[0].script = script
    async with house.http.stream("POST", "/v1/chat/completions", json=STREAM) as response:
        lines = response.aiter_lines()
        await anext(lines)
        house.replicas[0].calls[0].go.set()
        rest = [line async for line in lines if line]
    assert "stream_broken" in rest[0]
    assert "zz" not in rest[0]


async def test_death_after_done_is_a_whole_answer(house: Any) -> None:
    async def script(call: Any) -> None:
        await call.begin()
        await call.say("one")
        await call.event("[DONE]")
        call.reset()

    house.replicas[0].script = script
    response = await house.http.post("/v1/chat/completions", json=STREAM)
    assert response.text.endswith("data: [DONE]\n\n")
    assert "error" not in response.text


async def test_a_silent_replica_is_given_up_before_the_first_byte(open_house: Any) -> None:
    house = await open_house(replicas=2)
    hung, good = house.replicas
    await house.report(good.report(running=3))

    async def hang(call: Any) -> None:
        await call.go.wait()

    hung.script = hang
    request = asyncio.ensure_future(house.http.post("/v1/chat/completions", json=CHAT))
    call = await hung.next_call()
    house.clock.value += 9
    await house.report(good.report())
    house.pass_time(2)
    response = await request
    assert response.status_code == 200
    assert len(good.calls) == 1
    async with asyncio.timeout(5):
        await call.gone.wait()


async def test_a_silent_replica_is_given_up_in_mid_stream(house: Any) -> None:
    async def script(call: Any) -> None:
        await call.begin()
        await call.say("one")
        await call.go.wait()

    house.replicas[0].script = script
    async with house.http.stream("POST", "/v1/chat/completions", json=STREAM) as response:
        lines = response.aiter_lines()
        await anext(lines)
        house.pass_time(11)
        rest = [line async for line in lines if line]
    assert "stopped reporting" in rest[0]


async def test_a_link_without_a_byte_for_long_is_broken(open_house: Any) -> None:
    house = await open_house(limits=Limits(upstream_idle_seconds=5))

    async def script(call: Any) -> None:
        await call.begin()
        await call.say("one")
        await call.go.wait()

    house.replicas[0].script = script
    async with house.http.stream("POST", "/v1/chat/completions", json=STREAM) as response:
        lines = response.aiter_lines()
        await anext(lines)
        house.pass_time(1)  # it was heard until now
        for _ in range(3):
            house.clock.value += 2
            await house.report(house.replicas[0].report())
            house.pass_time(0)
        rest = [line async for line in lines if line]
    assert "fell silent" in rest[0]


async def test_all_replicas_gone_and_back(house: Any) -> None:
    replica = house.replicas[0]
    house.pass_time(11)
    response = await house.http.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1
    assert response.json()["error"]["type"] == "server_error"
    assert (await house.http.get("/readyz")).status_code == 503
    await house.report(replica.report())
    assert (await house.http.post("/v1/chat/completions", json=CHAT)).status_code == 200
    assert (await house.http.get("/readyz")).status_code == 200


async def test_a_replica_that_speaks_unasked_loses_its_connection(house: Any) -> None:
    async def script(call: Any) -> None:
        await polite(call)
        await call.go.wait()
        await call.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await call.gone.wait()

    replica = house.replicas[0]
    replica.script = script
    await house.http.post("/v1/chat/completions", json=CHAT)
    replica.calls[0].go.set()
    async with asyncio.timeout(5):
        await replica.calls[0].gone.wait()
    replica.script = polite
    response = await house.http.post("/v1/chat/completions", json=CHAT)
    assert response.json()["choices"][0]["message"]["content"] == "t0 t1 t2 "
    assert replica.connections == 2


async def test_an_error_event_of_the_replica_is_not_repeated(house: Any) -> None:
    async def script(call: Any) -> None:
        await call.begin()
        await call.say("one")
        await call.event({"error": {"message": "the engine ended", "type": "server_error"}})
        call.close()

    house.replicas[0].script = script
    response = await house.http.post("/v1/chat/completions", json=STREAM)
    events = [line for line in response.text.split("\n") if line]
    assert len(events) == 2
    assert "the engine ended" in events[1]
    assert 'status="broken"' in (await house.http.get("/metrics")).text


async def test_a_replica_with_another_token_is_the_fleets_fault_not_the_clients(open_house: Any) -> None:
    house = await open_house(replicas=1)

    async def script(call: Any) -> None:
        await call.answer({"error": {"message": "the fleet's token is wrong"}}, status=401)

    house.replicas[0].script = script
    response = await house.http.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 503
    assert "answered 401" in response.json()["error"]["message"]
