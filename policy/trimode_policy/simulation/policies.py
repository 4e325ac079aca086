"""The policies that are compared, by name.

Belongs here: how each is put together from pilots, dispatchers and controllers. The oracle's search is in `oracle`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from trimode_api.modes import AR, OperatingPoint

from ..admit import AdmissionLimits
from ..curves import Curves
from ..decisions import PointState, Switching
from ..route import Staleness
from .engine import Engine
from .fleet import Controller, Conversion, Dispatcher, Fleet, Member, Phase
from .measures import Series
from .pilots import Fixed, Hysteresis, Learning, Pilot
from .production import ProductionDispatcher
from .randomness import Randomness
from .scenario import Scenario

SPLIT, HYSTERESIS, TRIMODE, ORACLE = "split", "hysteresis", "trimode", "oracle"
AR_POOL, FAST_POOL, FLEX_POOL = "ar", "fast", "flex"
DOWN = 0.7
"""Hysteresis goes back at this share of the batch at which it left."""


def policy_names(scenario: Scenario) -> tuple[str, ...]:
    """Every policy of a comparison, the oracle last."""
    return (*(f"static:{point}" for point in scenario.points), SPLIT, HYSTERESIS, TRIMODE, ORACLE)


@dataclass(frozen=True, slots=True)
class Seat:
    """One replica at the start: its pool, the points it may run and its pilot."""

    pool: str
    points: tuple[OperatingPoint, ...]
    pilot: Callable[[], Pilot]


def fleet_for(policy: str, scenario: Scenario, chance: Randomness, series: Series | None = None) -> Fleet:
    """A fresh fleet under `policy` (any but the oracle). Raises ValueError for an unknown name."""
    seats, capacity, controller = _composed(policy, scenario)
    dispatcher = ProductionDispatcher(
        scenario.goals,
        AdmissionLimits(scenario.max_queued, scenario.max_wait_s),
        Staleness(scenario.stale_s, scenario.dead_s),
        capacity,
    )
    return assemble(scenario, seats, dispatcher, controller, chance, series)


def assemble(
    scenario: Scenario,
    seats: list[Seat],
    dispatcher: Dispatcher,
    controller: Controller | None,
    chance: Randomness,
    series: Series | None = None,
) -> Fleet:
    """A fleet with these seats; plans the scenario's outages."""
    priorities = tuple(goal.priority for goal in scenario.goals)
    members = [
        Member(
            index,
            Engine(scenario.truth, scenario.limits, seat.pilot(), chance, priorities),
            seat.pool,
            seat.points,
        )
        for index, seat in enumerate(seats)
    ]
    fleet = Fleet(
        members, scenario.goals, dispatcher, controller, scenario.switch_s, scenario.max_wait_s, series
    )
    fleet.fail(scenario.outages)
    return fleet


Composition = tuple[list[Seat], dict[str, int], Controller | None]


def _composed(policy: str, scenario: Scenario) -> Composition:
    if policy.startswith("static:"):
        point = OperatingPoint.parse(policy.removeprefix("static:"))
        return [fixed_seat(FLEX_POOL, point)] * scenario.replicas, {}, None
    if policy == SPLIT:
        return _pools(scenario, scenario.replicas // 2, fixed_seat(FAST_POOL, typical(scenario))), _cap(scenario), None
    if policy == HYSTERESIS:
        return _hysteresis(scenario)
    if policy == TRIMODE and scenario.free:
        return [learning_seat(FLEX_POOL, scenario.points, scenario)] * scenario.replicas, {}, None
    if policy == TRIMODE:
        fast = learning_seat(FAST_POOL, scenario.speculative, scenario)
        return _pools(scenario, max(1, scenario.replicas // 4), fast), _cap(scenario), None
    raise ValueError(f"policy: {policy!r} is not one of {', '.join(policy_names(scenario))}")


def typical(scenario: Scenario) -> OperatingPoint:
    """The block length one would configure by hand: the middle one."""
    points = scenario.speculative
    return points[len(points) // 2] if points else AR


def fixed_seat(pool: str, point: OperatingPoint) -> Seat:
    """A replica that runs one point."""
    return Seat(pool, (point,), lambda: Fixed(point))


def learning_seat(pool: str, points: tuple[OperatingPoint, ...], scenario: Scenario) -> Seat:
    """A replica that runs production's chooser over `points`."""
    fallback = AR if AR in points else points[0]

    def pilot() -> Pilot:
        switching = Switching(scenario.margin, scenario.min_dwell_s, fallback)
        return Learning(points, Curves(points, scenario.prior), switching, PointState.initial(fallback, 0.0))

    return Seat(pool, points, pilot)


def _pools(scenario: Scenario, fast: int, seat: Seat) -> list[Seat]:
    """`fast` replicas in the fast pool, but never all of them; the rest runs AR."""
    fast = min(fast, scenario.replicas - 1) if scenario.speculative else 0
    return [seat] * fast + [fixed_seat(AR_POOL, AR)] * (scenario.replicas - fast)


def _cap(scenario: Scenario) -> dict[str, int]:
    """The fast pool is sent no more than the batch up to which it is the faster one, by the prior."""
    return {FAST_POOL: min(scenario.limits.rows, max(1, scenario.crossover(typical(scenario)) - 1))}


def _hysteresis(scenario: Scenario) -> Composition:
    low, up = typical(scenario), scenario.crossover(typical(scenario))
    down = max(1, int(DOWN * up)) - 1
    if scenario.free:
        seat = Seat(FLEX_POOL, scenario.points, lambda: Hysteresis(low, AR, up, down))
        return [seat] * scenario.replicas, {}, None
    seats = [fixed_seat(FAST_POOL, low)] * scenario.replicas
    return seats, {}, FlipByLoad(low, up, down)


@dataclass(slots=True)
class FlipByLoad:
    """Hysteresis where a change costs seconds: a replica flips as a whole when its own load says so.

    The load is smoothed over about 5 s; the last ready replica never leaves.
    """

    low: OperatingPoint
    up: int
    down: int
    smooth: dict[int, float] = field(default_factory=dict)

    def tick(self, fleet: Fleet, now: float) -> None:
        """Convert those whose load asks for the other point."""
        for member in fleet.members:
            level = self.smooth.get(member.index, 0.0)
            level = self.smooth[member.index] = level + 0.2 * (member.engine.running - level)
            ready = sum(1 for m in fleet.members if m.phase is Phase.READY)
            if member.phase is not Phase.READY or ready < 2:
                continue
            if member.pool == FAST_POOL and level >= self.up:
                fleet.convert(member, conversion(fixed_seat(AR_POOL, AR)))
            elif member.pool == AR_POOL and level <= self.down:
                fleet.convert(member, conversion(fixed_seat(FAST_POOL, self.low)))


def conversion(seat: Seat) -> Conversion:
    """What a replica becomes to take that seat."""
    return Conversion(seat.pool, seat.points, seat.pilot)
