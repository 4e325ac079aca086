"""The two measurements: the engine alone, and through the router.

Belongs here: what is run in which order, and medians. Points take turns within each concurrency, because a machine's
speed wanders by more than the points differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from trimode_api.modes import Mode, OperatingPoint
from trimode_local.errors import BadInput, StartFailed
from trimode_tools.bench.figures import ADAPTIVE, POINTS, Row
from trimode_tools.bench.load import Job
from trimode_tools.bench.served import Load

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Budget:
    """How long to measure. `warm_s` and `turn_s` are seconds of each turn through the router."""

    concurrencies: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    rounds: int = 3
    warm_s: float = 1.0
    turn_s: float = 2.0
    max_tokens: int = 128


QUICK = Budget(concurrencies=(1, 8, 64), rounds=1, warm_s=0.5, turn_s=1.5)


def questions(count: int = 256) -> list[str]:
    """Prompts that the tiny model has not seen in training, every task equally often."""
    from trimode_tools.tasks.suite import held_out_set

    samples = held_out_set(per_task=24)
    order = sorted(range(len(samples)), key=lambda index: (index * 2654435761) % 4294967296)  # well mixed, no chance
    return [samples[index].prompt for index in order[:count]]


@dataclass(frozen=True, slots=True)
class EngineUnderTest:
    """The model that the engine alone is measured with. `threads` 0 leaves them to torch."""

    folder: Path
    draft_adapter: str | None = None
    threads: int = 0


def engine_alone(model: EngineUnderTest, prompts: Sequence[str], effort: Budget, progress: Progress) -> tuple[Row, ...]:
    """The engine in this process, on a GPU where there is one, without HTTP, text or a second process.

    Raises BadInput for a model that cannot be loaded.
    """
    from trimode_tools.bench.engine import measure
    from trimode_workers.errors import ModelError, TemplateError, TokenizerError
    from trimode_workers.process.build import load_network
    from trimode_workers.replica.settings import EngineOptions
    from trimode_workers.text.tokenizer import load_text_model

    options = EngineOptions(model=str(model.folder), draft_adapter=model.draft_adapter, threads=model.threads)
    try:
        text = load_text_model(model.folder)
        tokens = [text.chat([{"role": "user", "content": prompt}]) for prompt in prompts]
        network, _ = load_network(options)
    except (ModelError, TokenizerError, TemplateError) as exc:
        raise BadInput(str(exc)) from exc
    rows = measure(
        network,
        list(POINTS),
        list(effort.concurrencies),
        effort.rounds,
        tokens,
        effort.max_tokens,
        progress=lambda point, level, turn: progress(f"engine alone: {point} at {level}, round {turn + 1}"),
    )
    return tuple(
        Row(r.point, r.concurrency, r.tokens_per_s, {"cycleMs": r.cycle_ms, "tokensPerCycle": r.tokens_per_cycle})
        for r in rows
    )


def through_router(load: Load, prompts: Sequence[str], effort: Budget, progress: Progress) -> tuple[Row, ...]:
    """Streams through the router; static points are pinned by the request, adaptive is left to the policy.

    Raises StartFailed where requests fail: a speed over failures means nothing.
    """
    rows: list[Row] = []
    for level in effort.concurrencies:
        speeds: dict[str, list[float]] = {point: [] for point in POINTS}
        for turn in range(effort.rounds):
            for point in POINTS:
                progress(f"through the router: {point} at {level}, round {turn + 1}")
                stages = [(level, effort.warm_s + effort.turn_s)]
                load.begin(Job(stages, prompts, effort.max_tokens, pin(point), effort.warm_s))
                tally = load.end()
                if tally.failures:
                    raise StartFailed(f"{tally.failures} requests failed at {point}, {level} clients: {tally.error}")
                speeds[point].append(tally.tokens / tally.seconds)
        rows += [Row(point, level, median(values)) for point, values in speeds.items()]
    return tuple(rows)


def pin(point: str) -> dict[str, Any]:
    """What a request says to run `point`; nothing for the policy's choice."""
    if point == ADAPTIVE:
        return {}
    parsed = OperatingPoint.parse(point)
    if parsed.mode is Mode.AR:
        return {"trimode": {"mode": "AR"}}
    threshold = {} if parsed.threshold is None else {"threshold": parsed.threshold}
    return {"trimode": {"mode": parsed.mode.value, "blockLength": parsed.block_length, **threshold}}
