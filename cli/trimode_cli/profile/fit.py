"""From measured cycles to a roofline, and from counted answers to tokens per cycle.

Belongs here: arithmetic over what was measured; pure, so that tests give it curves whose answer they know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil, exp, log
from statistics import median

from trimode_api.modes import OperatingPoint
from trimode_cli.profile.file import ProfileShape
from trimode_policy.roofline import Roofline, forwards

STEP, LEAST_STEP = 1.0, 1e-4
"""Of the search, in logarithms: from a factor of e down to one in ten thousand."""
_START_BYTES_PER_S, _START_FLOPS_PER_S = 1e10, 1e11


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
    """The roofline nearest to the cells by squared log ratio: a pattern search over its three speeds.

    What the cells do not tell (bandwidth, where arithmetic always takes longer) stays about where it starts. Raises
    ValueError without cells.
    """
    if not cells:
        raise ValueError("cells is empty, needed is at least one")
    fewest = min(cells, key=lambda cell: cell.batch * cell.point.block_length)
    start = (
        log(_START_BYTES_PER_S),
        log(_START_FLOPS_PER_S),
        log(0.5 * fewest.seconds / forwards(fewest.point)),
    )

    def loss(logs: tuple[float, ...]) -> float:
        roofline = _roofline(logs, shape)
        return sum((log(roofline.seconds(c.point, c.batch, c.context_tokens)) - log(c.seconds)) ** 2 for c in cells)

    return _roofline(_least(loss, start), shape)


def _roofline(logs: tuple[float, ...], shape: ProfileShape) -> Roofline:
    bytes_per_s, flops_per_s, overhead_s = map(exp, logs)
    return Roofline.for_model(
        **shape.model_dump(), bytes_per_s=bytes_per_s, flops_per_s=flops_per_s, overhead_s=overhead_s
    )


def _least(loss: Callable[[tuple[float, ...]], float], at: tuple[float, ...]) -> tuple[float, ...]:
    """Hooke and Jeeves without the pattern move: along each axis while it gets better, then in half the steps."""
    best, step = loss(at), STEP
    while step > LEAST_STEP:
        before = best
        for axis in range(len(at)):
            for sign in (step, -step):
                while (found := loss(moved := _moved(at, axis, sign))) < best - 1e-12:
                    at, best = moved, found
        if best == before:
            step /= 2
    return at


def _moved(at: tuple[float, ...], axis: int, by: float) -> tuple[float, ...]:
    return tuple(value + by if index == axis else value for index, value in enumerate(at))


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
