"""Rounds: every candidate in turn, before the same servers, on the same load.

CPU is that of a candidate's whole process tree.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import uvloop

from trimode_lab.router.bench import load
from trimode_lab.router.bench import processes as launch
from trimode_lab.router.bench.load import Result, Scenario, tree
from trimode_lab.router.rivals.candidates import MODEL, RIVALS, Candidate, free_port, key_file

CORES = os.cpu_count() or 1
OURS = "trimode"
ON_ALL_CORES = f"trimode, {CORES} processes"
"""As the rivals that have a thread for each core."""
DIRECT = "no router"
_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """One candidate in one scenario: the rounds' results, in order."""

    candidate: str
    scenario: str
    rounds: tuple[Result, ...]

    def median(self, field: str) -> float:
        return float(statistics.median(getattr(result, field) for result in self.rounds))

    def ratio(self, other: Outcome, field: str) -> float | None:
        """Median over rounds of ours by theirs; None where theirs is nothing."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        ratios = [getattr(a, field) / getattr(b, field) for a, b in pairs if getattr(b, field)]
        return float(statistics.median(ratios)) if ratios else None

    @property
    def failed(self) -> bool:
        return any(result.errors or not result.requests for result in self.rounds)


def scenarios(seconds: float) -> tuple[Scenario, ...]:
    """As in `trimode_lab.router.bench`, and a crowd of slow streams for their memory."""
    return (*load.scenarios(seconds), Scenario("crowd", clients=2000, chunks=20, pause_ms=500, seconds=12))


def installed(path: str) -> dict[Candidate, str]:
    """Who takes part, and where it was found."""
    return {candidate: binary for candidate in RIVALS if (binary := candidate.found(path))}


def compare(scenario: Scenario, rivals: dict[Candidate, str], rounds: int) -> list[Outcome]:
    """One scenario with everybody."""
    with ExitStack() as stack:
        servers = stack.enter_context(launch.servers(scenario, 2))
        ports = [port for port, _ in servers]
        # The first server alone, as the others' share of it is what a router adds to.
        runners: dict[str, tuple[int, int]] = {DIRECT: servers[0]}
        runners[OURS] = stack.enter_context(_ours(ports, 1))
        if CORES > 1:
            runners[ON_ALL_CORES] = stack.enter_context(_ours(ports, CORES))
        for candidate, binary in rivals.items():
            try:
                runners[candidate.name] = stack.enter_context(_rival(candidate, binary, ports))
            except (OSError, RuntimeError) as error:
                print(f"{candidate.name} is left out: {error}", flush=True)  # noqa: T201 - for who waits
        results: dict[str, list[Result]] = {name: [] for name in runners}
        for number in range(rounds):
            first = number % len(runners)  # another one goes first in each round
            for name in (*tuple(runners)[first:], *tuple(runners)[:first]):
                port, process = runners[name]
                results[name].append(uvloop.run(load.load(scenario, port, process)))
        return [Outcome(name, scenario.name, tuple(each)) for name, each in results.items()]


@contextmanager
def _ours(servers: list[int], processes: int) -> Iterator[tuple[int, int]]:
    with (
        tempfile.TemporaryDirectory() as folder,
        launch.router(servers, key_file(Path(folder)), processes) as running,
    ):
        yield running


@contextmanager
def _rival(candidate: Candidate, binary: str, servers: list[int]) -> Iterator[tuple[int, int]]:
    """Its port and process, once it answers. RuntimeError where it does not."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        log = Path(folder, "log")
        with log.open("wb") as out:
            process = subprocess.Popen(
                [binary, *candidate.command(Path(folder), port, servers)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=os.environ | {"NO_PROXY": "*", "LITELLM_TELEMETRY": "False"},
            )
        try:
            end = time.monotonic() + _START_SECONDS
            while not launch.answers(port) and time.monotonic() < end and process.poll() is None:
                time.sleep(0.3)
            if not launch.answers(port):
                raise RuntimeError(f"no answer; its last words: {log.read_text(errors='replace')[-300:]!r}")
            yield port, process.pid
        finally:
            for child in tree(process.pid):
                if child != process.pid:
                    with suppress(ProcessLookupError):
                        os.kill(child, 9)
            process.kill()
            process.wait()


__all__ = ["DIRECT", "MODEL", "ON_ALL_CORES", "OURS", "Outcome", "compare", "installed", "scenarios"]
