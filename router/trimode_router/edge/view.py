"""From live state to the frozen views that `/fleet` shows, and their history."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from trimode_api.fleet import (
    FleetHistory,
    FleetSample,
    FleetView,
    Freshness,
    PoolState,
    PredictionState,
    ReplicaState,
    RouterState,
)
from trimode_api.wire import ReplicaReport
from trimode_router.access.reload import Watched
from trimode_router.dispatch.dispatcher import Dispatcher
from trimode_router.fleet.fleet import Fleet
from trimode_router.fleet.replica import Replica
from trimode_router.telemetry.accounting import Accounting

HISTORY_SECONDS = 600
REPORTED = (set(ReplicaState.model_fields) & set(ReplicaReport.model_fields)) - {"draining"}
"""What a view says in a report's own words. Whether a replica drains is the router's to say: it may have ordered it."""


@dataclass(slots=True, eq=False)
class Viewer:
    """Makes views of the fleet. `now` in seconds of the router's clock, `wall` in Unix seconds.

    `watched`: what the router reads from files that may be bad.
    """

    name: str
    live: Fleet
    dispatcher: Dispatcher
    accounting: Accounting
    now: Callable[[], float]
    wall: Callable[[], float]
    draining: bool = False
    watched: tuple[Watched, ...] = ()
    _samples: deque[FleetSample] = field(default_factory=lambda: deque(maxlen=HISTORY_SECONDS), init=False)

    def fleet(self, *, inside: bool = False) -> FleetView:
        """Everything, as of now. What is wrong with its files is told `inside` only: the words may name tenants."""
        policy = self.live.rules.policy
        oldest, errors = self.dispatcher.queue.oldest(), self.dispatcher.predictions
        replicas = tuple(self._replica(replica) for replica in self.live)
        pools = dict.fromkeys([*(pool.name for pool in policy.pools), *(replica.pool for replica in replicas)])
        return FleetView(
            name=self.name,
            model=self.live.model,
            time=self.wall(),
            policy_version=policy.version,
            default_tier=self.live.rules.default_tier.name,
            tiers=policy.tiers,
            switching=policy.switching,
            drain_timeout_seconds=policy.drain_timeout_seconds,
            gpu_hour_cost=policy.gpu_hour_cost,
            pools=tuple(self._pool(name, replicas) for name in pools),
            replicas=replicas,
            router=RouterState(
                in_flight=len(self.dispatcher.in_flight),
                queued=len(self.dispatcher.queue),
                oldest_wait_seconds=0.0 if oldest is None else round(self.now() - oldest, 3),
                finished_total=self.accounting.finished_total,
                refused_total=self.accounting.refused_total,
                draining=self.draining,
                predictions=PredictionState(
                    measured=errors.measured,
                    low=round(errors.low.value, 3),
                    median=round(errors.middle.value, 3),
                    high=round(errors.high.value, 3),
                ),
                problems={each.field: each.problem for each in self.watched if inside and each.problem},
            ),
            objectives=self.accounting.objectives(),
            decisions=tuple(self.live.changes),
            refusals=tuple(self.accounting.refusals),
        )

    def sample(self) -> None:
        """Note this second for the history."""
        rules, now = self.live.rules, self.now()
        # What a dead replica said last would stay in the sums until it is forgotten.
        alive = [r.report for r in self.live if r.freshness(rules, now) is not Freshness.DEAD]
        self._samples.append(
            FleetSample(
                time=self.wall(),
                in_flight=len(self.dispatcher.in_flight),
                queued=len(self.dispatcher.queue),
                running=sum(report.running for report in alive),
                waiting=sum(report.waiting for report in alive),
                tokens_per_second=sum(report.tokens_per_second for report in alive),
                points=dict(Counter(report.point for report in alive if report.ready)),
            )
        )

    def history(self) -> FleetHistory:
        return FleetHistory(samples=tuple(self._samples))

    def ready(self) -> bool:
        """Whether requests would be served: not draining, keys and certificate are there, and some replica takes them
        or can be started."""
        if self.draining or not self.may_serve():
            return False
        now = self.now()
        awake = any(self.live.usable(view) for view in self.live.views(now))
        return awake or bool(self.dispatcher.activator.scaled_to_zero(now))

    def may_serve(self) -> bool:
        return all(each.usable for each in self.watched)

    def _replica(self, replica: Replica) -> ReplicaState:
        report, now = replica.report, self.now()
        view, first_s = self.live.view(replica, now), None
        if view.prompt_tokens_per_second > 0:
            work_s = view.queued_prompt_tokens / view.prompt_tokens_per_second
            first_s = work_s * self.dispatcher.predictions.middle.value
        return ReplicaState(
            **{name: getattr(report, name) for name in REPORTED},
            draining=replica.draining,
            freshness=replica.freshness(self.live.rules, now),
            cooling=now < replica.cool_until,
            age_seconds=round(now - replica.heard_at, 3),
            in_flight=replica.in_flight,
            first_token_seconds=None if first_s is None else round(first_s, 3),
        )

    def _pool(self, name: str, replicas: tuple[ReplicaState, ...]) -> PoolState:
        own = [r for r in replicas if r.pool == name and r.freshness is not Freshness.DEAD]
        ready = [replica for replica in own if replica.ready and not replica.draining]
        points = Counter(replica.point for replica in ready)
        return PoolState(
            name=name,
            points=tuple(str(point) for point in self.live.rules.pools.get(name, ())),
            replicas=len(own),
            ready=len(ready),
            running=sum(replica.running for replica in own),
            waiting=sum(replica.waiting for replica in own),
            tokens_per_second=sum(replica.tokens_per_second for replica in own),
            shares={point: round(100 * count / len(ready), 1) for point, count in points.items()},
            asleep=name in self.dispatcher.activator.scaled_to_zero(self.now()),
            wanted=self.dispatcher.activator.wanted(name, self.now()),
        )
