"""`python -m trimode_lab.engine.mixed`: long prompts among short ones, and when the first tokens of both come.

One engine, one thread, an open loop of requests. The clock is the processor time that the engine has used, so that a
busy machine changes nothing; while nothing is to do it jumps to the next arrival. To compare two versions, run the
file with each one's packages in PYTHONPATH: the load is the same, and an older engine is not told what it does not
know of.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch

from trimode_workers.engine.engine import Engine, EngineSettings
from trimode_workers.engine.messages import Configure, Submit
from trimode_workers.model.loading import load_decoder

TTFT_S, TPOT_S = 2.0, 0.05
"""A client's objectives, those of `examples/tiny.yaml` (standard tier)."""


class Clock:
    """The engine's own time: processor seconds of this thread, plus what was skipped while it was idle."""

    def __init__(self) -> None:
        self.skipped = 0.0

    def __call__(self) -> float:
        return time.thread_time() + self.skipped

    def wait_until(self, at: float) -> None:
        """Skip to `at`, where that is ahead."""
        self.skipped += max(0.0, at - self())


def arrivals(args: argparse.Namespace) -> list[tuple[float, str, int]]:
    """Second, kind and prompt tokens of each request, in order."""
    rng, at, found = random.Random(args.seed), 0.0, []
    while at < args.duration:
        at += rng.expovariate(args.rate)
        long = rng.random() < args.long_share
        found.append((at, "long", rng.randint(600, 900)) if long else (at, "short", rng.randint(16, 64)))
    return found


def serve(engine: Engine, clock: Clock, args: argparse.Namespace, vocabulary: int) -> dict[str, Any]:
    """Serve the load to its end: first tokens in milliseconds by kind, and tokens per second of the engine's time."""
    rng, due = random.Random(args.seed + 1), arrivals(args)
    start, emitted = clock(), 0
    came: dict[str, float] = {}
    kinds: dict[str, str] = {}
    first: dict[str, float] = {}
    objective: dict[str, Any] = {"first_left_s": TTFT_S} if "first_left_s" in Submit.__struct_fields__ else {}
    while due or not engine.idle:
        if engine.idle:
            clock.wait_until(start + due[0][0])
        while due and start + due[0][0] <= clock():
            at, kind, tokens = due.pop(0)
            name = str(len(came))
            came[name], kinds[name] = start + at, kind
            prompt = [rng.randrange(10, vocabulary) for _ in range(tokens)]
            engine.submit(Submit(name, prompt, args.answer, tier_tpot_s=TPOT_S, ignore_eos=True, **objective))
        cycle = engine.step()
        now = clock()
        for event in cycle.events:
            emitted += len(event.tokens)
            if event.tokens:
                first.setdefault(event.request_id, now - came[event.request_id])
    spent = clock() - start
    found: dict[str, Any] = {"tokens_per_s": round(emitted / spent, 1), "seconds": round(spent, 2)}
    for kind in ("short", "long"):
        waits = sorted(1e3 * first[name] for name, each in kinds.items() if each == kind)
        found[kind] = {f"p{p}": round(waits[min(len(waits) - 1, len(waits) * p // 100)]) for p in (50, 95)}
        found[kind]["requests"] = len(waits)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="First tokens of short prompts among long ones, one engine.")
    parser.add_argument("--model", type=Path, required=True, help="a folder with weights")
    parser.add_argument("--rate", type=float, default=14.0, help="requests per second")
    parser.add_argument("--long-share", type=float, default=0.5)
    parser.add_argument("--answer", type=int, default=8, help="tokens of each answer")
    parser.add_argument("--duration", type=float, default=20.0, help="seconds of the engine's time")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    decoder, _ = load_decoder(args.model, torch.float32)
    clock = Clock()
    settings = EngineSettings(64, 1024, shared_tokens=0)
    engine = Engine(decoder, settings, Configure(points=["AR", "S8", "S16"], fallback="AR"), clock)
    for warm in range(4):
        engine.submit(Submit(f"warm{warm}", [5] * 300, 16, ignore_eos=True))
        while not engine.idle:
            engine.step()
    sys.stdout.write(json.dumps(serve(engine, clock, args, decoder.config.vocab_size)) + "\n")


if __name__ == "__main__":
    main()
