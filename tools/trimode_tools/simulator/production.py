"""The router's own decisions in the simulated fleet: `admit` and `route`, as production runs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from trimode_policy.admit import AdmissionLimits, AdmitReason, Outcome, QueueView, admit
from trimode_policy.affinity import Beginning, Beginnings
from trimode_policy.fair_queue import FIRST_IN_LINE, Ticket
from trimode_policy.route import ReplicaView, RequestView, SloState, Staleness, route, spare
from trimode_policy.tier_fairness import StarvationGuard, TierMix, reservations
from trimode_tools.simulator.fleet import Fleet
from trimode_tools.simulator.ports import Member, Phase, Placement
from trimode_tools.simulator.rows import Request, slo_state
from trimode_tools.simulator.workload import Goal, Job

LEAST_BEGINNING = 256
"""Tokens of the shortest beginning that is told apart; the others are its doubles, as in the router."""
RESERVE_EVERY_S = 1.0
"""Seconds between two updates of the replicas' reservations for tiers; a change of the fleet brings one at once."""


def beginnings_of(job: Job) -> tuple[Beginning, ...]:
    """What the router would make of the prompt: a conversation's number stands for its text."""
    doublings = (job.prompt // LEAST_BEGINNING).bit_length()
    return tuple((LEAST_BEGINNING << i, job.chat) for i in range(doublings))


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
    mix: TierMix = field(init=False)
    _due: Request | None = None
    _reservations: dict[str, str] = field(default_factory=dict)
    _reserved_at: tuple[float, tuple[int, ...]] = (-1.0, ())
    _views: dict[int, tuple[tuple[object, ...], ReplicaView]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """The tiers in order of their pace."""
        self.mix = TierMix([goal.name for goal in sorted(self.goals, key=lambda goal: goal.tpot_s)])

    def admit(self, asked: Request, fleet: Fleet) -> Placement:
        """Accept and route, queue or refuse. What is accepted and finds no replica waits in the queue."""
        request = self._request(asked, fleet.now)
        self.mix.asked(request.tier, fleet.now)
        views = self._all_views(fleet)
        decision = admit(request, self._queue(asked, request, views, fleet), self.limits)
        if decision.outcome is Outcome.REFUSE:
            return Placement(refused=True)
        if decision.outcome is Outcome.QUEUE:
            return Placement()
        if decision.reason is AdmitReason.SPILLS:
            request = replace(request, slo_state=SloState.LATE)
        return Placement(self._route(asked, request, views, fleet))

    def again(self, asked: Request, fleet: Fleet) -> int | None:
        """Route it, if there is room."""
        return self._route(asked, self._request(asked, fleet.now), self._all_views(fleet), fleet)

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

    def _route(self, asked: Request, request: RequestView, views: list[ReplicaView], fleet: Fleet) -> int | None:
        begins = beginnings_of(asked.job) if self.affinity and asked.job.chat else ()
        if begins:
            request = replace(request, held=self.beginnings.held(begins))
        decision = route(request, views, self.staleness, fleet.orders)
        if decision.replica_id is None:
            return None
        self.beginnings.sent(begins, decision.replica_id)
        self.turns.served(request.tier, fleet.now)
        return int(decision.replica_id)

    def _request(self, asked: Request, now: float) -> RequestView:
        goal = self.goals[asked.job.tier]
        if asked is self._due:
            return RequestView(goal.name, goal.priority, asked.cached)
        left = goal.ttft_s - (now - asked.job.at)
        return RequestView(goal.name, goal.priority, asked.cached, slo_state=slo_state(asked, goal, now), left_s=left)

    def _queue(self, asked: Request, request: RequestView, views: list[ReplicaView], fleet: Fleet) -> QueueView:
        """The queue as one tier sees it: where replicas are shared out by pace, only its own stand ahead."""
        ready = [view for view in views if view.ready]
        oldest = fleet.queue.oldest()
        shared = any(view.rows for view in ready)
        running = sum(view.in_flight for view in ready)
        return QueueView(
            queued=len(fleet.queue),
            oldest_wait_s=0.0 if oldest is None else fleet.now - oldest,
            in_flight=running,
            capacity=sum(view.tier_capacity.get(request.tier, view.capacity) for view in ready),
            drain_rate_rps=running / fleet.service_s if fleet.service_s > 0 else 0.0,
            ready_replicas=len(ready),
            queued_below=fleet.queue.below(request.priority),
            ahead=fleet.queue.at(request.priority) + fleet.queue.at(FIRST_IN_LINE) if shared else None,
            spare=spare(request, ready) if shared else 0,
        )

    def _all_views(self, fleet: Fleet) -> list[ReplicaView]:
        phases = tuple(member.phase for member in fleet.members)
        if fleet.now - self._reserved_at[0] >= RESERVE_EVERY_S or phases != self._reserved_at[1]:
            self._reserved_at = (fleet.now, phases)
            rows = {str(member.index): member.rows for member in fleet.members if member.phase is Phase.READY}
            self._reservations = reservations(rows, self.mix.shares())
        return [self._view(member, self._reservations.get(str(member.index))) for member in fleet.members]

    def _view(self, member: Member, reserved_for: str | None) -> ReplicaView:
        """The view of one replica, built again only where something changed."""
        key = (member.engine.in_flight, member.news, member.phase, member.pool, reserved_for)
        cached = self._views.get(member.index)
        if cached is not None and cached[0] == key:
            return cached[1]
        view = ReplicaView(
            replica_id=str(member.index),
            pool=member.pool,
            ready=member.phase is Phase.READY,
            draining=member.phase is Phase.DRAINING,
            age_s=0.0,  # living replicas report at least once per tick; a broken connection shows at once
            in_flight=member.engine.in_flight,
            running=member.running,
            waiting=member.waiting,
            queued_prompt_tokens=member.engine.queued_tokens,
            capacity=self.capacity.get(member.pool, member.engine.limits.rows),
            points=member.points,
            rows=member.rows,
            reserved_for=reserved_for,
            prompt_tokens_per_second=member.engine.prompts.tokens_per_s,
        )
        self._views[member.index] = (key, view)
        return view
