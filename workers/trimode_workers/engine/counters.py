"""Counts what ran and turns it into `Stats`.

Belongs here: totals since start and the snapshot that rides on a cycle a few times a second.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence as Seq

from trimode_api.modes import OperatingPoint
from trimode_policy.choose import Batch
from trimode_policy.curves import Curves
from trimode_workers.engine.messages import PointStats


class Counters:
    """Totals by operating point since start: seconds of wall clock, cycles, emitted tokens, forwards (of each row).
    `prompt`: tokens brought into rows before decoding, `computed` and `shared` (copied from the page store)."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.cycles: Counter[str] = Counter()
        self.emitted: Counter[str] = Counter()
        self.forwards: Counter[str] = Counter()
        self.preemptions = 0
        self.prompt: Counter[str] = Counter(computed=0, shared=0)

    def add(self, point: str, seconds: float, emitted: int, forwards: int) -> None:
        """One cycle of one group."""
        self.seconds[point] += seconds
        self.cycles[point] += 1
        self.emitted[point] += emitted
        self.forwards[point] += forwards


def estimates(curves: Curves, points: Seq[OperatingPoint], batch: Batch) -> list[PointStats]:
    """What the curves say of each point at `batch` (at least one request); the unpredictable are left out."""
    running = max(batch.running, 1)
    found = []
    for point in points:
        seconds = curves.cycle_seconds(point, running, batch.context_tokens)
        if seconds is not None:
            tokens = curves.tokens_per_cycle(point)
            speed = running * tokens / seconds
            found.append(PointStats(str(point), seconds, tokens, speed, curves.observed_cycles(point)))
    return found
