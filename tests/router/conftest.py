"""Fixtures of the router's tests: a router on loopback with a clock that the test moves, and fake replicas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import uvloop

from trimode_api.wire import (
    REPORT_PATH,
    AdmissionPolicy,
    PolicyConfig,
    PoolPolicy,
    ReplicaReport,
    ReportAnswer,
    RouterConfig,
    StalenessPolicy,
    SwitchingPolicy,
    TierPolicy,
)
from trimode_lab.doubles.replica.replica import FakeReplica
from trimode_router.edge.server import ProcessOptions, Router
from trimode_router.http.limits import Limits

TOKEN = "fleet-token"


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The router's tests run on the loop that the router runs on."""
    return {"uvloop": uvloop.new_event_loop}


def a_policy(version: int = 1, **changes: Any) -> PolicyConfig:
    values: dict[str, Any] = {
        "version": version,
        "tiers": (
            TierPolicy(name="premium", ttft_milliseconds=500, tpot_milliseconds=8, percentile=95, priority=10),
            TierPolicy(name="standard", ttft_milliseconds=1000, tpot_milliseconds=25, percentile=95, priority=0),
        ),
        "pools": (PoolPolicy(name="flex", points=("AR", "S8", "S16", "S32")),),
        "switching": SwitchingPolicy(margin_percent=5, min_dwell_milliseconds=200, fallback={"flex": "AR"}),
        "admission": AdmissionPolicy(max_queued_requests=4, max_wait_milliseconds=2000),
        "staleness": StalenessPolicy(stale_after_seconds=3, dead_after_seconds=10),
        "drain_timeout_seconds": 5,
    }
    return PolicyConfig(**(values | changes))


@dataclass
class Clock:
    """Seconds that pass when the test says so."""

    value: float = 1000.0

    def __call__(self) -> float:
        return self.value


@dataclass
class House:
    """A router with its clients."""

    router: Router
    clock: Clock
    http: httpx.AsyncClient
    internal: httpx.AsyncClient
    replicas: list[FakeReplica] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.router.url.rsplit(":", 1)[1])

    async def report(self, report: ReplicaReport) -> ReportAnswer:
        response = await self.internal.post(REPORT_PATH, content=report.to_wire())
        assert response.status_code == 200, response.text
        return ReportAnswer.from_wire(response.content)

    async def add(self, replica: FakeReplica) -> FakeReplica:
        """Bring a started replica into the fleet."""
        self.replicas.append(replica)
        await self.report(replica.report())
        return replica

    def pass_time(self, seconds: float) -> None:
        """Move the clock, and let the router notice."""
        self.clock.value += seconds
        for _ in range(10):  # some duties fall due at every tenth tick only
            self.router.tick()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Let the loop run until something holds that no event announces."""
        async with asyncio.timeout(5):
            while not holds():  # noqa: ASYNC110 - the state asked for is not an event
                await asyncio.sleep(0)

    async def raw(self, data: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        writer.write(data)
        await writer.drain()
        return reader, writer

    async def exchange(self, data: bytes) -> bytes:
        """Send raw bytes, read until the router closes."""
        reader, _ = await self.raw(data)
        async with asyncio.timeout(5):
            return await reader.read()

    async def close(self) -> None:
        for writer in self.writers:
            writer.transport.abort()
        await self.router.stop(0.2)


@pytest.fixture
async def open_house() -> AsyncIterator[Callable[..., Any]]:
    """Makes houses: `await open_house(policy=..., limits=..., replicas=1)`."""
    async with AsyncExitStack() as stack:

        async def make(
            *,
            policy: PolicyConfig | None = None,
            limits: Limits | None = None,
            replicas: int = 1,
            config: dict[str, Any] | None = None,
            replica_key: str | None = None,
            **replica: Any,
        ) -> House:
            values: dict[str, Any] = {"name": "demo", "model": "tiny", "port": 0, "policy": policy or a_policy()}
            made = RouterConfig(**(values | (config or {})))
            clock = Clock()
            options = ProcessOptions(replica_key=replica_key, limits=limits)
            router = Router(made, TOKEN, options, now=clock, wall=lambda: 1_700_000_000.0 + clock.value)
            await router.start()
            http = await stack.enter_async_context(httpx.AsyncClient(base_url=router.url, timeout=5, verify=False))
            auth = {"Authorization": f"Bearer {TOKEN}"}
            internal = await stack.enter_async_context(
                httpx.AsyncClient(base_url=router.internal_url, headers=auth, timeout=5, verify=False)
            )
            house = House(router, clock, http, internal)
            stack.push_async_callback(house.close)
            for index in range(replicas):
                fake = FakeReplica(replica_id=f"r{index + 1}", **replica)
                await house.add(await stack.enter_async_context(fake))
            return house

        yield make


@pytest.fixture
async def house(open_house: Callable[..., Any]) -> House:
    made: House = await open_house()
    return made


@pytest.fixture
def make_policy() -> Callable[..., PolicyConfig]:
    return a_policy
