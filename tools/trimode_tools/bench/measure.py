"""The three measurements: the engine alone, through the router, and a load that rises and falls.

Points take turns within each concurrency, because a machine's speed wanders by more than the points differ.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

from trimode_api.fleet import PUBLIC_FLEET_PATH, FleetView
from trimode_local.client import Endpoint
from trimode_local.errors import StartFailed
from trimode_local.status_line import summary_of
from trimode_tools import engines
from trimode_tools.bench.figures import ADAPTIVE, CONCURRENCIES, POINTS, STATIC, Row, Sample
from trimode_tools.bench.load import Job, Tally
from trimode_tools.bench.served import Load
from trimode_tools.points import pin
from trimode_tools.report import Progress

WARM_S, LEARN_S = 0.5, 4.0
"""Seconds before the engine's first measurement of a point, and of the policy, which has to try the points first."""
TURN_S, TURN_CYCLES = 0.8, 5
"""Seconds and cycles that one turn of the engine alone lasts at least."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How long to measure. `warm_s` and `turn_s` are seconds of each turn through the router."""

    concurrencies: tuple[int, ...] = CONCURRENCIES
    rounds: int = 3
    warm_s: float = 1.0
    turn_s: float = 2.0
    max_tokens: int = 128

    def turns(self) -> Iterator[tuple[int, int, str, int]]:
        """Concurrency, round, point and the turns done after it, in order."""
        done = 0
        for level in self.concurrencies:
            for number in range(self.rounds):
                for point in POINTS:
                    done += 1
                    yield level, number, point, done

    @property
    def total(self) -> int:
        return len(self.concurrencies) * self.rounds * len(POINTS)


QUICK = Budget(concurrencies=(1, 8, 64), rounds=1, warm_s=0.5, turn_s=1.5)


def questions(count: int = 256) -> list[str]:
    """Prompts that the tiny model has not seen in training, every task equally often."""
    from trimode_tools.tasks.suite import held_out_set

    samples = held_out_set(per_task=24)
    # Knuth's multiplicative hash mixes the tasks well, and the same way each time.
    order = sorted(range(len(samples)), key=lambda index: (index * 2654435761) % 4294967296)
    return [samples[index].prompt for index in order[:count]]


@dataclass(frozen=True, slots=True)
class ModelUnderTest:
    """The model that the engine alone is measured with. `threads` 0 leaves them to torch."""

    folder: Path
    draft_adapter: str | None = None
    threads: int = 0


def engine_alone(model: ModelUnderTest, prompts: Sequence[str], budget: Budget, progress: Progress) -> tuple[Row, ...]:
    """The engine in this process, on a GPU where there is one: medians over the rounds of tokens per second of wall
    clock, milliseconds per cycle (prefill included), and tokens per request and cycle.

    Raises BadInput for a model that cannot be loaded.
    """
    from trimode_workers.engine.engine import Engine, EngineSettings
    from trimode_workers.engine.messages import Configure
    from trimode_workers.process.build import load_network
    from trimode_workers.replica.settings import EngineOptions
    from trimode_workers.text.tokenizer import load_text_model

    options = EngineOptions(model=str(model.folder), draft_adapter=model.draft_adapter, threads=model.threads)
    with engines.refusals():
        text = load_text_model(model.folder)
        tokens = [text.chat([{"role": "user", "content": prompt}]) for prompt in prompts]
        network, _ = load_network(options)
    context = max(map(len, tokens)) + budget.max_tokens
    found: dict[tuple[int, str], list[engines.Turn]] = {}
    loops: dict[str, engines.ClosedLoop] = {}
    for level, number, point, done in budget.turns():
        if number == 0:
            if point == POINTS[0]:
                loops.clear()  # the caches of the last concurrency make room for those of this one
            fixed = None if point == ADAPTIVE else point
            configure = Configure(points=list(STATIC), fallback=fixed or STATIC[0], fixed=fixed)
            # The same prompts come again and again: sharing them would flatter all points.
            engine = Engine(network, EngineSettings(level, context, shared_tokens=0), configure)
            loops[point] = engines.ClosedLoop(engine, level, cycle(tokens), budget.max_tokens)
            # Until the first answers, which are cut short on purpose, are gone.
            loops[point].run(WARM_S if fixed else LEARN_S, TURN_CYCLES, finished=2 * level)
        found.setdefault((level, point), []).append(loops[point].run(TURN_S, TURN_CYCLES))
        progress(f"engine alone: {point} at {level}", done, budget.total)
    return tuple(
        Row(
            point,
            level,
            median(t.tokens / t.seconds for t in turns),
            {
                "cycleMs": median(1e3 * t.seconds / t.cycles for t in turns),
                "tokensPerCycle": median(t.tokens / t.cycles / level for t in turns),
            },
        )
        for (level, point), turns in found.items()
    )


def through_router(load: Load, prompts: Sequence[str], budget: Budget, progress: Progress) -> tuple[Row, ...]:
    """Streams through the router; static points are pinned by the request, adaptive is left to the policy.

    Raises StartFailed where requests fail: a speed over failures means nothing.
    """
    speeds: dict[tuple[int, str], list[float]] = {}
    for level, _, point, done in budget.turns():
        stages = [(level, budget.warm_s + budget.turn_s)]
        load.begin(Job(stages, prompts, budget.max_tokens, pinned(point), budget.warm_s))
        tally = load.end()
        if tally.failures:
            raise StartFailed(f"{tally.failures} requests failed at {point}, {level} clients: {tally.error}")
        speeds.setdefault((level, point), []).append(tally.tokens / tally.seconds)
        progress(f"through the router: {point} at {level}", done, budget.total)
    return tuple(Row(point, level, median(values)) for (level, point), values in speeds.items())


def pinned(point: str) -> dict[str, Any]:
    """What a request adds to run `point`; nothing where the policy chooses."""
    return {} if point == ADAPTIVE else {"trimode": pin(point)}


RAMP = (1, 2, 4, 8, 16, 32, 64, 32, 16, 8, 4, 2, 1)
SAMPLE_EVERY_S = 0.25


def drive_ramp(
    endpoint: Endpoint, load: Load, prompts: Sequence[str], step_s: float, progress: Progress
) -> tuple[list[Sample], Tally]:
    """Drive the ramp, `step_s` seconds a step, and sample the fleet meanwhile; nothing is judged."""
    load.begin(Job([(clients, step_s) for clients in RAMP], prompts))
    began, samples, done = time.monotonic(), [], threading.Event()
    answer: list[Tally] = []

    def wait() -> None:
        try:
            answer.append(load.end())
        finally:
            done.set()

    threading.Thread(target=wait, daemon=True).start()
    while not done.wait(SAMPLE_EVERY_S):
        seconds = time.monotonic() - began
        step = min(int(seconds / step_s), len(RAMP) - 1)
        seen = summary_of(FleetView.from_wire(endpoint.get(PUBLIC_FLEET_PATH)))
        now = (seen.running, seen.queued, seen.point, seen.reason, seen.tokens_per_second, seen.switches)
        samples.append(Sample(round(seconds, 3), RAMP[step], *now))
        progress(f"{RAMP[step]} clients, {seen.point} ({seen.reason})", step, len(RAMP))
    if not answer:
        raise StartFailed("the load ended in the middle of the ramp")
    return samples, answer[0]
