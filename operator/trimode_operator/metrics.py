"""Every metric of the operator: names, units, labels. A test pins the names. Times are in seconds."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The operator's numbers, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        registry = self.registry
        self.reconciles = Histogram(
            "trimode_operator_reconcile_seconds",
            "Reconciliations of one resource: plan, apply, observe, status.",
            ["result"],
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self.errors = Counter(
            "trimode_operator_reconcile_errors",
            "Reconciliations that failed, by reason.",
            ["reason"],
            registry=registry,
        )
        self.writes = Counter(
            "trimode_operator_writes",
            "Requests that change something in the cluster; resyncs that find nothing to do add none.",
            ["verb", "kind"],
            registry=registry,
        )
        self.pushes = Counter(
            "trimode_operator_policy_pushes", "Policies put to routers.", ["result"], registry=registry
        )
        self.queue = Gauge("trimode_operator_queue_depth", "Resources waiting to be reconciled.", registry=registry)
        self.watch_age = Gauge(
            "trimode_operator_watch_age_seconds",
            "Since the watches last proved to be alive: by an event, or by agreeing with a list.",
            registry=registry,
        )
        self.leader = Gauge("trimode_operator_leader", "1: this copy holds the Lease.", registry=registry)
        self.resources = Gauge(
            "trimode_operator_resources",
            "NemotronDeployments by condition; only the leader knows.",
            ["condition", "status"],
            registry=registry,
        )

    def live(self, *, queue: Callable[[], float], watch_age: Callable[[], float], leads: Callable[[], float]) -> None:
        """Where the gauges get their values when scraped."""
        self.queue.set_function(queue)
        self.watch_age.set_function(watch_age)
        self.leader.set_function(leads)

    def count_resources(self, conditions: Iterable[Mapping[str, str]]) -> None:
        """Set from the conditions (type: status) of every resource."""
        tally = Tally(pair for of_one in conditions for pair in of_one.items())
        self.resources.clear()
        for (condition, status), count in tally.items():
            self.resources.labels(condition, status).set(count)

    def text(self) -> bytes:
        return generate_latest(self.registry)
