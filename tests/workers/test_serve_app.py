"""A pool on a real Ray Serve, with the packaged model; the test stands in for the router.

One test, because Ray takes long to start: a stream, an engine killed and replaced, a drain that loses nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

import trimode_workers
from trimode_api.wire import PolicyConfig
from trimode_lab.doubles.router import ListeningRouter
from trimode_workers.replica.settings import EngineOptions, PoolSettings

TINY = Path(trimode_workers.__path__[0], "tiny")
DRIVER = Path(__file__).with_name("serve_driver.py")
TOKEN = "fleet-secret"
READY_S = 300

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(not (TINY / "model.safetensors").is_file(), reason=f"NO PACKAGED MODEL in {TINY}"),
]

Eventually = Callable[..., Awaitable[None]]


@pytest.fixture
async def reports() -> AsyncIterator[ListeningRouter]:
    """What a router would have heard."""
    async with ListeningRouter() as router:
        yield router


@pytest.fixture
async def driver(
    reports: ListeningRouter, policy: PolicyConfig, tmp_path: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    settings = PoolSettings(
        pool="flex",
        served_name="tiny",
        engine=EngineOptions(model=str(TINY), max_context_tokens=1024, max_running_requests=8, threads=1),
        policy=policy,
        router_urls=(reports.url,),
        num_cpus=0.5,
    )
    path = tmp_path / "settings.json"
    path.write_text(settings.model_dump_json())
    environment = os.environ | {"TRIMODE_TOKEN": TOKEN}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(DRIVER), str(path), stdin=pipe, stdout=pipe, env=environment, start_new_session=True
    )
    yield process
    left = _family(process.pid)
    if process.returncode is None:
        process.kill()
        await process.wait()
    for other in left:
        if other.is_running():
            other.kill()
    process._transport.close()  # type: ignore[attr-defined]


def _family(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _engines(pid: int) -> list[psutil.Process]:
    return [each for each in _family(pid) if "trimode_workers.process" in each.cmdline()]


def _chat(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "stream": True, **more}


def _payloads(text: str) -> list[str]:
    return [line.removeprefix("data: ") for line in text.splitlines() if line]


@pytest.mark.timeout(900)
async def test_a_pool_lives_is_healed_and_drained(
    driver: asyncio.subprocess.Process, reports: ListeningRouter, eventually: Eventually
) -> None:
    await eventually(lambda: bool(reports.ready) or driver.returncode is not None, within_s=READY_S)
    assert driver.returncode is None, "the driver ended; its own words are above"
    (first,) = reports.ready.values()
    assert reports.authorization == f"Bearer {TOKEN}"
    assert first.pool == "flex"
    assert first.allowed_points == ("AR", "S8", "S16", "D32@0.9")
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=timeout) as http:
        async with http.post(f"{first.url}/v1/chat/completions", json=_chat(max_tokens=8)) as response:
            assert _payloads(await response.text())[-1] == "[DONE]"

        (engine,) = _engines(driver.pid)
        engine.send_signal(signal.SIGKILL)
        await eventually(lambda: not reports.latest[first.replica_id].ready)
        await eventually(lambda: bool(reports.ready), within_s=READY_S)
        (second,) = reports.ready.values()
        assert second.replica_id != first.replica_id

        more = {"max_tokens": 900, "ignore_eos": True, "trimode": {"mode": "AR"}}
        async with http.post(f"{second.url}/v1/chat/completions", json=_chat(**more)) as response:
            await response.content.readline()
            assert driver.stdin is not None
            driver.stdin.write(b"stop\n")
            await eventually(lambda: reports.latest[second.replica_id].draining, within_s=30)
            assert reports.latest[second.replica_id].running == 1
            async with http.post(f"{second.url}/v1/chat/completions", json=_chat()) as refused:
                assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
            *_, last, done = _payloads(await response.text())
    assert done == "[DONE]"
    assert json.loads(last)["usage"]["completion_tokens"] == 900
    family = _family(driver.pid)
    assert await asyncio.wait_for(driver.wait(), 90) == 0
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
