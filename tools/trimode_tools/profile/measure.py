"""What is measured, in which order, and the profile that comes of it.

Points take turns at every load, because a machine's speed wanders by more than the points differ; rounds go over
everything again, and medians over them forgive a busy moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from trimode_api.modes import AR, Mode, OperatingPoint
from trimode_tools.profile.fit import Answered, Cell, fit_roofline, spread_of, whole_cycle_tokens
from trimode_tools.profile.harness import EngineHarness, Turn
from trimode_tools.simulate.profile_file import Profile, ProfileCycle, ProfilePrompts, ProfileShape

PROMPT_BATCH = 16
"""Rows that decode while the cost of prompts is measured, where the engine takes as many."""
PROMPT_TOKENS = (32, 64, 128, 256)
"""Prompt tokens in one cycle; more is the business of the line through the last two."""

MAX_TOKENS = 128
"""Longest answer while acceptance is counted, and of the closed loop."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How much to measure. A turn takes at least `turn_s` seconds and `turn_cycles` cycles.

    Closed loops: seconds before counting begins, in the first round (`learn_s`) and later (`warm_s`), and of counting.
    """

    rounds: int = 5
    turn_s: float = 0.06
    turn_cycles: int = 2
    pairs: int = 4
    answers: int = 256
    learn_s: float = 4.0
    warm_s: float = 0.5
    loop_s: float = 2.5


QUICK = Budget(rounds=1, turn_s=0.02, turn_cycles=2, pairs=1, answers=24, learn_s=0.3, loop_s=0.3)


@dataclass(frozen=True, slots=True)
class Plan:
    """`batches` and `contexts` (cached tokens per request) ascending; `piece`: tokens of a typical prompt."""

    points: tuple[OperatingPoint, ...]
    batches: tuple[int, ...]
    contexts: tuple[int, ...]
    piece: int
    budget: Budget

    @property
    def rows_for_prompts(self) -> int:
        return max((batch for batch in self.batches if batch <= PROMPT_BATCH), default=self.batches[0])

    @property
    def prompt_modes(self) -> dict[Mode, OperatingPoint]:
        """The shortest point of each mode: beside AR prompts ride along, beside the others they run apart."""
        return {point.mode: point for point in sorted(self.points, key=lambda p: -p.block_length)}

    @property
    def turns(self) -> int:
        """Of one round."""
        return len(self.points) * len(self.batches) * len(self.contexts) + len(self.prompt_modes) * len(PROMPT_TOKENS)


def powers_to(most: int) -> tuple[int, ...]:
    """1, 2, 4, ... and `most` itself."""
    return (*(1 << n for n in range(most.bit_length()) if 1 << n < most), most)


@dataclass(frozen=True, slots=True)
class Prompts:
    """What the engine is asked: token ids of each prompt, and its kind."""

    tokens: list[list[int]]
    tasks: list[str]

    @property
    def typical_length(self) -> int:
        """The median, in tokens."""
        return sorted(map(len, self.tokens))[len(self.tokens) // 2]


@dataclass(slots=True)
class Measurement:
    """What was measured so far."""

    cycles: dict[tuple[OperatingPoint, int, int], list[Turn]] = field(default_factory=dict)
    prompts: dict[tuple[Mode, int], list[float]] = field(default_factory=dict)
    answers: dict[OperatingPoint, list[Answered]] = field(default_factory=dict)


def measure_round(harness: EngineHarness, plan: Plan, measurement: Measurement) -> Iterator[str]:
    """One round over everything; yields what was measured after each turn."""
    budget = plan.budget
    for context in plan.contexts:
        for batch in plan.batches:
            harness.fill(batch, context)
            for point in plan.points:
                turn = harness.cycles(point, budget.turn_s, budget.turn_cycles)
                measurement.cycles.setdefault((point, batch, context), []).append(turn)
                yield f"{point}, {batch} requests of {context} tokens"
    rows = plan.rows_for_prompts
    harness.fill(rows, plan.contexts[0])
    for tokens in PROMPT_TOKENS:
        pieces = min(rows, max(1, round(tokens / plan.piece)))
        for mode, point in plan.prompt_modes.items():
            seconds = harness.with_prompts(point, pieces, tokens // pieces, budget.pairs)
            measurement.prompts.setdefault((mode, tokens // pieces * pieces), []).append(seconds)
            yield f"{point}, {tokens} prompt tokens"
    harness.clear()


def cells_of(measurement: Measurement) -> tuple[Cell, ...]:
    """Medians over the rounds."""
    return tuple(
        Cell(point, batch, median(t.context_tokens for t in turns), median(t.mean for t in turns))
        for (point, batch, _), turns in sorted(
            measurement.cycles.items(), key=lambda item: _order(item[0][0]) + item[0][1:]
        )
    )


def _order(point: OperatingPoint) -> tuple[int, str]:
    return point.block_length, str(point)


@dataclass(frozen=True, slots=True)
class Target:
    """What was measured, and on what."""

    name: str
    model: str
    device: str
    memory_bytes: float
    shape: ProfileShape
    about: Mapping[str, object]


def profile_of(measurement: Measurement, target: Target, tasks: Sequence[str]) -> Profile:
    """`tasks`: the kind of each prompt that was answered."""
    cells = cells_of(measurement)
    roofline = fit_roofline(cells, target.shape)
    turns = [turn.seconds for turns in measurement.cycles.values() for turn in turns]
    kinds: dict[str, dict[str, float]] = {kind: {} for kind in sorted(set(tasks))}
    for kind, by_point in kinds.items():
        for point, answers in measurement.answers.items():
            own = [answer for answer, task in zip(answers, tasks, strict=True) if task == kind]
            by_point[str(point)] = whole_cycle_tokens(own, point.block_length)
    return Profile(
        name=target.name,
        model=target.model,
        device=target.device,
        bytes_per_s=roofline.bytes_per_s,
        flops_per_s=roofline.flops_per_s,
        overhead_s=roofline.overhead_s,
        memory_bytes=target.memory_bytes,
        shape=target.shape,
        context_tokens=min(cell.context_tokens for cell in cells),
        noise=min(1.0, spread_of(turns)),
        cycles=tuple(
            ProfileCycle(
                point=str(c.point), batch=c.batch, context_tokens=round(c.context_tokens, 1), seconds=c.seconds
            )
            for c in cells
        ),
        prompts=tuple(
            ProfilePrompts(mode=mode, tokens=tokens, seconds=median(seconds))
            for (mode, tokens), seconds in sorted(measurement.prompts.items())
        ),
        tokens_per_cycle={
            str(point): whole_cycle_tokens(answers, point.block_length)
            for point, answers in measurement.answers.items()
        },
        acceptance_length={
            str(point): sum(a.tokens for a in answers) / sum(a.cycles for a in answers)
            for point, answers in measurement.answers.items()
        },
        kinds=kinds if len(kinds) > 1 else {},
        about=target.about,
    )


def with_ar(points: Sequence[OperatingPoint]) -> tuple[OperatingPoint, ...]:
    """AR, which every profile has, and the others by block length."""
    return (AR, *sorted({point for point in points if point != AR}, key=_order))
