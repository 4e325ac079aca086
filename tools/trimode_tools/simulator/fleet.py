"""A fleet of simulated replicas behind one router, event by event.

Who is picked is the dispatcher's choice, who is converted the controller's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from heapq import heappop, heappush

from trimode_policy.fair_queue import FairQueue
from trimode_tools.simulator.measures import Account, Series
from trimode_tools.simulator.ports import Controller, Dispatcher, Member, Outage, Phase, Placement, PoolSpec
from trimode_tools.simulator.rows import Request, is_late, join
from trimode_tools.simulator.workload import Goal, Job

TICK_S = 1.0
"""Seconds between two runs of the controller and of the check for requests that have waited too long."""
REPORT_S = 0.2
"""Seconds between two reports of a replica; one is sent at once when requests end."""
PATIENCE_S = 3600.0
"""Seconds after the last arrival at which a run is given up; what is then under way counts as refused."""


class Kind(IntEnum):
    """What an event is about."""

    STEP = 0
    LOADED = 1
    KILL = 2
    RETURN = 3
    TICK = 4


@dataclass(slots=True)
class Fleet:
    """Mutable; `offer` jobs in order of arrival, then `settle`.

    `switch_s`: seconds a conversion takes once drained. `max_wait_s`: longest wait in the router's queue, checked once
    per tick. `service_s`: seconds from a request's first token to its last, an exponential average. `client`: what the
    client of a request that ended asks next, at once (a closed loop). `changed`: members of which a router may see
    something new since it last emptied the set.
    """

    members: list[Member]
    goals: tuple[Goal, ...]
    dispatcher: Dispatcher
    controller: Controller | None = None
    switch_s: float = 0.0
    max_wait_s: float = 2.0
    series: Series | None = None
    client: Callable[[Request, float], Job | None] | None = None
    account: Account = field(init=False)
    now: float = 0.0
    orders: int = 0
    service_s: float = 0.0
    changed: set[int] = field(default_factory=set)
    queue: FairQueue[Request] = field(default_factory=FairQueue)
    events: list[tuple[float, int, Kind, int, int]] = field(default_factory=list)
    _sequence: int = 0

    def __post_init__(self) -> None:
        self.account = Account.empty(self.goals)
        self._push(TICK_S, Kind.TICK, 0, 0)

    def fail(self, outages: Sequence[Outage]) -> None:
        """Plan outages."""
        for outage in outages:
            self._push(outage.since, Kind.KILL, outage.index, 0)
            self._push(outage.until, Kind.RETURN, outage.index, 0)

    def offer(self, job: Job) -> None:
        """Advance to the job's arrival and let it in."""
        self.advance(job.at)
        self.now = job.at
        self._ask(job)

    def _ask(self, job: Job) -> None:
        self.account.offered[job.tier] += 1
        if self.series is not None:
            self.series.offered[self.series.slice_of(job.at)] += 1
        self.orders += 1
        request = Request(job, self.orders)
        self._place(request, self.dispatcher.admit(request, self))

    def advance(self, until: float) -> None:
        """Handle every event up to and at `until`."""
        events = self.events
        while events and events[0][0] <= until:
            now, _, kind, index, version = heappop(events)
            self.now = now
            if kind == Kind.STEP:
                self._step(self.members[index], version, now)
            elif kind == Kind.TICK:
                self._push(now + TICK_S, Kind.TICK, 0, 0)
                for member in self.members:
                    if member.phase is not Phase.DEAD:
                        self.account.up_s += TICK_S
                        self._report(member, now)
                if self.controller is not None:
                    self.controller.tick(self, now)
                for ticket in self.queue.expired(now):
                    self.account.refused[ticket.item.job.tier] += 1
                self._drain_queue()
            elif kind == Kind.LOADED:
                member = self.members[index]
                # One that died while it loaded has another version by now.
                if member.phase is Phase.LOADING and member.engine.version == version and member.then is not None:
                    self._return(member, now)
            elif kind == Kind.KILL:
                member = self.members[index]
                self.changed.add(index)
                member.phase = Phase.DEAD
                orphans = member.engine.evict_all()
                member.report(now, self.goals)
                for request in orphans:
                    self._place(request, Placement(self.dispatcher.again(request, self)))
            else:
                self._return(self.members[index], now)

    def settle(self) -> None:
        """Run until every request has ended, and close the account. Call it once."""
        limit = self.now + PATIENCE_S
        while self.busy and self.now < limit:
            self.advance(self.events[0][0])
        for ticket in self.queue:
            self.account.refused[ticket.item.job.tier] += 1
        self.queue = FairQueue()
        for member in self.members:
            for request in member.engine.evict_all():
                self.account.refused[request.job.tier] += 1
            self.account.switches += member.engine.point_policy.switches
            self.account.preemptions += member.engine.preemptions

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return bool(self.queue) or any(member.engine.in_flight for member in self.members)

    def convert(self, member: Member, to: PoolSpec) -> None:
        """Move a ready replica to another pool: it drains, loads for `switch_s` and returns."""
        self.account.moves += 1
        self.changed.add(member.index)
        member.then = to
        member.phase = Phase.DRAINING
        self._when_drained(member, self.now)

    def _push(self, at: float, kind: Kind, index: int, version: int) -> None:
        self._sequence += 1
        heappush(self.events, (at, self._sequence, kind, index, version))

    def _schedule(self, member: Member) -> None:
        step = member.engine.step
        if step is not None:
            self._push(step.ends, Kind.STEP, member.index, step.version)

    def _step(self, member: Member, version: int, now: float) -> None:
        engine = member.engine
        if engine.step is None or engine.step.version != version:
            return  # it was cut short, or its replica died
        done = engine.finish(now, self.account, self.series)
        for request in engine.begun:
            self.dispatcher.first_token(request, now)
        for request in done:
            job, took_s = request.job, now - request.first_at
            self.service_s = took_s if self.service_s == 0.0 else self.service_s + 0.05 * (took_s - self.service_s)
            tpot = took_s / (job.output - 1) if job.output > 1 else 0.0
            good = self.account.finish(job.tier, job.output, request.first_at - job.at, tpot)
            if self.series is not None and good:
                self.series.good[self.series.slice_of(job.at)] += 1
            after = None if self.client is None else self.client(request, now)
            if after is not None:
                self._ask(after)
        if engine.begin(now):
            self._schedule(member)
        if done or now - member.reported_at >= REPORT_S:
            self._report(member, now)
        if done:
            if self.queue:
                self._drain_queue()
            if member.phase is Phase.DRAINING:
                self._when_drained(member, now)

    def _place(self, request: Request, placement: Placement) -> None:
        if placement.index is not None:
            member = self.members[placement.index]
            self.changed.add(placement.index)
            if member.engine.accept(request, self.now):
                self._schedule(member)
            if self.now - member.reported_at >= REPORT_S:
                member.report(self.now, self.goals)
        elif placement.refused:
            self.account.refused[request.job.tier] += 1
        else:
            join(self.queue, request, self.goals[request.job.tier], self.max_wait_s)

    def _put(self, request: Request) -> bool:
        index = self.dispatcher.again(request, self)
        if index is not None:
            self._place(request, Placement(index))
        return index is not None

    def _drain_queue(self) -> None:
        if self.queue:
            first = self.dispatcher.starved(self)
            if first is not None and self._put(first.item):
                self.queue.serve(first)
            self.queue.offer(lambda request: is_late(request, self.goals[request.job.tier], self.now), self._put)

    def _report(self, member: Member, now: float) -> None:
        self.changed.add(member.index)
        member.report(now, self.goals)

    def _when_drained(self, member: Member, now: float) -> None:
        if member.engine.in_flight == 0:
            self.changed.add(member.index)
            member.phase = Phase.LOADING
            member.engine.version += 1
            self._push(now + self.switch_s, Kind.LOADED, member.index, member.engine.version)

    def _return(self, member: Member, now: float) -> None:
        if member.then is not None:  # one that died on its way comes back as what it was to become
            member.pool, member.points = member.then.pool, member.then.points
            self.account.switches += member.engine.point_policy.switches
            member.engine.point_policy, member.then = member.then.point_policy(), None
        member.phase = Phase.READY
        self._report(member, now)
        self._drain_queue()
