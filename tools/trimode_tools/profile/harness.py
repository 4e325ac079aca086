"""An engine whose running requests are made to order, and a clock.

Which loads are made, and what becomes of the figures, is in `measure`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random
from statistics import median
from typing import TYPE_CHECKING

from trimode_api.modes import AR, OperatingPoint
from trimode_tools.engines import complete
from trimode_tools.profile.fit import Answered

if TYPE_CHECKING:
    from trimode_workers.engine.engine import Engine
    from trimode_workers.engine.messages import Configure

SPREAD = (0.5, 1.5)
"""Rows are between these shares of the context asked for, as no two requests are equally long."""
ODD = 5.0
"""A cycle this many times as long as its turn's median is left out."""
GROWN = 1.25
"""Rows that grew to this share of the context asked for are replaced."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Cycles of one point, in seconds each; `context_tokens` per request, mean."""

    seconds: tuple[float, ...]
    context_tokens: float

    @property
    def mean(self) -> float:
        """Without cycles in which a GPU's graph was recorded or the machine was elsewhere."""
        bound = ODD * median(self.seconds)
        kept = [seconds for seconds in self.seconds if seconds <= bound]
        return sum(kept) / len(kept)


@dataclass(slots=True)
class EngineHarness:
    """`points`: all that the engine may run, AR among them. `text`: tokens that prompts are cut from."""

    engine: Engine
    points: tuple[OperatingPoint, ...]
    text: Sequence[int]
    rng: Random = field(default_factory=lambda: Random(0))
    clock: Callable[[], float] = time.perf_counter
    _rows: dict[str, int] = field(default_factory=dict)
    _names: count[int] = field(default_factory=count)
    _disturbed: bool = False
    _made: tuple[int, int] = (0, 0)

    def fill(self, batch: int, context: int) -> None:
        """`batch` rows of about `context` cached tokens, and nothing else."""
        self.clear()
        self.engine.configure(self.configuration(AR))
        self._made = batch, context
        for number in range(batch):
            share = SPREAD[0] + (SPREAD[1] - SPREAD[0]) * (number + 0.5) / batch
            self._submit(max(2, round(share * context)))
        while self.engine.stats().queued_prompt_tokens or self.engine.stats().waiting:
            self._cycle()

    def clear(self) -> None:
        """End everything."""
        for name in tuple(self._rows):
            self.engine.cancel(name)
        self._rows.clear()
        while not self.engine.idle:
            self.engine.step()

    def configuration(self, point: OperatingPoint | None) -> Configure:
        """`point` fixed, or None: what the policy chooses."""
        from trimode_workers.engine.messages import Configure

        return Configure([str(each) for each in self.points], str(AR), None if point is None else str(point))

    def cycles(self, point: OperatingPoint, seconds: float, least: int) -> Turn:
        """At least that many cycles and seconds of the rows that there are."""
        seconds_each: list[float] = []
        contexts = 0.0
        self._turn_to(point)
        while len(seconds_each) < least or sum(seconds_each) < seconds:
            if self._context > GROWN * self._made[1]:
                self.fill(*self._made)
                self._turn_to(point)
            clean, context = not self._disturbed, self._context
            took = self._cycle()
            if clean:
                seconds_each.append(took)
                contexts += context
        return Turn(tuple(seconds_each), contexts / len(seconds_each))

    def with_prompts(self, point: OperatingPoint, pieces: int, tokens: int, pairs: int) -> float:
        """Seconds by which `pieces` prompts of `tokens` tokens lengthen a cycle; as many rows leave for them.

        Cycles with and without take turns.
        """
        self._turn_to(point)
        without, having = 0.0, 0.0
        for _ in range(pairs):
            while self._disturbed:
                self._cycle()
            without += self._cycle()
            began = self.clock()
            for name in tuple(self._rows)[:pieces]:
                self.engine.cancel(name)
                del self._rows[name]
                self._submit(tokens + 1)  # the last token of a prompt is decoded, not prefilled
            submitted = self.clock() - began
            having += submitted + self._cycle()
            self._cycle()
        return max(0.0, (having - without) / pairs)

    def answers(self, point: OperatingPoint, prompts: Sequence[list[int]], max_tokens: int) -> list[Answered]:
        """The prompts answered at `point`, all at once; the clock does not matter."""
        self.clear()
        self.engine.configure(self.configuration(None))
        found = complete(self.engine, prompts, str(point), max_tokens)
        return [Answered(one.produced, one.cycles, one.ended) for one in found]

    @property
    def _context(self) -> float:
        return sum(self._rows.values()) / len(self._rows)

    def _turn_to(self, point: OperatingPoint) -> None:
        self.engine.configure(self.configuration(point))
        self._cycle()  # the first one after a change pays for cold caches

    def _cycle(self) -> float:
        """Seconds of one cycle. A row that reached its end is replaced, which disturbs the next cycle."""
        began = self.clock()
        cycle = self.engine.step()
        took = self.clock() - began
        self._disturbed = False
        for event in cycle.events:
            if event.request_id not in self._rows:
                continue  # it was cancelled
            self._rows[event.request_id] += len(event.tokens)
            if event.finish is not None:
                self._submit(max(2, self._rows.pop(event.request_id) // 2))
        return took

    def _submit(self, tokens: int) -> None:
        from trimode_workers.engine.messages import Submit

        name, start = f"row-{next(self._names)}", self.rng.randrange(len(self.text))
        prompt = [self.text[(start + offset) % len(self.text)] for offset in range(tokens)]
        self.engine.submit(Submit(name, prompt, max_new_tokens=1 << 20, ignore_eos=True))
        self._rows[name] = tokens
        self._disturbed = True
