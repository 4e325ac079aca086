"""The fleet as this router knows it: its replicas, and the policy in force.

`now` is an argument (seconds of a monotonic clock), there is no I/O. Decisions read the frozen views made here, never
the records.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator

from trimode_api.errors import TrimodeError
from trimode_api.fleet import PointChange
from trimode_api.wire import PolicyConfig, ReplicaReport, ReportAnswer
from trimode_policy.route import ReplicaView
from trimode_policy.tier_fairness import TierMix, reservations
from trimode_router.fleet.catalog import Catalog
from trimode_router.fleet.policy import Rules
from trimode_router.fleet.replica import Replica, points_of

RING = 50
"""Point changes and refusals kept for `/fleet`."""
RESERVE_SECONDS = 1.0
"""Between two decisions of which replicas are kept at the pace of which tier."""
FORGET_AFTER_DEATHS = 6.0
"""A replica silent for this many times `dead_after` is no longer shown."""


class FleetError(TrimodeError):
    """A message to the fleet that can not be accepted; `status` is its HTTP status."""

    def __init__(self, status: int, message: str, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Fleet:
    """All replicas heard of, by id, and the policy. Not thread-safe: it lives on the router's loop."""

    def __init__(self, model: str, policy: PolicyConfig, slack: int) -> None:
        self.model = model
        self.catalog = Catalog((model,))
        self.rules = Rules.of(policy)
        self._mix = _mix(self.rules)
        self._reserved_at = float("-inf")
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
            # At first sight, as after this router's restart, all that it runs came from others.
            replica = Replica(report, points_of(report), now, others=report.running + report.waiting)
            self._replicas[report.replica_id] = replica
        elif report.sequence > replica.report.sequence:
            switch = report.last_switch
            if switch is not None and report.switches != replica.report.switches:
                self.changes.append(
                    PointChange(
                        time=wall,
                        replica_id=report.replica_id,
                        pool=report.pool,
                        from_point=switch.from_point,
                        to_point=switch.to_point,
                        reason=switch.reason,
                        detail=switch.detail,
                    )
                )
            replica.take(report, now)
        replica.judge(self.rules)
        return ReportAnswer(
            policy=self.rules.policy if report.policy_version < self.rules.policy.version else None,
            command=replica.command(),
        )

    def put_policy(self, policy: PolicyConfig) -> bool:
        """Put a policy in force; whether it changed anything. FleetError (409) where it is older than the present."""
        present = self.rules.policy
        if policy.version < present.version:
            raise FleetError(
                409, f"policy version {policy.version} is older than version {present.version} in force", "old_policy"
            )
        # Two writers with one version: routers would differ by which of them they heard last.
        if policy.version == present.version and policy != present:
            raise FleetError(
                409, f"another policy of version {policy.version} is in force; raise the version", "same_version"
            )
        self.rules = Rules.of(policy)
        self._mix = _mix(self.rules)
        for replica in self:
            replica.judge(self.rules)
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

    def reserve(self, now: float) -> None:
        """Decide which replicas are kept at the pace of which tier, once a second at most."""
        if now - self._reserved_at < RESERVE_SECONDS:
            return
        self._reserved_at = now
        usable = (replica for replica in self if self.usable(self.view(replica, now)))
        found = reservations({replica.replica_id: replica.rows for replica in usable}, self._mix.shares())
        for replica in self:
            if replica.reserved_for != found.get(replica.replica_id):
                replica.reserved_for, replica.cached = found.get(replica.replica_id), None

    # What goes out.

    def views(self, now: float, without: Collection[str] = (), *, cooling: bool = True) -> tuple[ReplicaView, ...]:
        """The snapshot to decide on. Cooling replicas are in it only where nothing else is usable, if at all."""
        rules, slack = self.rules, self._slack
        eligible = self._replicas.values() if not without else [r for r in self if r.replica_id not in without]
        views = [r.view(rules, slack, now) for r in eligible if now >= r.cool_until]
        # Where all of them cool, a request is better tried than refused.
        if cooling and len(views) < len(eligible) and not any(self.usable(view) for view in views):
            views = [r.view(rules, slack, now) for r in eligible]
        return tuple(views)

    def view(self, replica: Replica, now: float) -> ReplicaView:
        """One of them."""
        return replica.view(self.rules, self._slack, now)

    def avoided(self, model: str, tried: Collection[str]) -> Collection[str]:
        """Ids of replicas that a request must not go to: those `tried`, and those without its model."""
        return {*tried, *self.catalog.without(model)} if self.catalog.split else tried

    def usable(self, view: ReplicaView) -> bool:
        """Whether it may get requests at all, full or not."""
        return view.ready and not view.draining and view.age_s <= self.rules.staleness.dead_after_s

    def mark_dead(self, now: float) -> list[str]:
        """Ids of replicas that died since the last call; those long dead and idle are forgotten."""
        dead_after = self.rules.staleness.dead_after_s
        died = []
        for replica in list(self):
            age = now - replica.heard_at
            if age > dead_after and not replica.dead:
                replica.dead = True
                died.append(replica.replica_id)
            # One that still has requests is kept: their end must find its counters.
            if age >= dead_after * FORGET_AFTER_DEATHS and not replica.in_flight:
                del self._replicas[replica.replica_id]
        return died


def _mix(rules: Rules) -> TierMix:
    return TierMix([tier.name for tier in sorted(rules.tiers.values(), key=lambda tier: tier.tpot_s)])
