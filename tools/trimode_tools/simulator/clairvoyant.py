"""Routing with full knowledge, for the oracle: true curves, true lengths, true acceptance.

Belongs here: the oracle's dispatcher and its few plans. Which plan holds when is searched in `oracle`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from trimode_api.modes import OperatingPoint
from trimode_policy.fair_queue import Ticket
from trimode_tools.simulator.cost_model import Truth
from trimode_tools.simulator.fleet import Fleet
from trimode_tools.simulator.ports import Member, Phase, Placement
from trimode_tools.simulator.rows import Request
from trimode_tools.simulator.workload import Goal, Job


@dataclass(frozen=True, slots=True)
class Plan:
    """How the oracle routes for a while.

    `fast`: so many replicas are kept at the pace of the strictest objective, whoever comes; strict requests try
    them first, the others last. `drop`: refuse who would miss its objectives everywhere. `slack`: share of the TPOT
    objective that the predicted pace may use (prefills of others take the rest). `hold`: who meets its objectives
    nowhere waits in line while there is time for it.
    """

    fast: int = 0
    drop: bool = True
    slack: float = 0.9
    hold: bool = False

    def __deepcopy__(self, memo: object) -> Plan:
        return self


@dataclass(slots=True)
class ClairvoyantDispatcher:
    """Mutable in `plan` only."""

    truth: Truth
    goals: tuple[Goal, ...]
    plan: Plan = Plan()

    def admit(self, request: Request, fleet: Fleet) -> Placement:
        """The best member that meets the objectives; without one, refuse or take the least loaded."""
        index = self._pick(request.job, fleet)
        if index is not None:
            return Placement(index)
        if self.plan.hold:
            return Placement()
        return Placement(refused=True) if self.plan.drop else Placement(self._least(fleet))

    def again(self, request: Request, fleet: Fleet) -> int | None:
        """A request from a replica that died goes to the least loaded, one that waits where it still meets its
        objectives."""
        return self._least(fleet) if request.first_at >= 0 or not self.plan.hold else self._pick(request.job, fleet)

    def starved(self, fleet: Fleet) -> Ticket[Request] | None:
        """Who knows the future lets nobody go first for fairness."""
        return None

    def _least(self, fleet: Fleet) -> int | None:
        ready = [m for m in fleet.members if m.phase is Phase.READY]
        return min(ready, key=lambda m: (m.engine.in_flight, m.index)).index if ready else None

    def _pick(self, job: Job, fleet: Fleet) -> int | None:
        goal = self.goals[job.tier]
        strictest = min(g.tpot_s for g in self.goals)
        strict = goal.tpot_s <= strictest
        best, best_score = None, inf
        ready = (m for m in fleet.members if m.phase is Phase.READY)
        for place, member in enumerate(ready):
            fast = place < self.plan.fast
            limit = strictest if fast else goal.tpot_s
            if self._meets(job, goal.ttft_s - (fleet.now - job.at), limit * self.plan.slack, member, fleet.now):
                score = member.engine.in_flight + (0.0 if fast == strict else 1e6)
                if score < best_score:
                    best, best_score = member.index, score
        return best

    def _meets(self, job: Job, ttft_s: float, tpot_s: float, member: Member, now: float) -> bool:
        """Whether the job would meet these objectives there, if nobody came after it."""
        engine = member.engine
        if engine.in_flight >= engine.limits.rows:
            return False
        rest = max(0.0, engine.step.ends - now) if engine.step is not None and engine.step.cycles == 1 else 0.0
        pace = self._pace(job, member, engine.in_flight + 1, now) / max(0.1, 1.0 - engine.stalled)
        first = rest + self.truth.hardware.prefill_seconds(engine.queued_tokens + job.prompt) + pace
        return first <= ttft_s and pace <= tpot_s

    def _pace(self, job: Job, member: Member, batch: int, now: float) -> float:
        engine = member.engine
        context = (engine.context + engine.reserved + job.prompt) / batch
        return min(self._seconds(point, batch, context, job, now) for point in member.points)

    def _seconds(self, point: OperatingPoint, batch: int, context: float, job: Job, now: float) -> float:
        return self.truth.hardware.seconds(point, batch, context) / self.truth.tokens(point, now)[job.kind]
