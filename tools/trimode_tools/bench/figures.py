"""What a benchmark found: rows, the ratios that sum them up, samples of the ramp. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

ADAPTIVE = "adaptive"
CONCURRENCIES = (1, 2, 4, 8, 16, 32, 64)
STATIC = ("AR", "S8", "S16", "S32")
POINTS = (*STATIC, ADAPTIVE)


@dataclass(frozen=True, slots=True)
class Row:
    """Median tokens per second of one point at one concurrency; `more` holds what only one of the parts measures."""

    point: str
    concurrency: int
    tokens_per_s: float
    more: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figures:
    """One run: the engine alone, and through the router; either may be empty."""

    engine: tuple[Row, ...] = ()
    router: tuple[Row, ...] = ()

    def parts(self) -> dict[str, tuple[Row, ...]]:
        """The parts that were measured, by title."""
        both = {"engine alone": self.engine, "through the router": self.router}
        return {title: rows for title, rows in both.items() if rows}

    def as_json(self) -> dict[str, Any]:
        return {title: [asdict(row) for row in rows] for title, rows in self.parts().items()}


@dataclass(frozen=True, slots=True)
class Ratio:
    """One comparison, in words and as a number."""

    words: str
    value: float


@dataclass(frozen=True, slots=True)
class Sample:
    """The fleet at one moment. `seconds` since the ramp began."""

    seconds: float
    clients: int
    running: int
    queued: int
    point: str
    reason: str
    tokens_per_s: float
    switches: int


def speed(rows: Sequence[Row], point: str, concurrency: int) -> float | None:
    """Tokens per second there; None where it was not measured."""
    found = [r.tokens_per_s for r in rows if r.point == point and r.concurrency == concurrency]
    return found[0] if found else None


def concurrencies(rows: Sequence[Row]) -> tuple[int, ...]:
    return tuple(sorted({row.concurrency for row in rows}))


def best_static(rows: Sequence[Row], concurrency: int, prefix: str = "") -> tuple[str, float] | None:
    """The fastest static point there whose name starts with `prefix`."""
    found = [
        (r.point, r.tokens_per_s)
        for r in rows
        if r.concurrency == concurrency and r.point != ADAPTIVE and r.point.startswith(prefix)
    ]
    return max(found, key=lambda item: item[1], default=None)


def ratios(rows: Sequence[Row]) -> tuple[Ratio, ...]:
    """Best self-speculation against AR at the lowest concurrency, AR against the longest block at the highest, and
    the policy against the best static point everywhere."""
    found: list[Ratio] = []
    levels = concurrencies(rows)
    if not levels:
        return ()
    low, high = levels[0], levels[-1]
    alone, few = speed(rows, "AR", low), best_static(rows, low, "S")
    if alone and few is not None:
        found.append(Ratio(f"{few[0]} / AR at {low}", few[1] / alone))
    many, longest = speed(rows, "AR", high), speed(rows, "S32", high)
    if many and longest:
        found.append(Ratio(f"AR / S32 at {high}", many / longest))
    for level in levels:
        ours, best = speed(rows, ADAPTIVE, level), best_static(rows, level)
        if ours is not None and best is not None and best[1] > 0:
            found.append(Ratio(f"adaptive / {best[0]} at {level}", ours / best[1]))
    return tuple(found)
