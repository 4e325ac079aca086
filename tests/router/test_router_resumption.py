"""Streams that break off and go on from another replica: the odd cases, with replicas that do as told.

The real engine's side of it, with real kills, is in `test_resumption_real`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from trimode_api.wire import CONTINUE_PATH
from trimode_lab.doubles.replica.replica import Call, FakeReplica, chunk
from trimode_lab.doubles.replica.script import ids_of, storyteller, text_of
from trimode_router.http.limits import Limits

PATH = "/v1/chat/completions"
COUNT = 8


def ask(prompt: str = "p", **more: Any) -> dict[str, Any]:
    return {
        "model": "tiny",
        "stream": True,
        "max_tokens": COUNT,
        "messages": [{"role": "user", "content": prompt}],
        **more,
    }


class Breaker:
    """Tells the story up to `after` tokens, then waits for `call.go` and does `deed`; continuations likewise."""

    def __init__(self, deed: Any, after: int = 3, *, role: bool = True) -> None:
        self.deed, self.after, self.role = deed, after, role

    async def __call__(self, call: Call) -> None:
        asked = call.json
        begun = len(asked["emitted"]) if call.path == CONTINUE_PATH else 0
        prompt = (asked["request"] if begun else asked)["messages"][-1]["content"]
        await call.begin()
        for index in range(begun, begun + self.after):
            await call.say(text_of(prompt, index, index + 1), ids_of(prompt, index, index + 1))
        await call.go.wait()
        await self.deed(call)


async def reset(call: Call) -> None:
    call.reset()


async def close(call: Call) -> None:
    call.close()


async def garbage(call: Call) -> None:
    await call.raw(b"zz this is no chunk size\r\n")
    await call.gone.wait()


async def torn(call: Call) -> None:
    whole = chunk(b"data: " + json.dumps({"choices": []}).encode() + b"\n\n")
    await call.raw(whole[: len(whole) // 2])
    call.reset()


async def only_the_next_size(call: Call) -> None:
    await call.raw(b"1a3\r\n")
    await asyncio.sleep(0.05)
    call.reset()


DEEDS = [reset, close, garbage, torn, only_the_next_size]


async def read(response: Any) -> AsyncIterator[Any]:
    async for line in response.aiter_lines():
        if line:
            yield line.removeprefix("data: ")


async def heard(house: Any, body: dict[str, Any], breaks: list[FakeReplica]) -> list[Any]:
    """All events of a stream; once each of `breaks` has begun, it is told to do its deed."""
    tasks = [asyncio.ensure_future(_go(replica)) for replica in breaks]
    async with asyncio.timeout(10), house.http.stream("POST", PATH, json=body) as response:
        assert response.status_code == 200
        events = [event async for event in read(response)]
    for task in tasks:
        await task
    return events


async def _go(replica: FakeReplica) -> None:
    call = await replica.next_call()
    await asyncio.sleep(0.05)
    call.go.set()


def text(events: list[Any]) -> str:
    parsed = [json.loads(event) for event in events if event != "[DONE]"]
    return "".join(c["choices"][0]["delta"].get("content", "") for c in parsed if c.get("choices"))


async def pair(open_house: Any, **more: Any) -> tuple[Any, FakeReplica, FakeReplica]:
    """A house with two storytellers; the first is asked first."""
    house = await open_house(replicas=2, script=storyteller(0), **more)
    first, second = house.replicas
    await house.report(second.report(running=3))
    return house, first, second


@pytest.mark.parametrize("deed", DEEDS, ids=lambda deed: deed.__name__)
async def test_a_broken_stream_goes_on_where_it_was(open_house: Any, deed: Any) -> None:
    house, bad, good = await pair(open_house)
    bad.script = Breaker(deed)
    events = await heard(house, ask(), [bad])
    assert text(events) == text_of("p", 0, COUNT)
    assert events[-1] == "[DONE]"
    parsed = [json.loads(event) for event in events[:-1]]
    assert len({each["id"] for each in parsed}) == 1
    assert parsed[-1]["usage"]["completion_tokens"] == COUNT
    assert not any("role" in each["choices"][0]["delta"] for each in parsed[1:])
    (call,) = good.calls
    assert call.path == CONTINUE_PATH
    assert call.headers["authorization"] == "Bearer fleet-token"
    assert call.json["request"] == ask()
    assert call.json["emitted"] == ids_of("p", 0, 3)
    metrics = (await house.http.get("/metrics")).text
    assert "trimode_router_resumption_seconds_count 1.0" in metrics
    assert 'trimode_router_requests_total{status="200",tier="standard"} 1.0' in metrics
    assert house.router.dispatcher.in_flight == {}


async def test_text_completions_too(open_house: Any) -> None:
    house, bad, good = await pair(open_house)
    bad.script = Breaker(reset)

    async def begin(call: Call) -> None:
        await call.begin()
        await call.say("one ", [7])
        await call.go.wait()
        call.reset()

    async def rest(call: Call) -> None:
        assert (call.json["path"], call.json["emitted"]) == ("/v1/completions", [7])
        await call.begin()
        await call.end(2)

    bad.script, good.script = begin, rest
    going = asyncio.ensure_future(_go(bad))
    response = await house.http.post("/v1/completions", json={"model": "tiny", "prompt": "x", "stream": True})
    await going
    assert response.text.endswith("data: [DONE]\n\n")
    assert "error" not in response.text


async def test_a_stream_of_several_choices_goes_on_too(open_house: Any) -> None:
    """One choice had its end, one is in mid-sentence, one has not begun."""
    house, bad, good = await pair(open_house)

    def said(index: int, text: str, ids: list[int]) -> dict[str, Any]:
        choices = [{"index": index, "delta": {"content": text}, "finish_reason": None}]
        return {"id": "chat-1", "created": 1, "choices": choices, "trimode": {"ids": ids, "choice": index}}

    async def begin(call: Call) -> None:
        await call.begin()
        for part in (said(0, "a", [1]), said(2, "c", [31, 32]), said(0, "b", [2])):
            await call.event(json.dumps(part, separators=(",", ":")))
        end = {"id": "chat-1", "choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
        mark = {"choice": 0, "ended": "length", "tokens": 2}
        await call.event(json.dumps(end | {"trimode": mark}, separators=(",", ":")))
        await call.go.wait()
        call.reset()

    async def rest(call: Call) -> None:
        assert call.json["choices"] == [
            {"emitted": [1, 2], "ended": "length", "tokens": 2},
            {"emitted": []},
            {"emitted": [31, 32]},
        ]
        await call.begin()
        await call.event(said(1, "B", [21]))
        await call.end(5)

    bad.script, good.script = begin, rest
    events = await heard(house, ask(n=3), [bad])
    assert text(events) == "acbB"
    assert events[-1] == "[DONE]"
    assert not any("error" in event for event in events)


async def test_several_choices_of_an_engine_that_does_not_mark_them_end_with_an_error(open_house: Any) -> None:
    house, bad, good = await pair(open_house)
    bad.script = Breaker(reset)
    events = await heard(house, ask(n=2), [bad])
    assert json.loads(events[-1])["error"]["code"] == "stream_broken"
    assert not good.calls


async def test_a_stream_may_break_again_and_again(open_house: Any) -> None:
    house = await open_house(replicas=4, script=storyteller(0))
    for replica in house.replicas[:3]:
        replica.script = Breaker(reset, after=2)
    last = house.replicas[3]
    await house.report(last.report(running=3))
    events = await heard(house, ask(), house.replicas[:3])
    assert text(events) == text_of("p", 0, COUNT)
    assert last.calls[0].json["emitted"] == ids_of("p", 0, 6)


async def test_resumptions_are_bounded(open_house: Any) -> None:
    house = await open_house(replicas=3, limits=Limits(resumptions=1))
    for replica in house.replicas:
        replica.script = Breaker(reset, after=1)
    tasks = [asyncio.ensure_future(_go(replica)) for replica in house.replicas]
    events = await heard(house, ask(), [])
    assert json.loads(events[-1])["error"]["code"] == "stream_broken"
    assert sum(len(replica.calls) for replica in house.replicas) == 2
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_continuations_that_bring_nothing_are_bounded(open_house: Any) -> None:
    """A request that kills whoever continues it must not take the whole fleet down."""
    house = await open_house(replicas=6)

    async def script(call: Call) -> None:
        if call.path == CONTINUE_PATH:
            call.reset()
            return
        await call.begin()
        await call.say("p:0 ", ids_of("p", 0, 1))
        call.reset()

    for replica in house.replicas:
        replica.script = script
    task = asyncio.ensure_future(heard(house, ask(), []))
    for seen in range(2, 6):  # each try waits twice as long as the one before
        await house.until(lambda seen=seen: sum(len(replica.calls) for replica in house.replicas) >= seen)
        await asyncio.sleep(0.05)
        house.pass_time(0.1 * 2 ** (seen - 2))
        assert sum(len(replica.calls) for replica in house.replicas) == seen
        house.pass_time(0.3 * 2 ** (seen - 2))
    events = await task
    assert json.loads(events[-1])["error"]["code"] == "stream_broken"
    assert sum(len(replica.calls) for replica in house.replicas) == 5


@pytest.mark.parametrize("status", [400, 404, 500, 503])
async def test_a_replica_that_will_not_continue(open_house: Any, status: int) -> None:
    house = await open_house(replicas=3, script=storyteller(0))
    bad, unwilling, good = house.replicas
    await house.report(unwilling.report(running=2))
    await house.report(good.report(running=3))
    bad.script = Breaker(reset)

    async def refuse(call: Call) -> None:
        await call.answer({"error": {"message": "no"}}, status=status)

    unwilling.script = refuse
    events = await heard(house, ask(), [bad])
    assert text(events) == text_of("p", 0, COUNT)
    assert (len(unwilling.calls), len(good.calls)) == (1, 1)


async def test_all_replicas_gone_and_one_comes_back(open_house: Any) -> None:
    house = await open_house(replicas=1)
    (only,) = house.replicas
    only.script = Breaker(reset)
    task = asyncio.ensure_future(heard(house, ask(), [only]))
    await house.until(lambda: len(house.router.dispatcher.queue) == 1)
    assert not task.done()
    async with FakeReplica(replica_id="new", script=storyteller(0)) as new:
        await house.add(new)
        events = await task
    assert text(events) == text_of("p", 0, COUNT)
    assert len(house.router.dispatcher.queue) == 0


async def test_the_same_replica_may_go_on_after_its_cool_down(open_house: Any) -> None:
    house = await open_house(replicas=1)
    (only,) = house.replicas
    only.script = Breaker(reset)
    task = asyncio.ensure_future(heard(house, ask(), [only]))
    await house.until(lambda: len(house.router.dispatcher.queue) == 1)
    only.script = storyteller(0)
    house.pass_time(0.1)
    assert len(only.calls) == 1
    house.pass_time(0.3)
    assert text(await task) == text_of("p", 0, COUNT)


async def test_the_wait_for_another_replica_has_an_end(open_house: Any) -> None:
    house = await open_house(replicas=1)
    (only,) = house.replicas
    only.script = Breaker(reset)
    task = asyncio.ensure_future(heard(house, ask(), [only]))
    await house.until(lambda: len(house.router.dispatcher.queue) == 1)
    house.pass_time(31)
    events = await task
    assert "error" in json.loads(events[-1])
    assert len(house.router.dispatcher.queue) == 0


async def test_a_client_that_leaves_while_its_stream_waits(open_house: Any) -> None:
    house = await open_house(replicas=1)
    (only,) = house.replicas
    only.script = Breaker(reset)
    task = asyncio.ensure_future(heard(house, ask(), [only]))
    await house.until(lambda: len(house.router.dispatcher.queue) == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await house.until(lambda: len(house.router.dispatcher.queue) == 0)
    assert house.router.dispatcher.in_flight == {}


async def test_a_hung_replica_is_given_up_when_bytes_and_reports_are_missing(open_house: Any) -> None:
    house, hung, good = await pair(open_house)
    hung.script = Breaker(reset)
    task = asyncio.ensure_future(heard(house, ask(), []))
    call = await hung.next_call()
    await asyncio.sleep(0.05)
    house.pass_time(1)
    house.clock.value += 2.5  # without bytes, but its last report is not stale enough
    await house.report(good.report())
    house.pass_time(0)
    assert not good.calls
    house.clock.value += 2
    await house.report(good.report())
    house.pass_time(0)
    assert text(await task) == text_of("p", 0, COUNT)
    async with asyncio.timeout(5):
        await call.gone.wait()


async def test_a_silent_reporter_whose_bytes_flow_is_left_alone(open_house: Any) -> None:
    house, first, second = await pair(open_house)
    more = asyncio.Event()

    async def script(call: Call) -> None:
        await call.begin()
        for index in range(6):
            await call.say(f"p:{index} ", ids_of("p", index, index + 1))
            await more.wait()
            more.clear()
        await call.end(6)

    first.script = script
    task = asyncio.ensure_future(heard(house, ask(), []))
    await first.next_call()
    for _ in range(6):
        await asyncio.sleep(0.02)
        house.clock.value += 1.2
        await house.report(second.report())
        house.pass_time(0)
        more.set()
    events = await task
    assert events[-1] == "[DONE]"
    assert not second.calls


async def test_an_engine_that_emits_nothing_is_given_up_though_it_reports(open_house: Any) -> None:
    house, stuck, good = await pair(open_house)
    stuck.script = Breaker(reset)
    task = asyncio.ensure_future(heard(house, ask(), []))
    await stuck.next_call()
    await asyncio.sleep(0.05)
    house.pass_time(1)
    for _ in range(8):
        house.clock.value += 2
        await house.report(good.report())
        await house.report(stuck.report(running=1, tokens_per_second=0.0))
        house.pass_time(0)
    assert text(await task) == text_of("p", 0, COUNT)


async def test_a_finished_answer_is_not_asked_for_again(open_house: Any) -> None:
    house, bad, good = await pair(open_house)

    async def script(call: Call) -> None:
        await call.begin()
        await call.say("p:0 ", ids_of("p", 0, 1))
        await call.event({"id": "chat-1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        call.reset()

    bad.script = script
    events = await heard(house, ask(), [])
    assert events[-1] == "[DONE]"
    assert not good.calls
    assert not any("error" in event for event in events)


async def test_a_slow_client_gets_a_continued_stream_whole(open_house: Any) -> None:
    house, bad, good = await pair(open_house)
    big = "x" * 20_000

    async def begin(call: Call) -> None:
        await call.begin()
        for index in range(40):
            await call.say(f"{index}{big}", [index])
        call.reset()

    async def rest(call: Call) -> None:
        await call.begin()
        start = len(call.json["emitted"])
        for index in range(start, 60):
            await call.say(f"{index}{big}", [index])
        await call.end(60)

    bad.script, good.script = begin, rest
    body = json.dumps(ask()).encode()
    reader, _ = await house.raw(
        b"POST %b HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
        % (PATH.encode(), len(body), body)
    )
    await asyncio.sleep(0.2)
    async with asyncio.timeout(10):
        data = await reader.read()
    assert [data.count(b'"%d%b' % (index, b"xxx")) for index in range(60)] == [1] * 60
    assert data.endswith(b"0\r\n\r\n")


async def test_http_1_0_clients_too(open_house: Any) -> None:
    house, bad, _ = await pair(open_house)
    bad.script = Breaker(reset)
    body = json.dumps(ask()).encode()
    task = asyncio.ensure_future(
        house.exchange(b"POST %b HTTP/1.0\r\ncontent-length: %d\r\n\r\n%b" % (PATH.encode(), len(body), body))
    )
    await _go(bad)
    head, _, rest = (await task).partition(b"\r\n\r\n")
    assert b"200 OK" in head
    events = [line.removeprefix("data: ") for line in rest.decode().split("\n") if line]
    assert text(events) == text_of("p", 0, COUNT)
    assert events[-1] == "[DONE]"


async def test_a_death_does_not_send_a_burst_at_a_replica_that_failed(open_house: Any) -> None:
    """After its cool-down a replica is tried by one request at a time, until one succeeds."""
    house, bad, good = await pair(open_house)
    bad.script = Breaker(reset, after=0)
    first = asyncio.ensure_future(heard(house, ask(), []))
    (await bad.next_call()).go.set()
    await first
    house.pass_time(0.3)
    bad.calls.clear()
    tasks = [asyncio.ensure_future(heard(house, ask(str(n)), [])) for n in range(4)]
    await house.until(lambda: len(bad.calls) + len(good.calls) >= 5)
    assert len(bad.calls) == 1
    bad.calls[0].go.set()
    for number, task in enumerate(tasks):
        assert text(await task) == text_of(str(number), 0, COUNT)
