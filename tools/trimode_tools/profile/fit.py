"""From measured cycles to a roofline, and from counted answers to tokens per cycle.

Pure, so that tests give it curves whose answer they know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, exp, log
from statistics import median

from trimode_api.modes import OperatingPoint
from trimode_policy.roofline import ModelShape, Roofline, forwards
from trimode_tools.simulate.profile_file import ProfileShape

STEP, LEAST_STEP = 0.5, 1e-3
"""Of the search, in logarithms: down to one in a thousand."""
TRIES = 3
"""Searches from different starts."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Seconds of one cycle without prompts. `context_tokens`: cached tokens per request, mean."""

    point: OperatingPoint
    batch: int
    context_tokens: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Answered:
    """What one answer took: tokens produced (the end counted, if it came to one) and cycles."""

    tokens: int
    cycles: int
    ended: bool = True


def fit_roofline(cells: Sequence[Cell], shape: ProfileShape) -> Roofline:
    """The roofline nearest to the cells by squared log ratio.

    What the cells do not tell (bandwidth, where arithmetic always takes longer) stays where the search began. Raises
    ValueError without cells.
    """
    if not cells:
        raise ValueError("cells is empty, needed is at least one")

    def loss(logs: tuple[float, ...]) -> float:
        roofline = _roofline(logs, shape)
        return sum((log(roofline.seconds(c.point, c.batch, c.context_tokens)) - log(c.seconds)) ** 2 for c in cells)

    # No forward is faster than the three allow: the least that explain the fastest cell, and multiples, are the starts.
    per_forward = [(cell, cell.seconds / forwards(cell.point)) for cell in cells]
    one = _roofline((0.0, 0.0, 0.0), shape)
    read = max(one.read_seconds(c.batch, c.context_tokens) / s for c, s in per_forward)
    computed = max(one.flops_per_token * c.batch * c.point.block_length / s for c, s in per_forward)
    least = min(s for _, s in per_forward)
    starts = product(
        [log(read * factor) for factor in (1.0, 1.5, 4.0)],
        [log(computed * factor) for factor in (1.0, 1.5, 4.0)],
        [log(least * share) for share in (0.9, 0.5, 0.1)],
    )
    found = min((_least(loss, start) for start in sorted(starts, key=loss)[:TRIES]), key=loss)
    return _roofline(found, shape)


def _roofline(logs: tuple[float, ...], shape: ProfileShape) -> Roofline:
    bytes_per_s, flops_per_s, overhead_s = map(exp, logs)
    return Roofline.for_model(
        ModelShape(**shape.model_dump()), bytes_per_s=bytes_per_s, flops_per_s=flops_per_s, overhead_s=overhead_s
    )


def _least(loss: Callable[[tuple[float, ...]], float], at: tuple[float, ...]) -> tuple[float, ...]:
    """Pattern search: in any of the directions (diagonals too, since one speed can stand in for another) while it
    gets better, then in half the steps."""
    directions = [d for d in product((-1.0, 0.0, 1.0), repeat=len(at)) if any(d)]
    best, step = loss(at), STEP
    while step > LEAST_STEP:
        before = best
        for direction in directions:
            moved = tuple(value + step * d for value, d in zip(at, direction, strict=True))
            while (found := loss(moved)) < best - 1e-12:
                at, best = moved, found
                moved = tuple(value + step * d for value, d in zip(at, direction, strict=True))
        if best == before:
            step /= 2
    return at


def fit_errors(cells: Iterable[Cell], roofline: Roofline) -> tuple[float, float]:
    """How far the roofline is from the cells: the median and the largest factor, less 1."""
    logs = [abs(log(roofline.seconds(c.point, c.batch, c.context_tokens) / c.seconds)) for c in cells]
    return exp(median(logs)) - 1, exp(max(logs)) - 1


def spread_of(turns: Iterable[Sequence[float]]) -> float:
    """Standard deviation of the logarithm of one cycle's seconds about its turn's median, without outliers' weight."""
    logs = [abs(log(seconds / median(turn))) for turn in turns if len(turn) > 2 for seconds in turn]
    return 1.4826 * median(logs) if logs else 0.0


def whole_cycle_tokens(answers: Sequence[Answered], block_length: int) -> float:
    """Tokens per cycle with which these answers take as many whole cycles as they took.

    The last cycle of an answer is cut short by its end, so tokens over cycles would have short answers take more
    cycles than they did.
    """
    wanted = sum(answer.cycles for answer in answers)
    low, high = 1.0, float(block_length)
    for _ in range(40):
        middle = (low + high) / 2
        taken = sum(ceil(answer.tokens / middle) for answer in answers)
        low, high = (middle, high) if taken > wanted else (low, middle)
    return high
