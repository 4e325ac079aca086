"""What tenants are charged is the engine's time, all of it and once: real replica, real engine, the packaged model."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from trimode_api.wire import TOKEN_VARIABLE, RouterConfig
from trimode_router.edge.server import Router

TOKEN = "fleet-token"
PATH = "/v1/chat/completions"
_SPEC = find_spec("trimode_workers")
TINY = Path((_SPEC.submodule_search_locations or ["."])[0] if _SPEC else ".", "tiny")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (TINY / "model.safetensors").is_file(), reason=f"NO PACKAGED MODEL in {TINY}"),
]


@pytest.fixture
async def router(tmp_path: Path, make_policy: Any) -> AsyncIterator[Router]:
    """With keys of two tenants, and one replica that reports to it."""
    keys = [{"tenant": name, "sha256": sha256(name.encode()).hexdigest()} for name in ("acme", "basic")]
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"tenants": [{"name": "acme"}, {"name": "basic"}], "keys": keys}))
    policy = make_policy()
    config = RouterConfig(name="demo", model="tiny", port=0, policy=policy, keys_file=str(file))
    router = Router(config, TOKEN, now=asyncio.get_running_loop().time, wall=time.time)
    await router.start()
    settings = {
        "pool": "flex",
        "served_name": "tiny",
        "engine": {"model": str(TINY), "max_context_tokens": 1024, "max_running_requests": 6, "threads": 1},
        "policy": policy.model_dump(mode="json", by_alias=True),
        "router_urls": [router.internal_url],
    }
    (tmp_path / "replica.json").write_text(json.dumps(settings))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "trimode_workers.replica", "--settings", str(tmp_path / "replica.json")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=os.environ | {TOKEN_VARIABLE: TOKEN},
    )
    try:
        async with asyncio.timeout(120):
            while not len(list(router.fleet)):  # noqa: ASYNC110 - another process reports
                await asyncio.sleep(0.05)
        yield router
    finally:
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
        await router.stop(1)


def counted(router: Router, name: str) -> dict[tuple[str, str], float]:
    """Of a counter: sums by tenant and mode."""
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(router.metrics.text(router.viewer.fleet()).decode()):
        for sample in family.samples:
            if sample.name == f"trimode_router_{name}_total":
                key = sample.labels["tenant"], sample.labels["mode"]
                found[key] = found.get(key, 0.0) + sample.value
    return found


async def test_what_tenants_are_charged_adds_up_to_the_engines_time(router: Router) -> None:
    """Streams and whole answers, several choices, stop strings, clients that leave while they wait for the first
    token and in mid-stream, and a request that fails."""
    (replica,) = router.fleet

    def ask(tenant: str, **more: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": "write a letter from Anna to Paul about the late train"}]
        body = {"model": "tiny", "messages": messages, "max_tokens": 120, "ignore_eos": True, "temperature": 0, **more}
        return {"json": body, "headers": {"Authorization": f"Bearer {tenant}"}}

    async def leave(http: httpx.AsyncClient, after_s: float, **more: Any) -> int:
        """1 where the answer was quicker."""
        with suppress(TimeoutError):
            async with asyncio.timeout(after_s):
                await http.post(PATH, **ask("basic", max_tokens=900, **more))
                return 1
        return 0

    async with httpx.AsyncClient(base_url=router.url, timeout=120) as http:
        whole = [http.post(PATH, **ask("acme", n=2, temperature=0.8)), http.post(PATH, **ask("basic", stop=["e"]))]
        whole += [
            http.post(PATH, **ask("acme", stream=True, trimode={"mode": mode})) for mode in ("AR", "SelfSpeculation")
        ]
        refused = http.post(PATH, **ask("basic", max_tokens=1, trimode={"mode": "Diffusion"}))
        leaving = [leave(http, seconds, stream=streams) for seconds in (0.05, 0.4, 0.8) for streams in (True, False)]
        answers, failed, in_time = await asyncio.gather(asyncio.gather(*whole), refused, asyncio.gather(*leaving))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert failed.status_code == 400
    async with asyncio.timeout(30):
        # The engine has nothing to do any more, and what was left has been told.
        while replica.report.running + replica.report.waiting or router.dispatcher.in_flight:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        told = replica.report.sequence + 3
        while replica.report.sequence < told:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    seconds = counted(router, "gpu_seconds")
    assert replica.report.busy_seconds > 0
    assert sum(seconds.values()) == pytest.approx(replica.report.busy_seconds, rel=0.01)
    assert {tenant for tenant, _ in seconds} == {"acme", "basic"}
    assert seconds["acme", "AR"] > 0 < seconds["acme", "SelfSpeculation"]
    # Most of what the one tenant has cost was for answers that it did not wait for.
    assert counted(router, "answers")["acme", "AR"] >= 1
    whole_ones = sum(value for (tenant, _), value in counted(router, "answers").items() if tenant == "basic")
    # An answer may end while its client turns away. None of 900 tokens has ended within 50 ms.
    assert 1 + sum(in_time) <= whole_ones <= 1 + 4
    assert replica.report.start_seconds > 0
