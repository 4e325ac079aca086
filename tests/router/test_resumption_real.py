"""Streams of the real engine, the packaged model, while processes are killed, stopped and drained; every part real."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from trimode_api.wire import TOKEN_VARIABLE, PolicyConfig, RouterConfig, StalenessPolicy
from trimode_router.edge.server import Router

TOKEN = "fleet-token"
_SPEC = find_spec("trimode_workers")
TINY = Path((_SPEC.submodule_search_locations or ["."])[0] if _SPEC else ".", "tiny")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (TINY / "model.safetensors").is_file(), reason=f"NO PACKAGED MODEL in {TINY}"),
]


class Fleet:
    """A router in this process, replicas in their own."""

    def __init__(self, router: Router, http: httpx.AsyncClient, folder: Path, policy: PolicyConfig) -> None:
        self.router = router
        self.http = http
        self._folder = folder
        self._policy = policy
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        self._started: list[asyncio.subprocess.Process] = []

    async def start_replica(self) -> str:
        """Its id, once the router knows it."""
        settings = {
            "pool": "flex",
            "served_name": "tiny",
            "engine": {"model": str(TINY), "max_context_tokens": 2048, "max_running_requests": 8, "threads": 1},
            "policy": self._policy.model_dump(mode="json", by_alias=True),
            "router_urls": [self.router.internal_url],
        }
        file = self._folder / f"replica-{len(self._started)}.json"
        file.write_text(json.dumps(settings))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "trimode_workers.replica", "--settings", str(file),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=os.environ | {TOKEN_VARIABLE: TOKEN},
        )  # fmt: skip
        self._started.append(process)
        assert process.stdout is not None
        async with asyncio.timeout(120):
            replica_id: str = json.loads(await process.stdout.readline())["id"]
            self.processes[replica_id] = process
            while self.router.fleet.get(replica_id) is None:  # noqa: ASYNC110 - another process reports
                await asyncio.sleep(0.02)
        return replica_id

    def serving(self) -> str:
        """The replica that has the one request."""
        (replica,) = self.router.dispatcher.in_flight.values()
        return replica.replica_id

    async def close(self) -> None:
        for process in self._started:
            if process.returncode is None:
                for child in psutil.Process(process.pid).children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        child.kill()
                with suppress(ProcessLookupError):
                    process.kill()
            await process.communicate()


@pytest.fixture
async def fleet(tmp_path: Path, make_policy: Any) -> AsyncIterator[Fleet]:
    staleness = StalenessPolicy(stale_after_seconds=1, dead_after_seconds=20)
    policy = make_policy(staleness=staleness, drain_timeout_seconds=0)  # a draining replica cuts its streams
    config = RouterConfig(name="demo", model="tiny", port=0, policy=policy)
    router = Router(config, TOKEN, now=asyncio.get_running_loop().time, wall=time.time)
    await router.start()
    async with httpx.AsyncClient(base_url=router.url, timeout=60, verify=False) as http:
        fleet = Fleet(router, http, tmp_path, policy)
        try:
            await fleet.start_replica()
            await fleet.start_replica()
            yield fleet
        finally:
            await fleet.close()
            await router.stop(1)


def kill(process: asyncio.subprocess.Process) -> None:
    process.kill()


def kill_the_engine(process: asyncio.subprocess.Process) -> None:
    (engine,) = psutil.Process(process.pid).children()
    engine.kill()


def stop(process: asyncio.subprocess.Process) -> None:
    process.send_signal(signal.SIGSTOP)


def drain(process: asyncio.subprocess.Process) -> None:
    process.send_signal(signal.SIGTERM)


GREEDY = {"temperature": 0, "trimode": {"mode": "AR"}}
DRAWN = {"temperature": 1.0, "seed": 11, "trimode": {"mode": "AR"}}
SPECULATED = {"temperature": 0, "trimode": {"mode": "SelfSpeculation", "blockLength": 8}}


def ask(**more: Any) -> dict[str, Any]:
    messages = [
        {"role": "user", "content": "write a reminder letter from Anna to Paul about the late train, date May 4"}
    ]
    return {
        "model": "tiny",
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 500,
        "ignore_eos": True,
        **more,
    }


async def heard(fleet: Fleet, body: dict[str, Any], deed: Any = None) -> list[dict[str, Any]]:
    """All chunks; after the tenth, `deed` is done to the replica that sends them."""
    chunks: list[dict[str, Any]] = []
    async with asyncio.timeout(60), fleet.http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
        done = False
        async for line in response.aiter_lines():
            if not line:
                continue
            if line == "data: [DONE]":
                done = True
                continue
            chunks.append(json.loads(line.removeprefix("data: ")))
            if len(chunks) == 10 and deed is not None:
                deed(fleet.processes[fleet.serving()])
    assert done, chunks[-1]
    return chunks


def counts(answer: dict[str, Any]) -> dict[str, int]:
    """Its tokens; how many of them a replica knew before is no part of the answer."""
    return {name: count for name, count in answer["usage"].items() if name != "prompt_tokens_details"}


def text(chunks: list[dict[str, Any]]) -> str:
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk["choices"])


@pytest.mark.parametrize(
    ("deed", "sampling"),
    [(kill, GREEDY), (kill, DRAWN), (kill, SPECULATED), (kill_the_engine, GREEDY), (stop, GREEDY), (drain, DRAWN)],
)
async def test_the_client_sees_a_pause(fleet: Fleet, deed: Any, sampling: dict[str, Any]) -> None:
    body = ask(**sampling)
    unbroken = await heard(fleet, body)
    broken = await heard(fleet, body, deed)
    assert broken[-1]["trimode"]["resumedAfter"] > 0
    assert text(broken) == text(unbroken)
    assert counts(broken[-1]) == counts(unbroken[-1])
    assert len({(chunk["id"], chunk["created"]) for chunk in broken}) == 1
    assert [chunk["choices"][0]["delta"].get("role") for chunk in broken if chunk["choices"]].count("assistant") == 1
    assert fleet.router.dispatcher.in_flight == {}


async def test_json_goes_on_as_json(fleet: Fleet) -> None:
    """The grammar's state is made anew from what was emitted."""
    schema = {
        "type": "array",
        "items": {"type": "integer", "minimum": 0, "maximum": 99},
        "minItems": 60,
        "maxItems": 60,
    }
    form = {"type": "json_schema", "json_schema": {"name": "numbers", "schema": schema}}
    for sampling in (GREEDY, DRAWN):
        body = ask(**sampling, response_format=form, ignore_eos=False)
        unbroken = await heard(fleet, body)
        broken = await heard(fleet, body, kill)
        await fleet.start_replica()
        assert broken[-1]["trimode"]["resumedAfter"] > 0
        assert text(broken) == text(unbroken)
        assert len(json.loads(text(broken))) == 60


async def test_several_choices_of_one_stream(fleet: Fleet) -> None:
    """Drawn, so that they differ, and of other lengths: the engine's own end of one is not the end of all."""
    body = ask(**DRAWN) | {"n": 3, "temperature": 2.0, "ignore_eos": False, "max_tokens": 150}
    unbroken = await heard(fleet, body)
    broken = await heard(fleet, body, kill)
    said, again = by_choice(unbroken), by_choice(broken)
    assert again == said
    assert len({text for text, _, _ in said.values()}) == 3
    assert all(role == 1 and ended == 1 for _, role, ended in again.values())
    assert counts(broken[-1]) == counts(unbroken[-1])
    assert broken[-1]["trimode"]["resumedAfter"] > 0


def by_choice(chunks: list[dict[str, Any]]) -> dict[int, tuple[str, int, int]]:
    """Text, roles and ends."""
    found: dict[int, tuple[str, int, int]] = {}
    for choice in (chunk["choices"][0] for chunk in chunks if chunk["choices"]):
        text, roles, ends = found.get(choice["index"], ("", 0, 0))
        delta = choice["delta"]
        more, ended = delta.get("content", ""), choice["finish_reason"] is not None
        found[choice["index"]] = (text + more, roles + ("role" in delta), ends + ended)
    return found


async def test_an_answer_that_is_not_streamed_is_asked_for_again(fleet: Fleet) -> None:
    body = {name: value for name, value in ask(**GREEDY).items() if name not in ("stream", "stream_options")}
    unbroken = (await fleet.http.post("/v1/chat/completions", json=body)).json()
    request = asyncio.ensure_future(fleet.http.post("/v1/chat/completions", json=body))
    async with asyncio.timeout(10):
        while not fleet.router.dispatcher.in_flight:  # noqa: ASYNC110 - a process away
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.1)
    kill(fleet.processes[fleet.serving()])
    answer = (await request).json()
    assert answer["choices"] == unbroken["choices"]
    assert counts(answer) == counts(unbroken)
