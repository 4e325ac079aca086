"""A pool as a cluster starts it, on a real Ray Serve with the packaged model; the test stands in for the routers.

One test, because Ray takes long to start: the policy comes with the first answer, a change of counts or of the grace
replaces nobody, and a model that nobody can load is said to be one.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
import yaml

import trimode_workers
from trimode_api.wire import PolicyConfig
from trimode_lab.doubles.router import ListeningRouter

TINY = Path(trimode_workers.__path__[0], "tiny")
DRIVER = Path(__file__).with_name("config_driver.py")
TOKEN = "fleet-secret"
READY_S = 300

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(not (TINY / "model.safetensors").is_file(), reason=f"NO PACKAGED MODEL in {TINY}"),
]

Eventually = Callable[..., Awaitable[None]]


@pytest.fixture
async def router(policy: PolicyConfig) -> AsyncIterator[ListeningRouter]:
    """It hands out the policy to those that run an older one."""
    async with ListeningRouter(policy) as listening:
        yield listening


class Driver:
    """The process that runs Ray."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.process = process
        self._folder = folder

    async def say(self, line: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n".encode())
        return (await asyncio.wait_for(self.process.stdout.readline(), READY_S)).decode().strip()

    async def deploy(self, config: dict[str, Any]) -> None:
        file = self._folder / "serve.yaml"
        file.write_text(yaml.safe_dump(config))
        assert await self.say(str(file)) == "deployed"

    async def until_settled(self, application: str) -> tuple[str, str]:
        """Serve's status and words, once it is done with the last configuration."""
        async with asyncio.timeout(READY_S):
            while True:
                status, words = json.loads(await self.say("states"))[application]
                if status != "DEPLOYING":
                    return status, words
                await asyncio.sleep(0.2)


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[Driver]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(DRIVER),
        stdin=pipe,
        stdout=pipe,
        env=os.environ | {"TRIMODE_TOKEN": TOKEN},
        start_new_session=True,
    )
    yield Driver(process, tmp_path)
    family = psutil.Process(process.pid).children(recursive=True) if process.returncode is None else []
    assert process.stdin is not None
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), 60)
    except TimeoutError:
        process.kill()
        await process.wait()
    for other in family:
        if other.is_running():
            other.kill()
    process._transport.close()  # type: ignore[attr-defined]


def serve_config(router: str, model: str = "tiny://", least: int = 1, most: int = 1, grace: int = 60) -> dict[str, Any]:
    """As the operator writes it, without the resource that only a worker group's pods have."""
    return {
        "applications": [
            {
                "name": "flex",
                "route_prefix": "/flex",
                "import_path": "trimode_workers.app:build",
                "args": {
                    "pool": "flex",
                    "served_name": "tiny",
                    "engine": {"model": model, "max_context_tokens": 512, "max_running_requests": 8, "threads": 1},
                    "router_urls": [router],
                },
                "deployments": [
                    {
                        "name": "flex",
                        "num_replicas": "auto",
                        "autoscaling_config": {
                            "min_replicas": least,
                            "max_replicas": most,
                            "policy": {
                                "policy_function": "trimode_workers.replica.autoscaling:Scaler",
                                "policy_kwargs": {"routers": [router], "pool": "flex"},
                            },
                            "look_back_period_s": 15.0,
                            "upscale_delay_s": 1.0,
                        },
                        "graceful_shutdown_timeout_s": grace,
                        "ray_actor_options": {"num_cpus": 0, "num_gpus": 0},
                    }
                ],
            }
        ]
    }


@pytest.mark.timeout(900)
async def test_a_pool_from_serves_configuration(
    driver: Driver, router: ListeningRouter, eventually: Eventually
) -> None:
    await driver.deploy(serve_config(router.url))
    await eventually(lambda: bool(router.ready), within_s=READY_S)
    (first,) = router.ready
    assert (router.first[first].ready, router.first[first].policy_version) == (False, 0)
    assert router.authorization == f"Bearer {TOKEN}"
    report = router.latest[first]
    assert report.allowed_points == ("AR", "S8", "S16", "D32@0.9")
    assert report.url.startswith("http://127.0.0.1:"), "the node's address"
    await eventually(lambda: router.latest[first].policy_version == 1)
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as http:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
        async with http.post(f"{report.url}/v1/chat/completions", json=body) as answer:
            assert answer.status == 200
            assert (await answer.json())["choices"][0]["message"]["content"] is not None

    await driver.deploy(serve_config(router.url, least=2, most=3, grace=90))
    await eventually(lambda: len(router.ready) == 2, within_s=READY_S)
    assert first in router.ready, "the first replica was replaced for another count"

    await driver.deploy(serve_config(router.url, model="s3://bucket/x"))
    status, words = await driver.until_settled("flex")
    assert status == "DEPLOY_FAILED"
    assert "model s3://bucket/x: allowed are hf://OWNER/NAME" in words
    assert first in router.ready, "the model that could be loaded no longer serves"
