"""The router's own decisions in the simulated fleet: `admit` and `route`, as production runs them, and what they see.

Of the replicas only what changed is looked at again (`Fleet.changed`): with hundreds of them, looking at each for every
request took nine tenths of a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from trimode_policy.admit import AdmissionLimits, Outcome, QueueView, admit
from trimode_policy.affinity import Beginning, Beginnings
from trimode_policy.fair_queue import Ticket
from trimode_policy.first_token import PredictionError, forecast, late_for_certain, prompt_seconds
from trimode_policy.route import ReplicaView, RequestView, SloState, Staleness, route
from trimode_policy.tier_fairness import StarvationGuard, TierMix, reservations
from trimode_tools.simulator.fleet import Fleet
from trimode_tools.simulator.ports import Member, Phase, Placement
from trimode_tools.simulator.rows import Request, slo_state
from trimode_tools.simulator.workload import Goal, Job

RESERVE_EVERY_S = 1.0
"""Seconds between two updates of the replicas' reservations for tiers; a change of the fleet brings one at once."""
LEAST_BEGINNING = 256
"""Tokens of the shortest beginning that is told apart; the others are its doubles, as in the router."""


def beginnings_of(job: Job) -> tuple[Beginning, ...]:
    """What the router would make of the prompt: a conversation's number stands for its text."""
    doublings = (job.prompt // LEAST_BEGINNING).bit_length()
    return tuple((LEAST_BEGINNING << i, job.chat) for i in range(doublings))


@dataclass(slots=True)
class FleetViews:
    """The replicas as the router sees them, and what they have in sum. Mutable. `caps`: by pool, most requests a
    replica of it is sent; other pools take a full engine.

    Over ready replicas: `ready` of them, `paced` of these that report paces, `in_flight` requests, `spare` places for
    late ones, and `capacity` by tier.
    """

    tiers: tuple[str, ...]
    caps: Mapping[str, int]
    views: list[ReplicaView] = field(default_factory=list)
    ready: int = 0
    paced: int = 0
    in_flight: int = 0
    spare: int = 0
    capacity: dict[str, int] = field(default_factory=dict)
    _seen: list[tuple[object, ...]] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    reserved_for: dict[str, str] = field(default_factory=dict)
    reserved_at: float = float("-inf")

    def update(self, fleet: Fleet, mix: TierMix) -> list[ReplicaView]:
        """The views of all replicas as of now; the `mix` of tiers decides which replicas are reserved for which."""
        changed = fleet.changed
        phases_changed = not self.phases or any(fleet.members[i].phase is not self.phases[i] for i in changed)
        if phases_changed or fleet.now - self.reserved_at >= RESERVE_EVERY_S:
            self.reserved_at = fleet.now
            self.phases = [member.phase for member in fleet.members]
            rows = {str(member.index): member.rows for member in fleet.members if member.phase is Phase.READY}
            self.reserved_for = reservations(rows, mix.shares())
            changed.update(range(len(fleet.members)))
        for index in sorted(changed):
            member, reserved_for = fleet.members[index], self.reserved_for.get(str(index))
            seen = (member.engine.in_flight, member.news, member.phase, member.pool, reserved_for)
            if index == len(self.views):
                self.views.append(self._view(member, reserved_for))
                self._seen.append(seen)
            elif self._seen[index] == seen:
                continue  # marked as changed, but not in what a view shows
            else:
                self._count(self.views[index], -1)
                self.views[index], self._seen[index] = self._view(member, reserved_for), seen
            self._count(self.views[index], 1)
        changed.clear()
        return self.views

    def _count(self, view: ReplicaView, sign: int) -> None:
        if not view.ready:
            return
        self.ready += sign
        self.paced += sign if view.rows else 0
        self.in_flight += sign * view.in_flight
        self.spare += sign * view.late_places
        for tier in self.tiers:
            self.capacity[tier] = self.capacity.get(tier, 0) + sign * view.tier_capacity.get(tier, view.capacity)

    def _view(self, member: Member, reserved_for: str | None) -> ReplicaView:
        return ReplicaView(
            replica_id=str(member.index),
            pool=member.pool,
            ready=member.phase is Phase.READY,
            draining=member.phase is Phase.DRAINING,
            age_s=0.0,  # living replicas report at least once per tick; a broken connection shows at once
            in_flight=member.engine.in_flight,
            running=member.running,
            waiting=member.waiting,
            queued_prompt_tokens=member.engine.queued_tokens,
            capacity=self.caps.get(member.pool, member.engine.limits.rows),
            points=member.points,
            rows=member.rows,
            reserved_for=reserved_for,
            prompt_tokens_per_second=member.engine.prompts.tokens_per_s,
        )


@dataclass(slots=True)
class ProductionDispatcher:
    """`capacity`: by pool, most requests a replica of it is sent (a cap on spill); other pools take a full engine.
    `affinity`: whether requests go where their beginning is."""

    goals: tuple[Goal, ...]
    limits: AdmissionLimits
    staleness: Staleness
    capacity: Mapping[str, int] = field(default_factory=dict)
    affinity: bool = True
    beginnings: Beginnings = field(default_factory=Beginnings)
    turns: StarvationGuard = field(default_factory=StarvationGuard)
    predictions: PredictionError = field(default_factory=PredictionError)
    mix: TierMix = field(init=False)
    _due: Request | None = None
    sight: FleetViews = field(init=False)

    def __post_init__(self) -> None:
        """The tiers in order of their pace."""
        self.sight = FleetViews(tuple(goal.name for goal in self.goals), self.capacity)
        self.mix = TierMix([goal.name for goal in sorted(self.goals, key=lambda goal: goal.tpot_s)])

    def admit(self, asked: Request, fleet: Fleet) -> Placement:
        """Accept and route, queue or refuse. What is accepted and finds no replica waits in the queue."""
        request = self._held(asked, self._request(asked, fleet.now))
        self.mix.asked(request.tier, fleet.now)
        views = self.sight.update(fleet, self.mix)
        too_late = late_for_certain(request, views, self.staleness, self.predictions.bounds(fleet.now))
        asked.prompt_s = prompt_seconds(request, views)
        # Where replicas are shared out by pace, a tier has only its own in front of it.
        oldest, seen = fleet.queue.oldest(), self.sight
        ahead = fleet.queue.ahead(request.priority, fleet.now, prompt_s=asked.prompt_s) if seen.paced else None
        queue = QueueView(
            queued=len(fleet.queue),
            oldest_wait_s=0.0 if oldest is None else fleet.now - oldest,
            in_flight=seen.in_flight,
            capacity=seen.capacity.get(request.tier, 0),
            drain_rate_rps=seen.in_flight / fleet.service_s if fleet.service_s > 0 else 0.0,
            ready_replicas=seen.ready,
            queued_below=fleet.queue.below(request.priority),
            ahead=ahead,
            spare=seen.spare if seen.paced else 0,
            too_late=too_late,
        )
        decision = admit(request, queue, self.limits)
        if decision.outcome is Outcome.REFUSE:
            return Placement(refused=True)
        if decision.late:
            asked.late, request = True, replace(request, slo_state=SloState.LATE)
        if decision.outcome is Outcome.QUEUE:
            return Placement()
        return Placement(self._route(asked, request, views, fleet))

    def again(self, asked: Request, fleet: Fleet) -> int | None:
        """Route it, if there is room."""
        request = self._held(asked, self._request(asked, fleet.now))
        return self._route(asked, request, self.sight.update(fleet, self.mix), fleet)

    def starved(self, fleet: Fleet) -> Ticket[Request] | None:
        """A request of a tier that has not been served for long; it is treated as if it had just arrived."""
        for tier, goal in enumerate(self.goals):
            if not fleet.queue.at(goal.priority):
                continue
            first = next((each for each in fleet.queue if each.item.job.tier == tier and each.item.first_at < 0), None)
            if first is not None and self.turns.starved(goal.name, fleet.now):
                self._due = first.item
                return first
        return None

    def first_token(self, request: Request, now: float) -> None:
        """What was predicted when it was sent is compared."""
        if request.sent is not None:
            sent_at, predicted = request.sent
            left_s = self.goals[request.job.tier].ttft_s - (sent_at - request.job.at)
            self.predictions.learn(predicted, left_s, now - sent_at, now)

    def _route(self, asked: Request, request: RequestView, views: list[ReplicaView], fleet: Fleet) -> int | None:
        decision = route(request, views, self.staleness, fleet.orders)
        if decision.replica_id is None:
            return None
        index = int(decision.replica_id)
        self.beginnings.sent(self._beginnings_of(asked.job), decision.replica_id)
        self.turns.served(request.tier, fleet.now)
        # One that comes again, from a replica that died, says nothing about waiting for prompts.
        predicted = forecast(request, views[index]) if asked.sent is None else None
        if predicted is not None:
            asked.sent = fleet.now, predicted
        return index

    def _beginnings_of(self, job: Job) -> tuple[Beginning, ...]:
        return beginnings_of(job) if self.affinity and job.chat else ()

    def _held(self, asked: Request, request: RequestView) -> RequestView:
        """With what replicas are likely to have of its prompt."""
        begins = self._beginnings_of(asked.job)
        return replace(request, held=self.beginnings.held(begins)) if begins else request

    def _request(self, asked: Request, now: float) -> RequestView:
        goal = self.goals[asked.job.tier]
        if asked is self._due:
            return RequestView(goal.name, goal.priority, asked.cached)
        left = goal.ttft_s - (now - asked.job.at)
        return RequestView(goal.name, goal.priority, asked.cached, slo_state=slo_state(asked, goal, now), left_s=left)
