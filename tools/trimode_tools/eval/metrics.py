"""From answers to the figures of an operating point. Pure.

Definitions:
    accuracy            share of right answers; its interval is Wilson's, 95 %
    tokens per forward  tokens over forwards of each row; prompts left out, the end of an answer counted
    acceptance length   tokens per cycle, counted likewise
    TTFT                from asking to the first token, in seconds
    TPOT                time from first to last token over the tokens after the first, over all answers together
    speed               tokens per second over the time that the point took, all requests at once
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import median

Z95 = 1.959964
"""Quantile of the normal distribution for an interval of 95 %."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer at one point. Times in seconds from asking; `first_s` None where nothing came.

    `tokens`: what the client gets. `produced`: with the end of sequence, which takes a forward as others do.
    """

    text: str
    tokens: int
    produced: int
    cycles: int
    first_s: float | None
    last_s: float


@dataclass(frozen=True, slots=True)
class Run:
    """All answers of a point, in the questions' order. `forwards` None where the engine does not tell."""

    point: str
    answers: Sequence[Answer]
    seconds: float
    forwards: int | None


@dataclass(frozen=True, slots=True)
class Score:
    """One operating point's figures; None where they cannot be had. Times in seconds, cost per million tokens."""

    point: str
    questions: int
    right: int
    interval: tuple[float, float]
    same_as_ar: float | None
    tokens_per_forward: float | None
    acceptance_length: float | None
    ttft_s: float | None
    tpot_s: float | None
    tokens_per_second: float
    cost: float | None
    tasks: Mapping[str, tuple[int, int]]

    @property
    def accuracy(self) -> float:
        return self.right / self.questions


def wilson(right: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share (E. B. Wilson, 1927): honest also near 0 and 1 and for few questions."""
    share, z2 = right / total, Z95 * Z95
    centre = share + z2 / (2 * total)
    spread = Z95 * sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    return max(0.0, (centre - spread) / (1 + z2 / total)), min(1.0, (centre + spread) / (1 + z2 / total))


def cost_per_million(price_per_hour: float, tokens_per_second: float) -> float:
    """What a million tokens cost on a machine that costs `price_per_hour` and is fully used."""
    return price_per_hour / (tokens_per_second * 3600) * 1e6


def score(
    run: Run, verdicts: Sequence[bool], tasks: Sequence[str], reference: Run | None, price: float | None
) -> Score:
    """The figures of `run`. `verdicts` and `tasks` belong to its answers one by one; `reference` is AR's run."""
    answers = run.answers
    tokens = sum(answer.tokens for answer in answers)
    produced = sum(answer.produced for answer in answers)
    cycles = sum(answer.cycles for answer in answers)
    speed = tokens / run.seconds if run.seconds else 0.0
    firsts = [answer.first_s for answer in answers if answer.first_s is not None]
    later = [(a.last_s - a.first_s, a.tokens - 1) for a in answers if a.first_s is not None and a.tokens > 1]
    same = None
    if reference is not None:
        pairs = zip(answers, reference.answers, strict=True)
        same = sum(mine.text == other.text for mine, other in pairs) / len(answers)
    by_task: dict[str, tuple[int, int]] = {}
    for task, right in zip(tasks, verdicts, strict=True):
        before = by_task.get(task, (0, 0))
        by_task[task] = (before[0] + right, before[1] + 1)
    return Score(
        point=run.point,
        questions=len(answers),
        right=sum(verdicts),
        interval=wilson(sum(verdicts), len(answers)),
        same_as_ar=same,
        tokens_per_forward=produced / run.forwards if run.forwards else None,
        acceptance_length=produced / cycles if cycles else None,
        ttft_s=median(firsts) if firsts else None,
        tpot_s=sum(s for s, _ in later) / sum(n for _, n in later) if later else None,
        tokens_per_second=speed,
        cost=cost_per_million(price, speed) if price is not None and speed else None,
        tasks=dict(sorted(by_task.items())),
    )
