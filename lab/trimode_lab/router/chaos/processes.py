"""The processes: one router, its replicas, and what can be done to them.

Only processes started here are ever touched.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import aiohttp

from trimode_api.wire import (
    POLICY_PATH,
    TOKEN_VARIABLE,
    AdmissionPolicy,
    PolicyConfig,
    PoolPolicy,
    RouterConfig,
    StalenessPolicy,
    SwitchingPolicy,
    TierPolicy,
)
from trimode_lab.router.bench.load import memory_mb

_TOKEN = "chaos"
_START_SECONDS = 60.0
_POLL_SECONDS = 0.05


def a_policy(version: int) -> PolicyConfig:
    """Policies of different versions differ in what may change without harm."""
    return PolicyConfig(
        version=version,
        tiers=(
            TierPolicy(name="any", ttft_milliseconds=500 + version, tpot_milliseconds=50, percentile=95, priority=0),
        ),
        pools=(PoolPolicy(name="flex", points=("AR", "S8", "S16", "S32")),),
        switching=SwitchingPolicy(margin_percent=version % 20, min_dwell_milliseconds=200, fallback={"flex": "AR"}),
        admission=AdmissionPolicy(max_queued_requests=1000, max_wait_milliseconds=20_000),
        staleness=StalenessPolicy(stale_after_seconds=1, dead_after_seconds=5),
        drain_timeout_seconds=30,
    )


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """What a process holds: memory, open files and sockets, tasks of its loop."""

    memory_mb: float
    descriptors: int
    tasks: int


class Processes:
    """Use as a context: everything started ends with it. `url` is the router's, the same after a restart."""

    def __init__(self) -> None:
        self.url = ""
        self.router: asyncio.subprocess.Process
        self.replicas: dict[str, asyncio.subprocess.Process] = {}
        self._internal = ""
        self._ports = (0, 0)
        self._serial = itertools.count(1)
        self._version = 1
        self._folder = tempfile.TemporaryDirectory()
        self._faulty: set[str] = set()
        self._past: list[asyncio.subprocess.Process] = []

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit_per_host=1),
            headers={"Authorization": f"Bearer {_TOKEN}"},
            timeout=aiohttp.ClientTimeout(total=5),
        )
        try:
            await self.start_router()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        router = [self.router] if hasattr(self, "router") else []
        for process in [*self.replicas.values(), *self._past, *router]:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
            await process.communicate()
        self._folder.cleanup()

    async def start_router(self) -> None:
        """On the ports of the one before, where there was one."""
        file = Path(self._folder.name, "router.json")
        public, internal = self._ports
        config = RouterConfig(
            name="chaos", model="tiny", port=public, internal_port=internal, policy=a_policy(self._version)
        )
        file.write_bytes(config.to_wire())  # noqa: ASYNC240 - a few hundred bytes
        self.router, line = await _start(["-m", "trimode_router", "--config", str(file)])
        listening = json.loads(line)
        self.url, self._internal = listening["url"], listening["internalUrl"]
        self._ports = _port(self.url), _port(self._internal)

    async def restart_router(self) -> int:
        """SIGTERM, wait for its streams to end, start the next on the same ports. Its exit code."""
        self.router.send_signal(signal.SIGTERM)
        code = await self.router.wait()
        self._past.append(self.router)
        await self.start_router()
        return code

    async def add(self, count: int = 1, fault: str = "") -> list[str]:
        """Start replicas and wait until the router may use them. Their names."""
        names = [f"r{next(self._serial)}" for _ in range(count)]
        for name in names:
            arguments = ["-m", "trimode_lab.router.chaos.actor", "--id", name, "--router", self._internal]
            arguments += ["--token", _TOKEN]
            if fault:
                self._faulty.add(name)
            self.replicas[name], _ = await _start([*arguments, *(["--fault", fault] if fault else [])])
        await self.known()
        return names

    async def known(self) -> None:
        """Wait until the router has heard of every replica."""
        async with asyncio.timeout(_START_SECONDS):
            while not self.replicas.keys() <= {r["replicaId"] for r in (await self.fleet())["replicas"]}:  # noqa: ASYNC110
                await asyncio.sleep(_POLL_SECONDS)

    async def usage(self) -> ProcessUsage:
        """What the router's process holds now."""
        router = self.router.pid
        return ProcessUsage(memory_mb(router), descriptors(router), *await self.gauges("tasks"))

    async def gauges(self, *names: str) -> list[int]:
        """The router's own, by the rest of their names."""
        async with self._session.get(self.url + "/metrics") as response:
            told = dict(line.rsplit(" ", 1) for line in (await response.text()).splitlines() if line[:1] != "#")
        return [int(float(told[f"trimode_router_{name}"])) for name in names]

    def any(self) -> str:
        """The oldest replica without a fault."""
        return next(name for name in self.replicas if name not in self._faulty)

    async def kill(self, name: str) -> None:
        process = self.replicas.pop(name)
        process.kill()
        await process.communicate()

    def signal(self, name: str, number: signal.Signals) -> None:
        self.replicas[name].send_signal(number)

    async def put_policy(self) -> None:
        """The next version."""
        self._version += 1
        async with self._session.put(self._internal + POLICY_PATH, data=a_policy(self._version).to_wire()) as response:
            response.raise_for_status()

    async def fleet(self) -> dict[str, list[dict[str, object]]]:
        async with self._session.get(self.url + "/fleet") as response:
            value: dict[str, list[dict[str, object]]] = await response.json()
            return value

    async def settled(self) -> None:
        """Wait until the router has nothing under way, and has seen all clients go.

        A load that ends closes 58 connections at once; a busy machine's router still held 57 of them when it was
        counted, which looked like a leak.
        """
        asking = 1  # the session's one connection
        async with asyncio.timeout(_START_SECONDS):
            while sum(await self.gauges("in_flight", "queued", "client_connections")) > asking:  # noqa: ASYNC110
                await asyncio.sleep(_POLL_SECONDS)


async def _start(arguments: list[str]) -> tuple[asyncio.subprocess.Process, bytes]:
    """A Python process and its first line."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=os.environ | {TOKEN_VARIABLE: _TOKEN},
    )
    assert process.stdout is not None
    async with asyncio.timeout(_START_SECONDS):
        line = await process.stdout.readline()
    if not line:
        await process.communicate()
        raise RuntimeError(f"python {' '.join(arguments)} ended before it listened")
    return process, line


def _port(url: str) -> int:
    return int(url.rsplit(":", 1)[1])


def descriptors(process: int) -> int:
    """Open files and sockets of a process."""
    return len(os.listdir(f"/proc/{process}/fd"))
