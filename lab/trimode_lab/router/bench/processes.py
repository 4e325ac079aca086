"""The processes of a run: servers, and our router before them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.request import Request, urlopen

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
from trimode_lab.doubles.replica.replica import FakeReplica
from trimode_lab.router.bench.load import REQUEST, Scenario, tree

_TOKEN = "bench"


@contextmanager
def router(
    ports: list[int], keys: Path | None = None, processes: int = 1, checkout: Path | None = None
) -> Iterator[tuple[int, int]]:
    """Our router before replicas on these ports: its port and process id. `checkout`: another checkout, whose router it
    is."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "router.json"
        file.write_bytes(_config(keys, processes).to_wire())
        with process(["-m", "trimode_router", "--config", str(file)], checkout) as (running, printed):
            listening = json.loads(printed)
            for url in listening.get("internalUrls", [listening["internalUrl"]]):
                for number, port in enumerate(ports):
                    replica = FakeReplica(f"r{number}", max_running=4096)
                    report = replica.report(url=f"http://127.0.0.1:{port}", model="bench").to_wire()
                    with urlopen(Request(url + REPORT_PATH, report, {"Authorization": f"Bearer {_TOKEN}"})) as answer:
                        answer.read()
            yield int(listening["url"].rsplit(":", 1)[1]), running.pid


@contextmanager
def servers(scenario: Scenario, count: int) -> Iterator[list[tuple[int, int]]]:
    """Replicas for a scenario: port and process id of each."""
    arguments = ["-m", "trimode_lab.doubles.replica.report_loop", "--chunks", str(scenario.chunks)]
    with ExitStack() as stack:
        started = [
            stack.enter_context(process([*arguments, "--pause-ms", str(scenario.pause_ms)])) for _ in range(count)
        ]
        yield [(int(printed), running.pid) for running, printed in started]


@contextmanager
def process(arguments: list[str], checkout: Path | None = None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A Python process and the first line it printed. It imports from `checkout` first, where there is one."""
    environment = os.environ | {TOKEN_VARIABLE: _TOKEN}
    if checkout is not None:
        environment["PYTHONPATH"] = os.pathsep.join(str(checkout / root) for root in ("crds", "policy", "router"))
    child = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    try:
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            raise RuntimeError(f"python {' '.join(arguments)} ended before it listened")
        yield child, line
    finally:
        for one in tree(child.pid)[1:]:
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        child.kill()
        child.communicate()


def _config(keys: Path | None, processes: int) -> RouterConfig:
    return RouterConfig(
        name="bench",
        model="bench",
        port=0,
        processes=processes,
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


def answers(port: int) -> bool:
    """Whether a router on this port serves the load's request."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(REQUEST)
            return connection.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False
