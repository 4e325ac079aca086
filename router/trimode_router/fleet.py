"""The fleet as this router knows it: reports, its own counters, and the policy in force.

Belongs here: live state and its transitions; `now` is an argument (seconds of a monotonic clock), there is no I/O.
Decisions read the frozen views made here, never the records.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from trimode_api.errors import TrimodeError
from trimode_api.fleet import Freshness, PointChange
from trimode_api.modes import OperatingPoint
from trimode_api.wire import Command, PolicyConfig, ReplicaReport, ReportAnswer
from trimode_policy.rooms import rows_within
from trimode_policy.route import ReplicaView
from trimode_policy.tiers import Mix, keepers
from trimode_router.rules import Rules

RING = 50
"""Point changes and refusals kept for `/fleet`."""
VIEW_SECONDS = 0.1
"""Error allowed in a view's age; limits on it are whole seconds."""
KEEP_SECONDS = 1.0
"""Between two looks at which replicas are kept fast for whom."""
FORGET_AFTER_DEATHS = 6.0
"""A replica silent for this many times `dead_after` is no longer shown."""


class FleetError(TrimodeError):
    """A message to the fleet that can not be accepted; `status` is its HTTP status."""

    def __init__(self, status: int, message: str, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(slots=True)
class Replica:
    """One replica: its last report and what this router counts itself."""

    report: ReplicaReport
    points: tuple[OperatingPoint, ...]
    heard_at: float
    in_flight: int = 0
    peak: int = 0
    """Highest `in_flight` since the last report."""
    others: int = 0
    """Requests of other routers, as far as the last report shows them."""
    queued_prompt_tokens: int = 0
    drain: bool | None = None
    failures: int = 0
    cool_until: float = 0.0
    trials: int = 0
    """Requests sent since it last failed: until one of them succeeds, there is one at a time."""
    dead: bool = False
    rows: dict[str, int] = field(default_factory=dict)
    """By tier: requests it can run at once so that each keeps the tier's pace."""
    keeps: str | None = None
    """The tier whose pace it is kept at."""
    cached: ReplicaView | None = None
    """The view last made; None after a change. A little older than told it may be, see `VIEW_SECONDS`."""

    @property
    def replica_id(self) -> str:
        return self.report.replica_id

    @property
    def draining(self) -> bool:
        return self.report.draining or self.drain is True

    def freshness(self, rules: Rules, now: float) -> Freshness:
        age = now - self.heard_at
        if age > rules.staleness.dead_after_s:
            return Freshness.DEAD
        return Freshness.STALE if age > rules.staleness.stale_after_s else Freshness.FRESH

    def view(self, rules: Rules, slack: int, now: float) -> ReplicaView:
        """The frozen view; made anew after each change, as making it costs more than all that reads it."""
        view, age = self.cached, now - self.heard_at
        if view is None or age - view.age_s > VIEW_SECONDS:
            view = self.cached = self._view(rules, slack, age)
        return view

    def _view(self, rules: Rules, slack: int, age_s: float) -> ReplicaView:
        report = self.report
        return ReplicaView(
            replica_id=report.replica_id,
            pool=report.pool,
            ready=report.ready,
            draining=self.draining,
            age_s=age_s,
            in_flight=self.in_flight,
            # A report lags: what this router counts itself is taken from its counter, the rest from the report.
            running=self.in_flight + self.others,
            waiting=0,
            queued_prompt_tokens=max(report.queued_prompt_tokens, self.queued_prompt_tokens),
            # After failures it is asked by one request at a time: a burst would only fail again.
            capacity=self.in_flight if self.trials else report.max_running + slack,
            points=self.points or rules.pools.get(report.pool, ()),
            tokens_per_s=report.tokens_per_second,
            rows=self.rows,
            keeps=self.keeps,
            prompt_tokens_per_s=report.prompt_tokens_per_second,
        )


class Fleet:
    """All replicas heard of, by id, and the policy. Not thread-safe: it lives on the router's loop."""

    def __init__(self, model: str, policy: PolicyConfig, slack: int) -> None:
        self.model = model
        self.models: tuple[str, ...] = (model,)
        """Names that requests may ask for."""
        self.rules = Rules.of(policy)
        self._mix = _mix(self.rules)
        self._kept_at = float("-inf")
        self.changes: deque[PointChange] = deque(maxlen=RING)
        self._slack = slack
        self._replicas: dict[str, Replica] = {}

    def __iter__(self) -> Iterator[Replica]:
        return iter(self._replicas.values())

    def get(self, replica_id: str) -> Replica | None:
        return self._replicas.get(replica_id)

    # What comes in.

    def take_report(self, report: ReplicaReport, now: float, wall: float) -> ReportAnswer:
        """Apply one report. A late one (an older sequence) changes nothing. FleetError (409) for another model."""
        if report.model != self.model:
            raise FleetError(
                409, f"replica {report.replica_id} serves {report.model!r}, this router {self.model!r}", "wrong_model"
            )
        replica = self._replicas.get(report.replica_id)
        if replica is None:
            replica = Replica(report, _points(report), now, others=report.running + report.waiting)
            self._replicas[report.replica_id] = replica
        elif report.sequence > replica.report.sequence:
            self._note_change(replica.report, report, wall)
            if report.allowed_points != replica.report.allowed_points:
                replica.points = _points(report)
            replica.report, replica.heard_at, replica.dead = report, now, False
            replica.others = max(0, report.running + report.waiting - replica.peak)
            replica.peak = replica.in_flight
        replica.rows, replica.cached = _rows(replica.report, self.rules), None
        if replica.drain is False and not report.draining:
            replica.drain = None  # fulfilled: a later drain is the replica's own will
        return ReportAnswer(
            policy=self.rules.policy if report.policy_version < self.rules.policy.version else None,
            command=_command(replica),
        )

    def put_policy(self, policy: PolicyConfig) -> bool:
        """Put a policy in force; whether it changed anything. FleetError (409) where it is older than the present."""
        present = self.rules.policy
        if policy.version < present.version:
            raise FleetError(
                409, f"policy version {policy.version} is older than version {present.version} in force", "old_policy"
            )
        if policy.version == present.version and policy != present:
            raise FleetError(
                409, f"another policy of version {policy.version} is in force; raise the version", "same_version"
            )
        self.rules = Rules.of(policy)
        self._mix = _mix(self.rules)
        for replica in self:
            replica.rows, replica.cached = _rows(replica.report, self.rules), None
        return policy != present

    def drain(self, replica_id: str, drain: bool) -> None:
        """Ask a replica to drain, or to take requests again. FleetError (404) where it is unknown."""
        replica = self._replicas.get(replica_id)
        if replica is None:
            known = ", ".join(self._replicas) or "none"
            raise FleetError(404, f"replica {replica_id!r} is unknown; known: {known}", "unknown_replica")
        replica.drain = drain
        replica.cached = None

    def asked(self, tier: str, now: float) -> None:
        """A request of `tier` came."""
        self._mix.asked(tier, now)

    def keep(self, now: float) -> None:
        """Decide anew which replicas are kept fast for whom, once a second at most."""
        if now - self._kept_at < KEEP_SECONDS:
            return
        self._kept_at = now
        usable = (replica for replica in self if self.usable(replica.view(self.rules, self._slack, now)))
        found = keepers({replica.replica_id: replica.rows for replica in usable}, self._mix.shares())
        for replica in self:
            if replica.keeps != found.get(replica.replica_id):
                replica.keeps, replica.cached = found.get(replica.replica_id), None

    # This router's own counters.

    def occupy(self, replica: Replica, prompt_tokens: int) -> None:
        """A request is on its way to it; its prompt counts as queued until the first token."""
        replica.in_flight += 1
        replica.peak = max(replica.peak, replica.in_flight)
        replica.queued_prompt_tokens += prompt_tokens
        replica.trials += replica.failures > 0
        replica.cached = None

    def prefilled(self, replica: Replica, prompt_tokens: int) -> None:
        replica.queued_prompt_tokens -= prompt_tokens
        replica.cached = None

    def vacate(self, replica: Replica) -> None:
        replica.in_flight -= 1
        replica.trials = 0
        replica.cached = None

    def failed(self, replica: Replica, now: float) -> None:
        """It failed a request: passed over for 0.25 s, doubled with each failure in a row, at most 5 s.

        What else fails meanwhile is of the same cause: a death breaks all its streams at once.
        """
        if now < replica.cool_until:
            return
        replica.failures += 1
        replica.cool_until = now + min(0.25 * 2 ** (replica.failures - 1), 5.0)

    def succeeded(self, replica: Replica) -> None:
        if replica.failures:
            replica.failures = replica.trials = 0
            replica.cool_until = 0.0
            replica.cached = None

    # What goes out.

    def views(self, now: float, without: Collection[str] = (), *, cooling: bool = True) -> tuple[ReplicaView, ...]:
        """The snapshot to decide on. Cooling replicas are in it only where nothing else is usable, if at all."""
        eligible = [replica for replica in self if replica.replica_id not in without]
        views = [r.view(self.rules, self._slack, now) for r in eligible if now >= r.cool_until]
        if cooling and len(views) < len(eligible) and not any(self.usable(view) for view in views):
            views = [r.view(self.rules, self._slack, now) for r in eligible]
        return tuple(views)

    def usable(self, view: ReplicaView) -> bool:
        """Whether it may get requests at all, be it full or not."""
        return view.ready and not view.draining and view.age_s <= self.rules.staleness.dead_after_s

    def bury(self, now: float) -> list[str]:
        """Ids of replicas that died since the last call; those long dead and idle are forgotten."""
        dead_after = self.rules.staleness.dead_after_s
        died = []
        for replica in list(self):
            age = now - replica.heard_at
            if age > dead_after and not replica.dead:
                replica.dead = True
                died.append(replica.replica_id)
            if age >= dead_after * FORGET_AFTER_DEATHS and not replica.in_flight:
                del self._replicas[replica.replica_id]
        return died

    def _note_change(self, old: ReplicaReport, new: ReplicaReport, wall: float) -> None:
        switch = new.last_switch
        if switch is None or new.switches == old.switches:
            return
        self.changes.append(
            PointChange(
                time=wall,
                replica_id=new.replica_id,
                pool=new.pool,
                from_point=switch.from_point,
                to_point=switch.to_point,
                reason=switch.reason,
                detail=switch.detail,
            )
        )


def _mix(rules: Rules) -> Mix:
    return Mix([tier.name for tier in sorted(rules.tiers.values(), key=lambda tier: tier.tpot_s)])


def _rows(report: ReplicaReport, rules: Rules) -> dict[str, int]:
    """By tier; empty where the replica predicts nothing, so that nothing is held back for it."""
    if not report.paces:
        return {}
    price, most = report.prompt_seconds_per_token, report.max_running
    return {tier.name: rows_within(report.paces, price, tier.tpot_s, most) for tier in rules.tiers.values()}


def _points(report: ReplicaReport) -> tuple[OperatingPoint, ...]:
    return tuple(OperatingPoint.parse(name) for name in report.allowed_points)


def _command(replica: Replica) -> Command:
    """The wish, as long as the replica does not report it as fulfilled."""
    if replica.drain is None or replica.drain == replica.report.draining:
        return Command.NONE
    return Command.DRAIN if replica.drain else Command.UNDRAIN
