"""`python -m trimode_lab.engine.streams`: what 64 open streams cost the engine.

The measurement behind the choice of a process for the engine. Three variants, taken in turns, each in fresh processes:
the engine alone; the engine in a process of its own behind the HTTP shell with open streams; the engine in a thread of
the shell's process, with the same streams. Prints medians per cycle: time on the wall, and processor time of the engine
and of the shell (as one, where they share a process), which tells more on a busy machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import median

from trimode_api.wire import AdmissionPolicy, PolicyConfig, PoolPolicy, StalenessPolicy, SwitchingPolicy, TierPolicy
from trimode_local.preflight import tiny_folder
from trimode_workers.engine.messages import Configure, Submit
from trimode_workers.process.client import EngineClient
from trimode_workers.process.framing import EnginePipe
from trimode_workers.process.loop import run
from trimode_workers.replica.replica import Replica, engine_process
from trimode_workers.replica.settings import EngineOptions, ReplicaSettings

VARIANTS = ("alone", "process", "thread")
TOKEN = "measure"
PROMPT = list(range(8, 40))
CONTEXT_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Measurement:
    """Seconds per cycle: on the wall, of processor by the engine, of processor by the shell."""

    wall: float
    engine: float
    shell: float


def alone(args: argparse.Namespace) -> Measurement:
    """The bare engine, all rows decoding."""
    from trimode_workers.process.build import build

    engine, _ = build(_options(args), Configure(points=[args.point], fallback=args.point, fixed=args.point))
    for number in range(args.streams):
        engine.submit(Submit(str(number), PROMPT, CONTEXT_TOKENS - 64, ignore_eos=True))
    _cycle_until(engine.step, time.perf_counter() + args.warm)
    began, spent = time.perf_counter(), time.process_time()
    cycles = _cycle_until(engine.step, began + args.seconds)
    return Measurement((time.perf_counter() - began) / cycles, (time.process_time() - spent) / cycles, 0.0)


def _cycle_until(step: Callable[[], object], end: float) -> int:
    cycles = 0
    while time.perf_counter() < end:
        step()
        cycles += 1
    return cycles


async def served(args: argparse.Namespace) -> Measurement:
    """The engine behind the shell, with all streams open, read by another process."""
    start = engine_process() if args.variant == "process" else _in_thread
    replica = await Replica.start(_settings(args), TOKEN, start)
    argv = [sys.executable, "-m", __spec__.name, "--variant", "load", "--url", replica.url]
    load = await asyncio.create_subprocess_exec(*argv, "--streams", str(args.streams))
    try:
        while replica.report().running < args.streams:  # noqa: ASYNC110 - a measurement, nothing else waits
            await asyncio.sleep(0.05)
        await asyncio.sleep(args.warm)
        assert isinstance(replica.engine, EngineClient)
        pid = replica.engine.process.pid
        began, before = (time.perf_counter(), _spent(pid), time.process_time()), _cycles(replica)
        await asyncio.sleep(args.seconds)
        ended, cycles = (time.perf_counter(), _spent(pid), time.process_time()), _cycles(replica) - before
        return Measurement(*((end - begin) / cycles for begin, end in zip(began, ended, strict=True)))
    finally:
        load.kill()
        await load.wait()
        await replica.stop()


def _cycles(replica: Replica) -> float:
    """Cycles as seen by the shell: tokens by row; exact in AR, where a row emits one token a cycle."""
    return replica.engine.emitted_total / replica.engine.in_flight


def _spent(pid: int) -> float:
    """Processor time of another process so far, in seconds; 0 for none (pid 0)."""
    if not pid:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class _Thread:
    """A thread in a process's place."""

    pid = 0

    def __init__(self, thread: threading.Thread) -> None:
        self._thread = thread

    def wait(self, timeout: float | None = None) -> int:
        self._thread.join(timeout)
        return 0

    def kill(self) -> None:
        """Threads cannot be killed; the closed pipe ends this one."""


async def _in_thread(options: EngineOptions, configure: Configure, on_change: Callable[[], None]) -> EngineClient:
    from trimode_workers.process.build import REFUSAL, build

    ours, theirs = socket.socketpair()

    def work() -> None:
        pipe = EnginePipe(theirs)
        engine, started = build(options, configure)
        pipe.send(started)
        run(engine, pipe, REFUSAL)
        theirs.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return await EngineClient.connect(ours, _Thread(thread), on_change)


async def load(args: argparse.Namespace) -> None:
    """Open the streams and read them, looking at nothing, until killed."""
    host, _, port = args.url.removeprefix("http://").partition(":")
    body = {"model": "m", "prompt": PROMPT, "stream": True, "ignore_eos": True, "max_tokens": CONTEXT_TOKENS - 64}
    data = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )

    async def one() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head.encode() + data)
        while await reader.read(1 << 16):
            pass

    await asyncio.gather(*(one() for _ in range(args.streams)))


def _options(args: argparse.Namespace) -> EngineOptions:
    return EngineOptions(
        model=str(args.model),
        dtype="float32",
        max_context_tokens=CONTEXT_TOKENS,
        max_running_requests=args.streams,
        threads=args.threads,
    )


def _settings(args: argparse.Namespace) -> ReplicaSettings:
    policy = PolicyConfig(
        version=1,
        tiers=(TierPolicy(name="t", ttft_milliseconds=1, tpot_milliseconds=1, percentile=95, priority=0),),
        pools=(PoolPolicy(name="p", points=(args.point,)),),
        switching=SwitchingPolicy(
            fixed={"p": args.point}, margin_percent=5, min_dwell_milliseconds=0, fallback={"p": args.point}
        ),
        admission=AdmissionPolicy(max_queued_requests=1, max_wait_milliseconds=1),
        staleness=StalenessPolicy(stale_after_seconds=1, dead_after_seconds=2),
        drain_timeout_seconds=0,
    )
    return ReplicaSettings(pool="p", served_name="m", engine=_options(args), policy=policy)


def compare(args: argparse.Namespace) -> None:
    """All variants in turns; medians over the rounds."""
    measured: dict[str, list[Measurement]] = {variant: [] for variant in VARIANTS}
    for _ in range(args.rounds):
        for variant, found in measured.items():
            argv = [sys.executable, "-m", __spec__.name, *sys.argv[1:], "--variant", variant]
            done = subprocess.run(argv, stdout=subprocess.PIPE, check=True)
            found.append(Measurement(*json.loads(done.stdout.splitlines()[-1])))
            sys.stderr.write(f"  {variant:8} {_words(found[-1])}\n")
    medians = {
        variant: Measurement(*(median(column) for column in zip(*map(astuple, found), strict=True)))
        for variant, found in measured.items()
    }
    for variant, each in medians.items():
        share = each.wall / medians["alone"].wall
        sys.stdout.write(f"{variant:8} {_words(each)}   {share:.3f} of alone\n")


def _words(measured: Measurement) -> str:
    wall, engine, shell = (1e3 * each for each in astuple(measured))
    return f"{wall:8.3f} ms per cycle, processor: engine {engine:7.3f} ms, shell {shell:7.3f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description="What open streams cost the engine.")
    parser.add_argument("--model", type=Path, default=tiny_folder())
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--point", default="AR")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warm", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variant", choices=[*VARIANTS, "load"], help="one variant only; prints seconds as JSON")
    parser.add_argument("--url", help="for the load: where the streams are")
    args = parser.parse_args()
    if args.variant is None:
        compare(args)
    elif args.variant == "load":
        asyncio.run(load(args))
    else:
        import uvloop

        value = alone(args) if args.variant == "alone" else uvloop.run(served(args))
        sys.stdout.write(json.dumps(astuple(value)) + "\n")


if __name__ == "__main__":
    main()
