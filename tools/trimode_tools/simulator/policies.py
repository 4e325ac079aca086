"""The policies that are compared, by name.

The oracle's search is in `oracle`.
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
    Rebalancing,
    fixed_spec,
)
from trimode_tools.simulator.ports import Controller, Dispatcher, Member, PoolSpec
from trimode_tools.simulator.production import ProductionDispatcher
from trimode_tools.simulator.scenario import Scenario
from trimode_tools.simulator.workload import Randomness

SPLIT, HYSTERESIS, TRIMODE, ORACLE = "split", "hysteresis", "trimode", "oracle"
TRUE_POINTS = "true-points"
"""Run only when asked for: production's routing, with points chosen by the true curves. What
separates it from `trimode` is the price of learning; what separates it from the oracle is routing and admission."""
COLD = "no-affinity"
"""Run only when asked for: `trimode` without regard to which replica has the beginning of a prompt."""
QUARTER = "split:"
"""Run only when asked for, with a point after it: one replica in four AR, as in `trimode`, the others at that point,
and nothing moves."""
DOWN = 0.7
"""Hysteresis goes back at this share of the batch at which it left."""


def policy_names(scenario: Scenario) -> tuple[str, ...]:
    """Every policy of a comparison, the oracle last."""
    return (*(f"static:{point}" for point in scenario.points), SPLIT, HYSTERESIS, TRIMODE, ORACLE)


def asked_for_only(scenario: Scenario) -> tuple[str, ...]:
    """Policies that are run only where they are named."""
    return (TRUE_POINTS, COLD, *(f"{QUARTER}{point}" for point in scenario.speculative))


def fleet_for(policy: str, scenario: Scenario, rng: Randomness, series: Series | None = None) -> Fleet:
    """A fresh fleet under `policy` (any but the oracle). Raises ValueError for an unknown name."""
    specs, capacity, controller = _composed(TRIMODE if policy == COLD else policy, scenario)
    dispatcher = ProductionDispatcher(
        scenario.goals,
        AdmissionLimits(scenario.max_queued, scenario.max_wait_s, scenario.refuse_late),
        Staleness(scenario.stale_s, scenario.dead_s),
        capacity,
        affinity=policy != COLD,
    )
    fleet = assemble(scenario, specs, dispatcher, rng, series)
    fleet.controller = controller
    return fleet


def assemble(
    scenario: Scenario,
    specs: list[PoolSpec],
    dispatcher: Dispatcher,
    rng: Randomness,
    series: Series | None = None,
) -> Fleet:
    """A fleet with these replicas, without a controller; plans the scenario's outages."""
    priorities = tuple(goal.priority for goal in scenario.goals)
    tpots = tuple(goal.tpot_s for goal in scenario.goals)
    ttfts = tuple(goal.ttft_s for goal in scenario.goals)
    members = []
    for index, spec in enumerate(specs):
        engine = Engine(scenario.truth, scenario.limits, spec.point_policy(), rng, priorities, tpots, ttfts)
        members.append(Member(index, engine, spec.pool, spec.points))
    fleet = Fleet(members, scenario.goals, dispatcher, None, scenario.switch_s, scenario.max_wait_s, series)
    fleet.fail(scenario.outages)
    return fleet


Composition = tuple[list[PoolSpec], dict[str, int], Controller | None]


def _composed(policy: str, scenario: Scenario) -> Composition:
    if policy.startswith("static:"):
        point = OperatingPoint.parse(policy.removeprefix("static:"))
        return [manual_spec(FLEX_POOL, point, scenario)] * scenario.replicas, {}, None
    if policy == SPLIT:
        # The fast pool is sent no more than the batch up to which it is the faster one, by the prior.
        most = min(scenario.limits.rows, max(1, scenario.crossover(typical(scenario)) - 1))
        specs = _pools(scenario, scenario.replicas // 2, fixed_spec(FAST_POOL, typical(scenario)))
        return specs, {FAST_POOL: most}, None
    if policy.startswith(QUARTER):
        point = OperatingPoint.parse(policy.removeprefix(QUARTER))
        return _quarter(scenario, manual_spec(FAST_POOL, point, scenario)), {}, None
    if policy == HYSTERESIS:
        low, up = typical(scenario), scenario.crossover(typical(scenario))
        down = max(1, int(DOWN * up)) - 1
        if scenario.free:
            spec = PoolSpec(FLEX_POOL, scenario.points, lambda: Hysteresis(low, AR, up, down))
            return [spec] * scenario.replicas, {}, None
        return [fixed_spec(FAST_POOL, low)] * scenario.replicas, {}, FlipByLoad(low, up, down)
    if policy == TRUE_POINTS:
        spec = PoolSpec(FLEX_POOL, scenario.points, lambda: Clairvoyant(scenario.points, scenario.truth))
        return [spec] * scenario.replicas, {}, None
    if policy == TRIMODE and scenario.free:
        return [learning_spec(FLEX_POOL, scenario.points, scenario)] * scenario.replicas, {}, None
    if policy == TRIMODE:
        fast = learning_spec(FAST_POOL, scenario.speculative, scenario)
        moves = Moves(switch_s=scenario.switch_s, every_s=max(EVERY_S, 2 * scenario.switch_s))
        slow = manual_spec(AR_POOL, AR, scenario)
        return _quarter(scenario, fast), {}, Rebalancing({AR_POOL: slow, FAST_POOL: fast}, scenario.prior, moves)
    raise ValueError(f"policy: {policy!r} is not one of {', '.join(policy_names(scenario))}")


def typical(scenario: Scenario) -> OperatingPoint:
    """The block length one would configure by hand: the middle one."""
    points = scenario.speculative
    return points[len(points) // 2] if points else AR


def learning_spec(pool: str, points: tuple[OperatingPoint, ...], scenario: Scenario) -> PoolSpec:
    """A replica that runs production's chooser over `points`."""
    fallback = AR if AR in points else points[0]

    def point_policy() -> PointPolicy:
        switching = Switching(scenario.margin, scenario.min_dwell_s, fallback)
        return Learning(points, Curves(points, scenario.prior), switching, PointState.initial(fallback, 0.0))

    return PoolSpec(pool, points, point_policy)


def manual_spec(pool: str, point: OperatingPoint, scenario: Scenario) -> PoolSpec:
    """A replica that runs one point and, as in production's manual mode, still learns and reports its curve."""

    def point_policy() -> PointPolicy:
        switching = Switching(fixed=point)
        return Learning((point,), Curves((point,), scenario.prior), switching, PointState.initial(point, 0.0))

    return PoolSpec(pool, (point,), point_policy)


def _quarter(scenario: Scenario, spec: PoolSpec) -> list[PoolSpec]:
    """One replica in four runs AR."""
    return _pools(scenario, scenario.replicas - max(1, scenario.replicas // 4), spec)


def _pools(scenario: Scenario, fast: int, spec: PoolSpec) -> list[PoolSpec]:
    """`fast` replicas in the fast pool, but never all of them; the rest runs AR."""
    fast = min(fast, scenario.replicas - 1) if scenario.speculative else 0
    return [spec] * fast + [manual_spec(AR_POOL, AR, scenario)] * (scenario.replicas - fast)
