"""The policies that are compared, by name.

Belongs here: how each is put together from pilots, dispatchers and controllers. The oracle's search is in `oracle`.
"""

from __future__ import annotations

from trimode_api.modes import AR, OperatingPoint
from trimode_policy.admit import AdmissionLimits
from trimode_policy.curves import Curves
from trimode_policy.decisions import PointState, Switching
from trimode_policy.rebalance import EVERY_S, Moves
from trimode_policy.route import Staleness
from trimode_tools.simulator.engine import Engine
from trimode_tools.simulator.fleet import Fleet
from trimode_tools.simulator.measures import Series
from trimode_tools.simulator.point_policies import Clairvoyant, Hysteresis, Learning, PointPolicy
from trimode_tools.simulator.pools import (
    AR_POOL,
    FAST_POOL,
    FLEX_POOL,
    FlipByLoad,
    PoolSpec,
    Rebalancing,
    fixed_seat,
)
from trimode_tools.simulator.ports import Controller, Dispatcher, Member
from trimode_tools.simulator.production import ProductionDispatcher
from trimode_tools.simulator.randomness import Randomness
from trimode_tools.simulator.scenario import Scenario

SPLIT, HYSTERESIS, TRIMODE, ORACLE = "split", "hysteresis", "trimode", "oracle"
TRUE_POINTS = "true-points"
"""Run only when asked for: production's routing, with points chosen by someone who knows the true curves. What
separates it from `trimode` is the price of learning; what separates it from the oracle is routing and admission."""
COLD = "no-affinity"
"""Run only when asked for: `trimode` without regard to which replica has the beginning of a prompt."""
DOWN = 0.7
"""Hysteresis goes back at this share of the batch at which it left."""


def policy_names(scenario: Scenario) -> tuple[str, ...]:
    """Every policy of a comparison, the oracle last."""
    return (*(f"static:{point}" for point in scenario.points), SPLIT, HYSTERESIS, TRIMODE, ORACLE)


def fleet_for(policy: str, scenario: Scenario, chance: Randomness, series: Series | None = None) -> Fleet:
    """A fresh fleet under `policy` (any but the oracle). Raises ValueError for an unknown name."""
    seats, capacity, controller = _composed(TRIMODE if policy == COLD else policy, scenario)
    dispatcher = ProductionDispatcher(
        scenario.goals,
        AdmissionLimits(scenario.max_queued, scenario.max_wait_s),
        Staleness(scenario.stale_s, scenario.dead_s),
        capacity,
        affinity=policy != COLD,
    )
    return assemble(scenario, seats, dispatcher, controller, chance, series)


def assemble(
    scenario: Scenario,
    seats: list[PoolSpec],
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
            Engine(
                scenario.truth,
                scenario.limits,
                seat.pilot(),
                chance,
                priorities,
                tuple(g.tpot_s for g in scenario.goals),
            ),
            seat.pool,
            seat.points,
        )
        for index, seat in enumerate(seats)
    ]
    fleet = Fleet(members, scenario.goals, dispatcher, controller, scenario.switch_s, scenario.max_wait_s, series)
    fleet.fail(scenario.outages)
    return fleet


Composition = tuple[list[PoolSpec], dict[str, int], Controller | None]


def _composed(policy: str, scenario: Scenario) -> Composition:
    if policy.startswith("static:"):
        point = OperatingPoint.parse(policy.removeprefix("static:"))
        return [manual_seat(FLEX_POOL, point, scenario)] * scenario.replicas, {}, None
    if policy == SPLIT:
        return _pools(scenario, scenario.replicas // 2, fixed_seat(FAST_POOL, typical(scenario))), _cap(scenario), None
    if policy == HYSTERESIS:
        return _hysteresis(scenario)
    if policy == TRUE_POINTS:
        seat = PoolSpec(FLEX_POOL, scenario.points, lambda: Clairvoyant(scenario.points, scenario.truth))
        return [seat] * scenario.replicas, {}, None
    if policy == TRIMODE and scenario.free:
        return [learning_seat(FLEX_POOL, scenario.points, scenario)] * scenario.replicas, {}, None
    if policy == TRIMODE:
        fast = learning_seat(FAST_POOL, scenario.speculative, scenario)
        return (
            _pools(scenario, scenario.replicas - max(1, scenario.replicas // 4), fast),
            {},
            _rebalancing(scenario, fast),
        )
    raise ValueError(f"policy: {policy!r} is not one of {', '.join(policy_names(scenario))}")


def typical(scenario: Scenario) -> OperatingPoint:
    """The block length one would configure by hand: the middle one."""
    points = scenario.speculative
    return points[len(points) // 2] if points else AR


def learning_seat(pool: str, points: tuple[OperatingPoint, ...], scenario: Scenario) -> PoolSpec:
    """A replica that runs production's chooser over `points`."""
    fallback = AR if AR in points else points[0]

    def pilot() -> PointPolicy:
        switching = Switching(scenario.margin, scenario.min_dwell_s, fallback)
        return Learning(points, Curves(points, scenario.prior), switching, PointState.initial(fallback, 0.0))

    return PoolSpec(pool, points, pilot)


def manual_seat(pool: str, point: OperatingPoint, scenario: Scenario) -> PoolSpec:
    """A replica that runs one point and, as in production's manual mode, still learns and reports its curve."""

    def pilot() -> PointPolicy:
        switching = Switching(fixed=point)
        return Learning((point,), Curves((point,), scenario.prior), switching, PointState.initial(point, 0.0))

    return PoolSpec(pool, (point,), pilot)


def _pools(scenario: Scenario, fast: int, seat: PoolSpec) -> list[PoolSpec]:
    """`fast` replicas in the fast pool, but never all of them; the rest runs AR."""
    fast = min(fast, scenario.replicas - 1) if scenario.speculative else 0
    return [seat] * fast + [manual_seat(AR_POOL, AR, scenario)] * (scenario.replicas - fast)


def _cap(scenario: Scenario) -> dict[str, int]:
    """The fast pool is sent no more than the batch up to which it is the faster one, by the prior."""
    return {FAST_POOL: min(scenario.limits.rows, max(1, scenario.crossover(typical(scenario)) - 1))}


def _hysteresis(scenario: Scenario) -> Composition:
    low, up = typical(scenario), scenario.crossover(typical(scenario))
    down = max(1, int(DOWN * up)) - 1
    if scenario.free:
        seat = PoolSpec(FLEX_POOL, scenario.points, lambda: Hysteresis(low, AR, up, down))
        return [seat] * scenario.replicas, {}, None
    seats = [fixed_seat(FAST_POOL, low)] * scenario.replicas
    return seats, {}, FlipByLoad(low, up, down)


def _rebalancing(scenario: Scenario, fast: PoolSpec) -> Controller:
    moves = Moves(switch_s=scenario.switch_s, every_s=max(EVERY_S, 2 * scenario.switch_s))
    return Rebalancing({AR_POOL: manual_seat(AR_POOL, AR, scenario), FAST_POOL: fast}, scenario.prior, moves)
