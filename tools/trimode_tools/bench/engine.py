"""Measures the engine alone: tokens per second of each operating point at steady concurrency.

Belongs here: the load, the clock and the medians. Points are measured in turns within one process, because a
machine's speed wanders by more than the points differ. `adaptive` is the policy at work, with curves of its own.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import count, cycle
from statistics import median

from trimode_workers.engine.engine import Engine, EngineSettings
from trimode_workers.engine.messages import Configure, Submit
from trimode_workers.model.decoder import Network

ADAPTIVE = "adaptive"
"""The name of the policy among the points to measure."""
WARM_S, LEARN_S = 0.5, 4.0
"""Seconds before the first measurement of a point, and of the policy, which has to look at the points first."""
TURN_S, TURN_CYCLES = 0.8, 5
"""Seconds and cycles that one turn lasts at least."""

Progress = Callable[[str, int, int], None]
"""(point, concurrency, round) as it begins."""


@dataclass(frozen=True, slots=True)
class EngineBenchRow:
    """Medians over the rounds: emitted tokens per second of wall clock, milliseconds per cycle (prefill included),
    and emitted tokens per request and cycle."""

    point: str
    concurrency: int
    tokens_per_s: float
    cycle_ms: float
    tokens_per_cycle: float


@dataclass(slots=True)
class _Turn:
    seconds: float = 0.0
    cycles: int = 0
    tokens: int = 0
    finished: int = 0


class _Load:
    """An engine that always has `concurrency` requests: where one ends, the next begins."""

    def __init__(
        self, network: Network, configure: Configure, concurrency: int, prompts: Seq[list[int]], max_new_tokens: int
    ) -> None:
        context = max(len(p) for p in prompts) + max_new_tokens
        # The same prompts come again and again: sharing them would flatter all points.
        self.engine = Engine(network, EngineSettings(concurrency, context, shared_tokens=0), configure)
        self._prompts, self._ids, self._max_new_tokens = cycle(prompts), count(), max_new_tokens
        # The first ones end at different times, as if they had not begun together.
        spread = random.Random(concurrency)
        for _ in range(concurrency):
            self._submit(spread.randint(1, max_new_tokens))

    def _submit(self, max_new_tokens: int) -> None:
        self.engine.submit(Submit(str(next(self._ids)), next(self._prompts), max_new_tokens))

    def run(self, seconds: float, cycles: int, finished: int = 0) -> _Turn:
        """At least that long, that many cycles, and until that many requests have finished."""
        turn, began = _Turn(), time.perf_counter()
        while turn.seconds < seconds or turn.cycles < cycles or turn.finished < finished:
            for event in self.engine.step().events:
                turn.tokens += len(event.tokens)
                if event.finish is not None:
                    turn.finished += 1
                    self._submit(self._max_new_tokens)
            turn.cycles += 1
            turn.seconds = time.perf_counter() - began
        return turn


def measure(
    network: Network,
    points: Seq[str],
    concurrencies: Seq[int],
    rounds: int,
    prompts: Seq[list[int]],
    max_new_tokens: int,
    progress: Progress | None = None,
) -> list[EngineBenchRow]:
    """One row per point and concurrency. `points` are operating points and `ADAPTIVE`, which may use the others."""
    static = [p for p in points if p != ADAPTIVE]
    rows: list[EngineBenchRow] = []
    for concurrency in concurrencies:
        loads = {}
        for point in points:
            fixed = None if point == ADAPTIVE else point
            configure = Configure(points=static or ["AR"], fallback=fixed or (static or ["AR"])[0], fixed=fixed)
            loads[point] = _Load(network, configure, concurrency, prompts, max_new_tokens)
            # Until the first ones, which end early by design, are gone.
            loads[point].run(WARM_S if fixed else LEARN_S, TURN_CYCLES, 2 * concurrency)
        turns: dict[str, list[_Turn]] = {point: [] for point in points}
        for number in range(rounds):
            for point, load in loads.items():
                if progress is not None:
                    progress(point, concurrency, number)
                turns[point].append(load.run(TURN_S, TURN_CYCLES))
        rows += [_row(point, concurrency, turns[point]) for point in points]
    return rows


def _row(point: str, concurrency: int, turns: list[_Turn]) -> EngineBenchRow:
    return EngineBenchRow(
        point,
        concurrency,
        median(t.tokens / t.seconds for t in turns),
        median(1e3 * t.seconds / t.cycles for t in turns),
        median(t.tokens / t.cycles / concurrency for t in turns),
    )
