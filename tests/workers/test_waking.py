"""The autoscaling policy of pools that sleep: what it hears, and what it wants."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from trimode_api.wire import FLEET_PATH, TOKEN_VARIABLE
from trimode_lab.doubles.kubernetes.fleet import view
from trimode_workers.replica.autoscaling import ASK_S, Scaler

TOKEN = "fleet-secret"


class Router:
    """The one page of a router that the policy reads."""

    def __init__(self) -> None:
        self.wanted = False
        self.asked = 0
        self.url = ""

    async def fleet(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        self.asked += 1
        pools = [
            {"name": name, "points": [], "replicas": 0, "ready": 0, "running": 0, "waiting": 0, "tokensPerSecond": 0,
             "shares": {}, "wanted": wanted}
            for name, wanted in (("other", True), ("flex", self.wanted))
        ]  # fmt: skip
        return web.Response(body=view(pools=pools).to_wire(), content_type="application/json")


@pytest.fixture
async def router() -> AsyncIterator[Router]:
    router = Router()
    app = web.Application()
    app.router.add_get(FLEET_PATH, router.fleet)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    router.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield router
    await runner.cleanup()


def context(ordered: int = 0, running: int = 0, occupancy: dict[str, float] | None = None) -> Any:
    return SimpleNamespace(
        aggregated_metrics={"occupancy": occupancy or {}},
        current_num_replicas=running,
        target_num_replicas=ordered,
        capacity_adjusted_min_replicas=0,
        capacity_adjusted_max_replicas=2,
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - a thread's doing is no event
            await asyncio.sleep(0.02)


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)


async def test_a_waiting_request_orders_the_first_replica(router: Router, token: None) -> None:
    scaler = Scaler(["http://127.0.0.1:1", router.url], "flex")  # a router that is away does not matter
    assert scaler(context()) == (0, {})
    await until(lambda: router.asked > 1)
    assert scaler(context()) == (0, {}), "another pool's call is not ours"
    router.wanted = True
    await until(lambda: scaler(context())[0] == 1)
    assert scaler(context(ordered=1)) == (1, {})


async def test_with_replicas_their_load_decides_and_nobody_is_asked(router: Router, token: None) -> None:
    scaler = Scaler([router.url], "flex")
    router.wanted = True
    await until(lambda: scaler(context())[0] == 1)
    scaler(context(ordered=1, running=1, occupancy={"a": 0.1}))
    await until(lambda: scaler(context(ordered=1, running=1, occupancy={"a": 0.0}))[0] == 0)
    asked = router.asked
    await asyncio.sleep(3 * ASK_S)  # nothing tells that nobody asks; one question may have been under way
    assert router.asked <= asked + 1
    assert scaler(context(ordered=1, running=1, occupancy={"a": 0.9}))[0] == 2


async def test_a_pool_that_never_sleeps_asks_nobody(router: Router, token: None) -> None:
    before = threading.active_count()
    scaler = Scaler([router.url], "flex")
    for _ in range(3):
        scaler(context(ordered=1, running=1))
    assert threading.active_count() == before


async def test_a_policy_that_serve_drops_takes_its_thread_along(router: Router, token: None) -> None:
    before = {thread.ident for thread in threading.enumerate()}
    scaler = Scaler([router.url], "flex")
    scaler(context())
    (thread,) = [t for t in threading.enumerate() if t.ident not in before and t.name == "waking"]
    gone = weakref.ref(scaler)
    del scaler
    gc.collect()
    assert gone() is None
    await until(lambda: not thread.is_alive())
