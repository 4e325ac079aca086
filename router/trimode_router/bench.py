"""`python -m trimode_router.bench`: what the router costs, in CPU time of its process.

Belongs here: scenarios, the client, and the report. Upstream, router and client are three processes; CPU time is read
from /proc, so it holds on a busy machine too. Wall-clock figures do not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast
from urllib.request import Request, urlopen

import uvloop

from trimode_api.wire import (
    REPORT_PATH,
    TOKEN_VARIABLE,
    AdmissionPolicy,
    PolicyConfig,
    PoolPolicy,
    RouterConfig,
    StalenessPolicy,
    SwitchingPolicy,
    TierPolicy,
)
from trimode_router.testing.replica import FakeReplica

_TOKEN = "bench"
_BODY = json.dumps(
    {"model": "bench", "stream": True, "messages": [{"role": "user", "content": "Say something. " * 16}]}
).encode()
_REQUEST = (
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
        self.transport.write(_REQUEST)

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


async def load(scenario: Scenario, port: int, root: int) -> Result:
    """Run one scenario against a port; `root` is the process whose CPU counts, with its descendants."""
    loop = asyncio.get_running_loop()
    tally = Tally()
    clients = [
        (await loop.create_connection(lambda: Client(tally), "127.0.0.1", port))[1] for _ in range(scenario.clients)
    ]
    await asyncio.sleep(0.5)
    tally.requests = tally.chunks = tally.errors = 0
    tally.first_bytes.clear()
    cpu, started = _cpu_seconds(root), time.perf_counter()
    await asyncio.sleep(scenario.seconds)
    cpu, elapsed = _cpu_seconds(root) - cpu, time.perf_counter() - started
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
        memory_mb=round(_memory_mb(root), 1),
    )


def run(scenario: Scenario, *, direct: bool = False) -> Result:
    """Start the processes, run, end them. `direct` leaves the router out, as the baseline."""
    pulse = ["-m", "trimode_router.testing.pulse", "--chunks", str(scenario.chunks)]
    with process([*pulse, "--pause-ms", str(scenario.pause_ms)]) as (upstream, printed):
        upstream_port = int(printed)
        if direct:
            return uvloop.run(load(scenario, upstream_port, upstream.pid))
        with router([upstream_port]) as (port, pid):
            return uvloop.run(load(scenario, port, pid))


@contextmanager
def router(servers: list[int], keys: Path | None = None) -> Iterator[tuple[int, int]]:
    """Our router before replicas on these ports: its port and process id."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "router.json"
        file.write_bytes(_config(keys).to_wire())
        with process(["-m", "trimode_router", "--config", str(file)]) as (running, printed):
            listening = json.loads(printed)
            for number, port in enumerate(servers):
                _introduce(listening["internalUrl"], port, f"r{number}")
            yield int(listening["url"].rsplit(":", 1)[1]), running.pid


@contextmanager
def process(arguments: list[str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A Python process and the first line it printed."""
    child = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {TOKEN_VARIABLE: _TOKEN},
    )
    try:
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            raise RuntimeError(f"python {' '.join(arguments)} ended before it listened")
        yield child, line
    finally:
        child.kill()
        child.communicate()


def _config(keys: Path | None) -> RouterConfig:
    return RouterConfig(
        name="bench",
        model="bench",
        port=0,
        keys_file="" if keys is None else str(keys),
        policy=PolicyConfig(
            version=1,
            tiers=(TierPolicy(name="any", ttft_milliseconds=100, tpot_milliseconds=50, percentile=95, priority=0),),
            pools=(PoolPolicy(name="flex", points=("AR",)),),
            switching=SwitchingPolicy(margin_percent=5, min_dwell_milliseconds=200, fallback={"flex": "AR"}),
            admission=AdmissionPolicy(max_queued_requests=1024, max_wait_milliseconds=10_000),
            # The replica reports once, at the start.
            staleness=StalenessPolicy(stale_after_seconds=3000, dead_after_seconds=3600),
        ),
    )


def _introduce(internal_url: str, port: int, name: str) -> None:
    report = FakeReplica(name, max_running=4096).report(url=f"http://127.0.0.1:{port}", model="bench")
    headers = {"Authorization": f"Bearer {_TOKEN}"}
    with urlopen(Request(internal_url + REPORT_PATH, data=report.to_wire(), headers=headers)) as answer:
        answer.read()


def answers(port: int) -> bool:
    """Whether a router on this port serves the load's request."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(_REQUEST)
            return connection.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def tree(root: int) -> list[int]:
    """A process and its descendants."""
    found = [root]
    for one in found:
        for file in Path(f"/proc/{one}/task").glob("*/children"):
            found += map(int, file.read_text().split())
    return found


def _cpu_seconds(root: int) -> float:
    ticks = 0
    for one in tree(root):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _memory_mb(root: int) -> float:
    pages = sum(int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in tree(root))
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> int:
    """Print a table, or JSON with `--json`; exit code 1 where a request failed."""
    parser = argparse.ArgumentParser(prog="python -m trimode_router.bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each scenario")
    parser.add_argument("--only", help="run one scenario: short, stream or alone")
    parser.add_argument("--direct", action="store_true", help="without the router: the harness's own share")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    chosen = [s for s in scenarios(options.seconds) if options.only in (None, s.name)]
    results = [run(scenario, direct=options.direct) for scenario in chosen]
    out = sys.stdout
    if options.json:
        out.write(json.dumps([asdict(result) for result in results], indent=2) + "\n")
    else:
        names = list(asdict(results[0]))
        out.write("  ".join(f"{name:>18}" for name in names) + "\n")
        for result in results:
            out.write("  ".join(f"{value:>18}" for value in asdict(result).values()) + "\n")
    return 1 if any(result.errors for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
