"""The oracle: the best of many searches with everything known in advance.

It pays the same switching cost and obeys the same engine. What it finds is achievable, hence a lower bound of the
optimum; a proven upper bound is in `bound`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from math import inf

from trimode_api.modes import AR
from trimode_policy.fair_queue import Ticket
from trimode_tools.simulator.cost_model import Truth
from trimode_tools.simulator.fleet import Fleet
from trimode_tools.simulator.measures import Series
from trimode_tools.simulator.point_policies import Clairvoyant
from trimode_tools.simulator.policies import assemble
from trimode_tools.simulator.pools import AR_POOL, FAST_POOL, FLEX_POOL, fixed_spec
from trimode_tools.simulator.ports import Member, Phase, Placement, PoolSpec
from trimode_tools.simulator.rows import Request
from trimode_tools.simulator.scenario import Scenario
from trimode_tools.simulator.workload import Goal, Job, Randomness


@dataclass(frozen=True, slots=True)
class Plan:
    """How the oracle routes for a while.

    `fast`: so many replicas are kept at the pace of the strictest objective for every request; strict requests try
    them first, the others last. `drop`: refuse a request that would miss its objectives everywhere. `slack`: share of
    the TPOT objective that the predicted pace may use (prefills of others take the rest). `hold`: a request that meets
    its objectives nowhere waits while there is time for it.
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
            request.prompt_s = self.truth.hardware.prefill_seconds(request.job.prompt)
            return Placement()
        return Placement(refused=True) if self.plan.drop else Placement(self._least(fleet))

    def again(self, request: Request, fleet: Fleet) -> int | None:
        """A request from a replica that died goes to the least loaded, one that waits where it still meets its
        objectives."""
        return self._least(fleet) if request.first_at >= 0 or not self.plan.hold else self._pick(request.job, fleet)

    def starved(self, fleet: Fleet) -> Ticket[Request] | None:
        """None: with the future known, fairness between tiers is not a goal."""
        return None

    def first_token(self, request: Request, now: float) -> None:
        """What is known needs no correction."""

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
        """Whether the job would meet these objectives there, if no other request came after it."""
        engine = member.engine
        if engine.in_flight >= engine.limits.rows:
            return False
        rest = max(0.0, engine.step.ends - now) if engine.step is not None and engine.step.cycles == 1 else 0.0
        batch = engine.in_flight + 1
        context = (engine.context + engine.reserved + job.prompt) / batch
        seconds = self.truth.hardware.seconds
        alone = min(seconds(p, batch, context) / self.truth.tokens(p, now)[job.kind] for p in member.points)
        pace = alone / max(0.1, 1.0 - engine.stalled)
        first = rest + self.truth.hardware.prefill_seconds(engine.queued_tokens + job.prompt) + pace
        return first <= ttft_s and pace <= tpot_s


@dataclass(frozen=True, slots=True)
class Search:
    """`window_s`: how long a plan holds; at least 1.5 switching times. `width`: plans kept after each window."""

    window_s: float = 30.0
    width: int = 2


@dataclass(frozen=True, slots=True)
class Move:
    """What one window does: a routing plan, and with pools how many replicas are fast."""

    plan: Plan
    fast_replicas: int = 0


PATIENT = Plan(fast=1, slack=0.8, hold=True)
"""What is hard to beat by hand: one replica at the strictest pace, and what fits nowhere waits."""


def searches(scenario: Scenario, search: Search, duration_s: float) -> int:
    """How many windows are simulated: what a progress bar counts to."""
    windows = -(-duration_s // _window(scenario, search))
    return len(_constant(scenario)) + int(windows) - 1


def best_found(
    scenario: Scenario,
    jobs: Sequence[Job],
    search: Search,
    start: Callable[[], tuple[Randomness, Series]],
    advanced: Callable[[], None],
) -> Fleet:
    """The run with the most good requests among all constant moves and a beam search over changing ones.

    `start` gives each run the same chance and an empty series; `advanced` is called once for each of `searches`.
    """
    finished = []
    for move in _constant(scenario):
        fleet = _fleet(scenario, move, *start())
        for job in jobs:
            fleet.offer(job)
        fleet.settle()
        finished.append(fleet)
        advanced()
    finished += _beam(scenario, jobs, search, start, advanced)
    return max(finished, key=lambda fleet: sum(fleet.account.good))


def _beam(
    scenario: Scenario,
    jobs: Sequence[Job],
    search: Search,
    start: Callable[[], tuple[Randomness, Series]],
    advanced: Callable[[], None],
) -> list[Fleet]:
    windows = list(_windows(jobs, _window(scenario, search)))
    beam = [_fleet(scenario, move, *start()) for move in _constant(scenario)]
    for number, (until, part) in enumerate(windows):
        tried = []
        for fleet in beam:
            moves = [None] if number == 0 else _moves(scenario, fleet)
            for move in moves:
                branch = deepcopy(fleet) if len(moves) > 1 else fleet
                if move is not None:
                    _apply(branch, move, scenario)
                for job in part:
                    branch.offer(job)
                branch.advance(until)
                tried.append(branch)
        tried.sort(key=promise, reverse=True)
        beam = tried[: search.width]
        advanced()
    for fleet in beam:
        fleet.settle()
    return beam


def promise(fleet: Fleet) -> float:
    """Good requests so far, and those under way that may still become so."""
    hopeful = 0
    for member in fleet.members:
        engine = member.engine
        for request in engine.waiting:
            hopeful += fleet.now - request.job.at <= fleet.goals[request.job.tier].ttft_s
        hopeful += len(engine.prefilling)
        for kind, heap in enumerate(engine.ends):
            for _, _, request in heap:
                goal = fleet.goals[request.job.tier]
                emitted = max(1.0, request.emitted + engine.progress[kind] - request.start)
                in_time = request.first_at < 0 or request.first_at - request.job.at <= goal.ttft_s
                hopeful += in_time and fleet.now - request.first_at <= 1.05 * emitted * goal.tpot_s
    return sum(fleet.account.good) + 0.9 * hopeful


def _window(scenario: Scenario, search: Search) -> float:
    return max(search.window_s, 1.5 * scenario.switch_s)


def _windows(jobs: Sequence[Job], each_s: float) -> Iterator[tuple[float, Sequence[Job]]]:
    start, until = 0, each_s
    while start < len(jobs):
        end = start
        while end < len(jobs) and jobs[end].at < until:
            end += 1
        yield until, jobs[start:end]
        start, until = end, until + each_s


def _constant(scenario: Scenario) -> list[Move]:
    """Moves that may hold from beginning to end."""
    count = scenario.replicas
    if scenario.free:
        fast = sorted({0, 1, count // 2, count - 1, count} - {-1})
        plans = [Plan(fast=n) for n in fast] + [
            Plan(fast=0, drop=False),
            Plan(fast=0, hold=True),
            PATIENT,
        ]
        return [Move(plan) for plan in plans]
    sizes = range(count + 1) if count <= 4 else sorted({0, 1, count // 4, count // 2, count})
    return [Move(plan, size) for size in sizes for plan in (Plan(fast=0), PATIENT)]


def _moves(scenario: Scenario, fleet: Fleet) -> list[Move]:
    """What a beam tries at a window's end."""
    if scenario.free:
        count = scenario.replicas
        return [Move(Plan(fast=n, slack=0.8, hold=True)) for n in sorted({0, 1, count // 2})] + [
            Move(Plan(fast=0, drop=False))
        ]
    now = sum(1 for m in fleet.members if (m.then.pool if m.then is not None else m.pool) == FAST_POOL)
    return [Move(PATIENT, size) for size in (now - 1, now, now + 1) if 0 <= size <= scenario.replicas]


def _specs(scenario: Scenario) -> tuple[PoolSpec, PoolSpec, PoolSpec]:
    """Flexible, AR-only and speculation-only, all clairvoyant."""
    truth, points, fast = scenario.truth, scenario.points, scenario.speculative or (AR,)
    return (
        PoolSpec(FLEX_POOL, points, lambda: Clairvoyant(points, truth)),
        fixed_spec(AR_POOL, AR),
        PoolSpec(FAST_POOL, fast, lambda: Clairvoyant(fast, truth)),
    )


def _fleet(scenario: Scenario, move: Move, rng: Randomness, series: Series) -> Fleet:
    flex, slow, fast = _specs(scenario)
    size = move.fast_replicas
    specs = [flex] * scenario.replicas if scenario.free else [fast] * size + [slow] * (scenario.replicas - size)
    dispatcher = ClairvoyantDispatcher(scenario.truth, scenario.goals, move.plan)
    return assemble(scenario, specs, dispatcher, rng, series)


def _apply(fleet: Fleet, move: Move, scenario: Scenario) -> None:
    """Change the plan; with pools, convert the emptiest replicas towards the wanted size."""
    assert isinstance(fleet.dispatcher, ClairvoyantDispatcher), "an oracle's fleet"
    fleet.dispatcher.plan = replace(move.plan)
    if scenario.free:
        return
    _, slow, fast = _specs(scenario)
    pools = [m.then.pool if m.then is not None else m.pool for m in fleet.members]
    missing = move.fast_replicas - pools.count(FAST_POOL)
    source, spec = (AR_POOL, fast) if missing > 0 else (FAST_POOL, slow)
    ready = [m for m in fleet.members if m.phase is Phase.READY and m.pool == source]
    for member in sorted(ready, key=lambda m: (m.engine.in_flight, m.index))[: abs(missing)]:
        fleet.convert(member, spec)
