"""Replicas that need seconds to change their mode: specs, conversions and the slow loops that order them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from trimode_api.modes import AR, OperatingPoint
from trimode_policy.curves import Curves
from trimode_policy.rebalance import Demand, Moves, MoveState, PoolView, rebalance
from trimode_policy.roofline import Roofline
from trimode_tools.simulator.fleet import Fleet
from trimode_tools.simulator.point_policies import Fixed, Learning
from trimode_tools.simulator.ports import Phase, PoolSpec

AR_POOL, FAST_POOL, FLEX_POOL = "ar", "fast", "flex"


def fixed_spec(pool: str, point: OperatingPoint) -> PoolSpec:
    """A replica that runs one point."""
    return PoolSpec(pool, (point,), lambda: Fixed(point))


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
                fleet.convert(member, fixed_spec(AR_POOL, AR))
            elif member.pool == AR_POOL and level <= self.down:
                fleet.convert(member, fixed_spec(FAST_POOL, self.low))


@dataclass(slots=True)
class Rebalancing:
    """Production's `rebalance`, asked every 10 s about the last minute.

    A pool's pace comes from the curves one of its replicas has learned, else from the prior.
    """

    specs: Mapping[str, PoolSpec]
    prior: Roofline
    moves: Moves
    state: MoveState = field(default_factory=MoveState)
    context: float = 1000.0
    flights: deque[int] = field(default_factory=lambda: deque(maxlen=60))

    def tick(self, fleet: Fleet, now: float) -> None:
        """Convert one replica if `rebalance` says so."""
        self.flights.append(sum(member.engine.in_flight for member in fleet.members))
        if now % 10.0 >= 1.0 or len(self.flights) < 30:
            return
        rows = sum(m.engine.running for m in fleet.members)
        if rows:
            self.context = sum(m.engine.context for m in fleet.members) / rows
        ordered = sorted(self.flights)
        demand = Demand(ordered[len(ordered) // 10], ordered[len(ordered) * 9 // 10])
        views = [self._view(name, fleet) for name in self.specs]
        decision, self.state = rebalance(views, demand, self.moves, self.state, now)
        if decision.source is not None and decision.target is not None:
            ready = [m for m in fleet.members if m.pool == decision.source and m.phase is Phase.READY]
            if ready:
                member = min(ready, key=lambda m: (m.engine.in_flight, m.index))
                fleet.convert(member, self.specs[decision.target])

    def _view(self, name: str, fleet: Fleet) -> PoolView:
        members = [m for m in fleet.members if m.pool == name and m.phase is not Phase.DEAD]
        moving = sum(1 for m in members if m.phase is not Phase.READY)
        pilots = (m.engine.point_policy for m in members)
        learned = next((chooser.curves for chooser in pilots if isinstance(chooser, Learning)), None)
        known = learned or Curves(self.specs[name].points, self.prior)
        points, context = self.specs[name].points, self.context

        def pace(batch: int) -> float | None:
            found = [(known.cycle_seconds(p, batch, context), known.tokens_per_cycle(p)) for p in points]
            return min((seconds / tokens for seconds, tokens in found if seconds is not None), default=None)

        rows = fleet.members[0].engine.limits.rows
        kept = [
            m.engine.prefix_cache.tokens / m.engine.prompts.tokens_per_s for m in members if m.engine.prompts.prompts
        ]
        kept_s = sum(kept) / len(kept) if kept else 0.0
        return PoolView(name, len(members) - moving, moving, pace, rows, kept_s=kept_s)
