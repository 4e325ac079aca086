"""The load: scenarios, the client, and what one run showed."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

_BODY = json.dumps(
    {"model": "bench", "stream": True, "messages": [{"role": "user", "content": "Say something. " * 16}]}
).encode()
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
    b"User-Agent: bench\r\nAccept: */*\r\nAuthorization: Bearer none\r\nContent-Length: %d\r\n\r\n%b"
    % (len(_BODY), _BODY)
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """`clients` requests at a time, each of `chunks` chunks `pause_ms` apart, for `seconds`."""

    name: str
    clients: int
    chunks: int
    pause_ms: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Result:
    """What one scenario showed. CPU times are the router's alone."""

    name: str
    requests: int
    errors: int
    requests_per_s: float
    cpu_ms_per_request: float
    cpu_us_per_chunk: float
    first_byte_ms_p50: float
    first_byte_ms_p99: float
    memory_mb: float


def scenarios(seconds: float) -> tuple[Scenario, ...]:
    return (
        Scenario("short", clients=32, chunks=8, pause_ms=0, seconds=seconds),
        Scenario("stream", clients=64, chunks=100, pause_ms=20, seconds=max(seconds, 5)),
        Scenario("alone", clients=1, chunks=8, pause_ms=0, seconds=seconds / 2),
    )


class Client(asyncio.Protocol):
    """A closed loop on one connection."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._tail = b""
        self._sent = 0.0
        self._waits = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.send()

    def send(self) -> None:
        self._waits = True
        self._sent = time.perf_counter()
        self.transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        if self._waits:
            self._waits = False
            self._tally.first_bytes.append(time.perf_counter() - self._sent)
            if not data.startswith(b"HTTP/1.1 200"):
                self._tally.errors += 1
        self._tally.chunks += data.count(b"token ")
        self._tail = (self._tail + data)[-8:]
        if self._tail.endswith(b"\r\n0\r\n\r\n"):
            self._tally.requests += 1
            self.send()


class Tally:
    """Counts of one run."""

    def __init__(self) -> None:
        self.requests = 0
        self.chunks = 0
        self.errors = 0
        self.first_bytes: list[float] = []


async def load(scenario: Scenario, port: int, root: int, settle_s: float = 0.5) -> Result:
    """Run one scenario against a port, counted after `settle_s`; `root` is the process whose CPU counts, with its
    descendants."""
    loop = asyncio.get_running_loop()
    tally = Tally()
    clients = [
        (await loop.create_connection(lambda: Client(tally), "127.0.0.1", port))[1] for _ in range(scenario.clients)
    ]
    await asyncio.sleep(settle_s)
    tally.requests = tally.chunks = tally.errors = 0
    tally.first_bytes.clear()
    cpu, started = cpu_seconds(root), time.perf_counter()
    await asyncio.sleep(scenario.seconds)
    cpu, elapsed = cpu_seconds(root) - cpu, time.perf_counter() - started
    for client in clients:
        client.transport.abort()
    requests = max(1, tally.requests)
    ranked = sorted(tally.first_bytes) or [0.0]
    return Result(
        name=scenario.name,
        requests=tally.requests,
        errors=tally.errors,
        requests_per_s=round(tally.requests / elapsed, 1),
        cpu_ms_per_request=round(1000 * cpu / requests, 4),
        cpu_us_per_chunk=round(1e6 * cpu / max(1, tally.chunks), 2),
        first_byte_ms_p50=round(1000 * statistics.median(ranked), 3),
        first_byte_ms_p99=round(1000 * ranked[int(len(ranked) * 0.99)], 3),
        memory_mb=round(memory_mb(root), 1),
    )


def tree(root: int) -> list[int]:
    """A process and its descendants."""
    found = [root]
    for one in found:
        for file in Path(f"/proc/{one}/task").glob("*/children"):
            found += map(int, file.read_text().split())
    return found


def cpu_seconds(root: int) -> float:
    """Time on a core, of threads that still live: to the nanosecond, where `stat` counts hundredths of a second."""
    nanoseconds = 0
    for one in tree(root):
        for file in Path(f"/proc/{one}/task").glob("*/schedstat"):
            with suppress(OSError):  # the thread has ended
                nanoseconds += int(file.read_text().split()[0])
    return nanoseconds / 1e9


def memory_mb(root: int) -> float:
    pages = sum(int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in tree(root))
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
