"""Behind a gateway that moves requests: Envoy, configured as Envoy Gateway did it for the examples.

What that controller made of `examples/gateways` on a real API server is recorded (`trimode_e2e.recording.gateways`);
here Envoy has it with our routers for endpoints. Streams go on while weights move and while a router leaves, and no
request is lost.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from trimode_e2e import gateway as recording
from trimode_e2e.envoy import PATIENCE_S, Envoy
from trimode_e2e.errors import Missing
from trimode_lab.doubles.replica.replica import Call

EXAMPLES = Path(__file__).parents[2] / "examples" / "gateways"
STEPS = recording.recorded()
CHAT, CHAT_COPY, NEXT, CODE = "10.244.0.11", "10.244.0.12", "10.244.0.21", "10.244.0.31"
"""Routers' addresses in the recording."""
HELD = "hold"
"""A prompt whose answer goes on when the test says so."""
WHOLE = "first last "


@dataclass
class Gateway:
    """Envoy with `ends` for the recording's addresses. `http` asks as any client of it would."""

    envoy: Envoy
    ends: dict[str, int]
    http: httpx.AsyncClient | None = None

    async def at(self, step: str) -> None:
        """Requests go as they did at this step of the recording once it returns."""
        await asyncio.to_thread(self.envoy.take, STEPS[step]["envoy"], self.ends)

    async def ask(self, path: str = "/chat", prompt: str = "tell", **fields: str) -> str:
        """The text of a streamed answer; fails for one that is refused or not whole."""
        body = {"model": "tiny", "stream": True, "messages": [{"role": "user", "content": prompt}]}
        self.http = self.http or httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.envoy.port}", timeout=PATIENCE_S)
        async with self.http.stream("POST", f"{path}/v1/chat/completions", json=body, headers=fields) as answer:
            lines = [line.removeprefix("data: ") async for line in answer.aiter_lines() if line]
        assert (answer.status_code, lines[-1]) == (200, "[DONE]"), lines
        events = [json.loads(line) for line in lines[:-1]]
        return "".join(each["choices"][0]["delta"].get("content", "") for each in events)


async def story(call: Call) -> None:
    await call.begin()
    await call.say("first ", [1])
    if call.json["messages"][0]["content"] == HELD:
        await call.go.wait()
    await call.say("last ", [2])
    await call.end(2)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    try:
        envoy = await asyncio.to_thread(Envoy.start, tmp_path)
    except Missing as exc:
        pytest.skip(f"NO GATEWAY WAS TRIED: {exc}")
    made = Gateway(envoy, {})
    try:
        yield made
    finally:
        if made.http is not None:
            await made.http.aclose()
        await asyncio.to_thread(envoy.stop)


def asked(house: Any) -> int:
    """Requests that have come to its replica."""
    return len(house.replicas[0].calls)


async def test_weights_move_and_streams_go_on(open_house: Callable[..., Any], gateway: Gateway) -> None:
    chat, following, code = [await open_house(script=story) for _ in range(3)]
    gateway.ends = {CHAT: chat.port, NEXT: following.port, CODE: code.port, CHAT_COPY: chat.port}
    await gateway.at("by model")
    assert await gateway.ask() == WHOLE
    assert await gateway.ask("", **{"x-gateway-model-name": "code"}) == WHOLE
    assert (asked(chat), asked(following), asked(code)) == (1, 0, 1)

    async with asyncio.TaskGroup() as group:
        held = [group.create_task(gateway.ask(prompt=HELD)) for _ in range(2)]
        await chat.until(lambda: asked(chat) == 3)
        await gateway.at("all")
        while not asked(following):  # its worker hears of it after its main thread
            assert await gateway.ask() == WHOLE
        there, moved = asked(chat), asked(following)
        assert [await gateway.ask() for _ in range(10)] == [WHOLE] * 10
        assert (asked(chat), asked(following)) == (there, moved + 10)
        held += [group.create_task(gateway.ask(prompt=HELD)) for _ in range(2)]
        await chat.until(lambda: asked(following) == moved + 12)
        await gateway.at("a half")
        while asked(chat) == there or asked(following) == moved + 12:
            assert await gateway.ask() == WHOLE
        await gateway.at("back")
        for house in (chat, following):
            for call in house.replicas[0].calls:
                call.go.set()
    assert [each.result() for each in held] == [WHOLE] * 4


async def test_a_router_leaves_and_nothing_is_lost(open_house: Callable[..., Any], gateway: Gateway) -> None:
    """As its pod does: it is no endpoint any more, a while later told to end, and ends with its last stream."""
    leaving, staying = [await open_house(script=story) for _ in range(2)]
    gateway.ends = {CHAT: leaving.port, CHAT_COPY: staying.port}
    await gateway.at("back")
    async with asyncio.TaskGroup() as group:
        held = [group.create_task(gateway.ask(prompt=HELD)) for _ in range(4)]
        await leaving.until(lambda: asked(leaving) + asked(staying) == 4)
        assert asked(leaving), "Envoy takes endpoints in turn"
        await gateway.at("a router leaves")
        there = -1
        while there < (there := asked(leaving)):
            assert [await gateway.ask() for _ in range(3)] == [WHOLE] * 3
        ending = group.create_task(leaving.router.stop(PATIENCE_S))
        assert [await gateway.ask() for _ in range(10)] == [WHOLE] * 10
        assert not ending.done()
        for call in (*leaving.replicas[0].calls, *staying.replicas[0].calls):
            call.go.set()
        for each in held:
            assert await each == WHOLE
        leaving.pass_time(2)  # what is idle then is closed
    assert ending.result(), "a stream was cut, or a connection stayed open"


def covers(live: Any, wanted: Any) -> bool:
    """Whether a live object says all that is wanted; the API server adds defaults."""
    if isinstance(wanted, Mapping):
        return isinstance(live, Mapping) and all(covers(live.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(live, list) and len(live) == len(wanted) and all(map(covers, live, wanted))
    return bool(live == wanted)


@pytest.mark.parametrize(
    ("step", "file", "weights"),
    [
        ("by model", "by-model", None),
        ("a tenth", "canary", (90, 10)),
        ("a half", "canary", (50, 50)),
        ("all", "canary", (0, 100)),
        ("back", "by-model", None),
        ("by an endpoint picker", "inference-pool", None),
    ],
)
def test_the_recording_is_of_the_examples(step: str, file: str, weights: tuple[int, int] | None) -> None:
    """An example that has changed is to be recorded again."""
    text = (EXAMPLES / f"{file}.yaml").read_text()
    for old, new in zip((90, 10), weights or (), strict=False):
        text = text.replace(f"weight: {old}}}", f"weight: {new}}}")
    live = {each["metadata"]["name"]: each["spec"] for each in STEPS[step]["routes"]}
    for each in yaml.safe_load_all(text):
        assert covers(live[each["metadata"]["name"]], each["spec"])


def test_the_controller_accepted_what_it_could_serve() -> None:
    """A route to an InferencePool is for gateways that know it; Envoy Gateway by itself does not, and says so."""
    told = {
        (step, route["metadata"]["name"]): [
            each["reason"] for each in route["status"]["parents"][0]["conditions"] if each["type"] == "ResolvedRefs"
        ]
        for step, recorded in STEPS.items()
        for route in recorded["routes"]
    }
    refused = ("by an endpoint picker", "chat-by-pool")
    assert told.pop(refused) == ["InvalidKind"]
    assert set(map(tuple, told.values())) == {("ResolvedRefs",)}


def test_no_time_limit_is_left() -> None:
    """Neither on a whole answer nor on a silence in it."""
    routes = [
        route["route"]
        for recorded in STEPS.values()
        for table in recorded["envoy"]["routes"]
        for host in table["virtual_hosts"]
        for route in host["routes"]
        if "route" in route
    ]
    assert {(each["timeout"], each["idle_timeout"]) for each in routes} == {("0s", "0s")}
