"""Who chooses the operating point of a simulated engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

from trimode_api.modes import OperatingPoint
from trimode_policy.capacity import Paces, paces
from trimode_policy.choose import choose_point
from trimode_policy.curves import Curves, Observation
from trimode_policy.decisions import Batch, PointState, Reason, Switching
from trimode_tools.simulator.cost_model import Truth

UNTIL_CHANGE = 1 << 20
"""Cycles: not asked again before the batch changes."""


class PointPolicy(Protocol):
    """Asked before cycles, told what they took."""

    @property
    def switches(self) -> int:
        """Changes of the point so far."""
        ...

    def point(
        self, running: int, context_tokens: float, counts: Sequence[int], now: float, needed_s: float = inf
    ) -> tuple[OperatingPoint, int]:
        """The point to run and for how many cycles at most before being asked again.

        `counts`: running requests by kind, which only a clairvoyant may look at.
        """
        ...

    @property
    def learns(self) -> bool:
        """Whether `learn` wants to be called."""
        ...

    def learn(self, seen: Observation, now: float) -> None:
        """One cycle was measured."""
        ...

    def paces(self, context_tokens: float, most: int) -> Paces:
        """What it tells the router; empty where it predicts nothing."""
        ...


class _Unlearning:
    """A chooser that learns nothing and predicts nothing."""

    learns = False

    def learn(self, seen: Observation, now: float) -> None:
        """Nothing to learn."""

    def paces(self, context_tokens: float, most: int) -> Paces:
        return ()


@dataclass(slots=True)
class Fixed(_Unlearning):
    """Always the same point."""

    only: OperatingPoint
    switches: int = 0

    def point(
        self, running: int, context_tokens: float, counts: Sequence[int], now: float, needed_s: float = inf
    ) -> tuple[OperatingPoint, int]:
        return self.only, UNTIL_CHANGE


@dataclass(slots=True)
class Hysteresis(_Unlearning):
    """What one would write by hand: `low` up to a batch, `high` from another on, no change within `dwell_s`."""

    low: OperatingPoint
    high: OperatingPoint
    up: int
    down: int
    dwell_s: float = 1.0
    current: OperatingPoint | None = None
    since: float = float("-inf")
    switches: int = 0

    def point(
        self, running: int, context_tokens: float, counts: Sequence[int], now: float, needed_s: float = inf
    ) -> tuple[OperatingPoint, int]:
        if self.current is None:
            self.current = self.low
        target = self.high if running >= self.up else self.low if running <= self.down else self.current
        if target != self.current and now - self.since >= self.dwell_s:
            self.current, self.since, self.switches = target, now, self.switches + 1
        return self.current, UNTIL_CHANGE


@dataclass(slots=True)
class Learning:
    """Production's own: `choose_point` over `Curves` that learn from the simulated cycles.

    `asked_every`: cycles between two questions while probing; `held`: most cycles between two questions otherwise.
    """

    points: tuple[OperatingPoint, ...]
    curves: Curves
    switching: Switching
    state: PointState
    asked_every: int = 4
    held: int = 32
    learns: bool = True

    @property
    def switches(self) -> int:
        """Changes of the chosen point so far; probes are not among them."""
        return self.state.switches

    def point(
        self, running: int, context_tokens: float, counts: Sequence[int], now: float, needed_s: float = inf
    ) -> tuple[OperatingPoint, int]:
        decision, self.state = choose_point(
            Batch(running, context_tokens, needed_s), self.points, self.curves, self.state, self.switching, now
        )
        return decision.point, self.asked_every if decision.reason is Reason.PROBE else self.held

    def learn(self, seen: Observation, now: float) -> None:
        self.curves.observe(seen, now)

    def paces(self, context_tokens: float, most: int) -> Paces:
        allowed = self.points if self.switching.fixed is None else (self.switching.fixed,)
        return paces(self.curves, allowed, context_tokens, most)


@dataclass(slots=True)
class Clairvoyant(_Unlearning):
    """Knows the true curves and what each running request will accept: the argmin, without margin or dwell."""

    points: tuple[OperatingPoint, ...]
    truth: Truth
    switches: int = 0
    _last: OperatingPoint | None = field(default=None)

    def point(
        self, running: int, context_tokens: float, counts: Sequence[int], now: float, needed_s: float = inf
    ) -> tuple[OperatingPoint, int]:
        best, best_pace = self.points[0], float("inf")
        for point in self.points:
            rates = self.truth.tokens(point, now)
            made = sum(count * rate for count, rate in zip(counts, rates, strict=True))
            pace = self.truth.hardware.seconds(point, running, context_tokens) / made
            if pace < best_pace:
                best, best_pace = point, pace
        self.switches += self._last is not None and best != self._last
        self._last = best
        return best, UNTIL_CHANGE
