"""What a pod does before it ends, against a real router and replicas around the fake engine."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from trimode_api.fleet import ReplicaState
from trimode_api.wire import DRAIN_PATH, FLEET_PATH, PolicyConfig, RouterConfig
from trimode_router.edge.server import Router
from trimode_workers.replica.addresses import Routers
from trimode_workers.replica.pre_stop import Plan, head, in_flight, leave, own_address, worker
from trimode_workers.replica.replica import Replica
from trimode_workers.replica.settings import ReplicaSettings

TOKEN = "fleet-secret"
CHAT = "/v1/chat/completions"
Body = Callable[..., dict[str, Any]]
Eventually = Callable[..., Awaitable[None]]
StartReplica = Callable[[ReplicaSettings], Awaitable[Replica]]


@pytest.fixture
async def router(policy: PolicyConfig) -> AsyncIterator[Router]:
    config = RouterConfig(name="demo", model="echo", port=0, policy=policy)
    router = Router(config, TOKEN, now=asyncio.get_running_loop().time, wall=time.time)
    await router.start()
    yield router
    await router.stop(0.2)


@pytest.fixture
async def replicas(
    router: Router, start_replica: StartReplica, settings: ReplicaSettings, eventually: Eventually
) -> list[Replica]:
    """Two of them, each at an address of its own, as pods have."""
    known = settings.model_copy(update={"router_urls": (router.internal_url,)})
    found = [await start_replica(known.model_copy(update={"host": f"127.0.0.{n}"})) for n in (1, 2)]
    await eventually(lambda: len(list(router.fleet)) == 2)
    return found


@pytest.fixture
async def client(router: Router) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(router.url) as http:
        yield http


def soon(plan: Plan) -> Plan:
    """The same, for tests: a moment's peace is enough."""
    return Plan(plan.chosen, plan.order, plan.timeout_s, 0.2)


async def run(router: Router, plan: Plan) -> bool:
    return await leave(Routers([router.internal_url]), TOKEN, soon(plan))


@asynccontextmanager
async def busy_router(router: Router, drain_timeout_s: int) -> AsyncIterator[tuple[str, list[str]]]:
    """The internal port of a router whose requests never end; its URL and the replicas it was told to drain."""
    ordered: list[str] = []
    view = json.loads(router.viewer.fleet().to_wire()) | {"drainTimeoutSeconds": drain_timeout_s}
    for replica in view["replicas"]:
        replica["inFlight"] = 1

    async def fleet(_: web.Request) -> web.Response:
        return web.json_response(view)

    async def drain(request: web.Request) -> web.Response:
        ordered.append((await request.json())["replicaId"])
        return web.json_response({})

    app = web.Application()
    app.router.add_get(FLEET_PATH, fleet)
    app.router.add_post(DRAIN_PATH, drain)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", ordered
    await runner.cleanup()


class TestWorker:
    async def test_its_requests_finish_and_new_ones_go_elsewhere(
        self, router: Router, replicas: list[Replica], client: aiohttp.ClientSession, body: Body, eventually: Eventually
    ) -> None:
        streams = [await client.post(CHAT, json=body("abc", stream=True, max_tokens=200)) for _ in range(4)]
        for stream in streams:
            await stream.content.readline()
        leaving, staying = replicas
        assert leaving.engine.in_flight
        going = asyncio.create_task(run(router, worker("127.0.0.1", timeout_s=60)))
        await eventually(lambda: leaving.draining)
        assert not staying.draining
        assert not going.done()
        async with client.post(CHAT, json=body("late", max_tokens=4)) as late:
            assert late.status == 200
        for stream in streams:
            text = (await stream.content.read()).decode()
            assert text.rstrip().endswith("data: [DONE]")
        assert await asyncio.wait_for(going, 30)
        assert leaving.engine.in_flight == 0

    @pytest.mark.parametrize(("limit_s", "drain_timeout_s"), [(0.5, 3600), (3600, 1)])
    async def test_it_waits_no_longer_than_the_pod_and_the_policy_allow(
        self, router: Router, replicas: list[Replica], limit_s: float, drain_timeout_s: int
    ) -> None:
        async with asyncio.timeout(60), busy_router(router, drain_timeout_s) as (url, ordered):
            assert not await leave(Routers([url]), TOKEN, soon(worker("127.0.0.1", limit_s)))
        assert set(ordered) == {replicas[0].replica_id}

    async def test_without_routers_nothing_is_waited_for(self) -> None:
        assert await leave(Routers(["http://127.0.0.1:9"]), TOKEN, soon(worker("127.0.0.1", timeout_s=30)))


class TestHead:
    async def test_it_waits_for_those_that_drain_and_orders_nothing(
        self, router: Router, replicas: list[Replica], client: aiohttp.ClientSession, body: Body, eventually: Eventually
    ) -> None:
        stream = await client.post(CHAT, json=body("abc", stream=True, max_tokens=200))
        await stream.content.readline()
        assert await run(router, head(timeout_s=30)), "nothing drains, so nothing is waited for"
        assert not any(replica.draining for replica in replicas)
        (busy,) = [replica for replica in replicas if replica.engine.in_flight]
        router.fleet.drain(busy.replica_id, True)
        assert await run(router, head(timeout_s=60))
        assert busy.engine.in_flight == 0
        assert (await stream.content.read()).rstrip().endswith(b"data: [DONE]")


async def test_the_pod_knows_its_address_from_the_way_to_a_router() -> None:
    routers = Routers(["http://127.0.0.2:8001"])
    assert own_address(routers) == ""
    await routers.look_up()
    assert own_address(routers) == "127.0.0.1"


def test_what_counts_as_running() -> None:
    state = ReplicaState.model_construct
    assert in_flight([state(in_flight=0, running=2, waiting=1), state(in_flight=5, running=1, waiting=0)]) == 8
    assert in_flight([]) == 0


@pytest.mark.parametrize("more", [[], ["--head"]])
def test_the_command_ends_well_where_nobody_answers(more: list[str]) -> None:
    command = [sys.executable, "-m", "trimode_workers.replica.pre_stop", "--routers", "http://127.0.0.1:9"]
    done = subprocess.run(
        [*command, "--timeout-s", "0.5", *more],
        env=os.environ | {"TRIMODE_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
