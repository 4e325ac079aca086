"""Every metric of the router: names, units, labels. A test pins the names. Times are in seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from trimode_api.fleet import FleetView, Freshness, ReplicaState
from trimode_api.wire import PointReport
from trimode_router.telemetry.fast_metrics import Counts, Spreads
from trimode_router.telemetry.shares import Share, Sum, of_all, share_of

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

_FAST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_WHOLE = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_PER_TOKEN = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_RATIO = (0.1, 0.25, 0.5, 0.75, 0.9, 1.1, 1.25, 1.5, 2, 4, 10)


class Metrics:
    """The router's own numbers, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        registry = self.registry
        self.requests = Counts(
            "trimode_router_requests",
            "Completion requests by how they ended; status is the HTTP status, or what cut the answer short.",
            ["tier", "status"],
            registry=registry,
        )
        self.first_byte = Spreads(
            "trimode_router_time_to_first_token_seconds",
            "From the whole request read to the first byte of the answer's body.",
            ["tier", "mode", "workload"],
            buckets=_FAST,
            registry=registry,
        )
        self.whole = Spreads(
            "trimode_router_request_seconds",
            "From the whole request read to the end of the answer.",
            ["tier", "mode", "workload"],
            buckets=_WHOLE,
            registry=registry,
        )
        self.per_token = Spreads(
            "trimode_router_time_per_output_token_seconds",
            "Of a stream: time after the first token, by token.",
            ["tier", "mode", "workload"],
            buckets=_PER_TOKEN,
            registry=registry,
        )
        self.objectives = Counts(
            "trimode_router_objectives",
            "Answers by whether they met their tier's objective.",
            ["tier", "objective", "met"],
            registry=registry,
        )
        self.tokens = Counts("trimode_router_output_tokens", "Tokens in finished answers.", ["tier"], registry=registry)
        whose = ["tenant", "tier", "mode"]
        self.gpu_seconds = Counts(
            "trimode_router_gpu_seconds",
            "Engines' time that requests have cost, by what ran; Prompt is time spent on prompts alone.",
            whose,
            registry=registry,
        )
        self.answers = Counts("trimode_router_answers", "Whole answers, by who asked.", whose, registry=registry)
        self.tenant_tokens = Counts(
            "trimode_router_tenant_tokens",
            "Tokens of whole answers (kind output) and of their prompts (kind prompt), by who asked.",
            [*whose, "kind"],
            registry=registry,
        )
        self.queue_wait = Spreads(
            "trimode_router_queue_wait_seconds",
            "Time in the queue of requests that had to wait, however they left it.",
            ["tier"],
            buckets=_FAST,
            registry=registry,
        )
        self.retries = Counter(
            "trimode_router_retries", "Requests sent again before their first byte.", registry=registry
        )
        self.pauses = Histogram(
            "trimode_router_resumption_seconds",
            "Of streams that broke off and went on from another replica: the pause.",
            buckets=_FAST,
            registry=registry,
        )
        self.predictions = Histogram(
            "trimode_router_first_token_ratio",
            "Time to the first token over the predicted one, of prompts that take a quarter of their objective.",
            buckets=_RATIO,
            registry=registry,
        )
        self.predicted_late = Counter(
            "trimode_router_predicted_late",
            "Requests whose first token was late for certain as they came, by what became of them.",
            ["outcome"],
            registry=registry,
        )
        self.refusals = Counter(
            "trimode_router_refusals", "Requests not served, by reason.", ["reason"], registry=registry
        )
        self.rejections = Counter(
            "trimode_router_rejections",
            "Requests refused before they had a tier, for any path, by the error's code.",
            ["code"],
            registry=registry,
        )
        self.in_flight = Gauge("trimode_router_in_flight", "Requests at replicas, by this router.", registry=registry)
        self.queued = Gauge("trimode_router_queued", "Requests waiting in this router.", registry=registry)
        self.tasks = Gauge("trimode_router_tasks", "Tasks in the event loop.", registry=registry)
        self.connections = Gauge("trimode_router_client_connections", "Open client connections.", registry=registry)

    @property
    def times(self) -> tuple[Spreads, Spreads, Spreads]:
        """To the first token, of the whole request, per token."""
        return self.first_byte, self.whole, self.per_token

    def text(self, view: FleetView, others: Sequence[Share] = ()) -> bytes:
        """The exposition: these numbers, and the fleet's as of `view`; with those of `others` on the same port."""
        own = self.registry
        if others:
            own = CollectorRegistry()
            own.register(Sum([self.share(view), *others]))
        fleet = CollectorRegistry()
        fleet.register(_FleetCollector(of_all(view, others) if others else view))
        return generate_latest(own) + generate_latest(fleet)

    def share(self, view: FleetView) -> Share:
        """For another process to add to its own."""
        return share_of(self.registry.collect(), view)


class _FleetCollector(Collector):
    """What replicas reported, made afresh at each scrape, so that a gone replica leaves no series behind."""

    def __init__(self, view: FleetView) -> None:
        self._view = view

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "trimode_router_policy_version", "Version of the policy in force.", value=self._view.policy_version
        )
        yield GaugeMetricFamily(
            "trimode_router_gpu_hour_cost",
            "What an hour of one replica's GPU costs, as the resource says; 0: not said.",
            value=self._view.gpu_hour_cost,
        )
        asleep = GaugeMetricFamily("trimode_pool_asleep", "1: no replica, and a request wakes it.", labels=["pool"])
        for pool in self._view.pools:
            asleep.add_metric([pool.name], float(pool.asleep))
        yield asleep
        for kind, name, about, value in _OF_REPLICAS:
            family = kind(name, about, labels=["pool", "replica"])
            for replica in self._view.replicas:
                family.add_metric([replica.pool, replica.replica_id], value(replica))
            yield family
        prompt = CounterMetricFamily(
            "trimode_replica_prompt_tokens",
            "Prompt tokens by where their state came from: computed, or shared with an earlier request.",
            labels=["pool", "replica", "source"],
        )
        info = GaugeMetricFamily(
            "trimode_replica_point_info", "1: the point that runs now.", labels=["pool", "replica", "point"]
        )
        for replica in self._view.replicas:
            names = [replica.pool, replica.replica_id]
            prompt.add_metric([*names, "computed"], replica.prompt_tokens_computed)
            prompt.add_metric([*names, "shared"], replica.prompt_tokens_shared)
            for point in dict.fromkeys([*replica.allowed_points, replica.point]):
                info.add_metric([*names, point], float(point == replica.point))
        yield from (prompt, info)
        for kind, name, about, of_point in _OF_POINTS:
            family = kind(name, about, labels=["pool", "replica", "point"])
            for replica in self._view.replicas:
                for each in replica.points:
                    family.add_metric([replica.pool, replica.replica_id, each.point], of_point(each))
            yield family


_Kind = type[CounterMetricFamily] | type[GaugeMetricFamily]
_COUNTER, _GAUGE = CounterMetricFamily, GaugeMetricFamily
_OF_REPLICAS: tuple[tuple[_Kind, str, str, Callable[[ReplicaState], float]], ...] = (
    (
        _GAUGE,
        "trimode_replica_ready",
        "1: takes requests.",
        lambda r: r.ready and not r.draining and r.freshness is not Freshness.DEAD,
    ),
    (_GAUGE, "trimode_replica_running", "Requests that decode.", lambda r: r.running),
    (_GAUGE, "trimode_replica_waiting", "Requests not yet in the batch.", lambda r: r.waiting),
    (_GAUGE, "trimode_replica_in_flight", "Requests sent by this router.", lambda r: r.in_flight),
    (_GAUGE, "trimode_replica_tokens_per_second", "Tokens emitted.", lambda r: r.tokens_per_second),
    (_GAUGE, "trimode_replica_report_age_seconds", "Since the last report.", lambda r: r.age_seconds),
    (_GAUGE, "trimode_replica_cached_tokens", "Tokens in the KV cache.", lambda r: r.cached_tokens),
    (
        _COUNTER,
        "trimode_replica_busy_seconds",
        "Engine's time with requests; all other time is idle.",
        lambda r: r.busy_seconds,
    ),
    (_GAUGE, "trimode_replica_start_seconds", "Time to load and warm up.", lambda r: r.start_seconds),
    (_COUNTER, "trimode_replica_switches", "Changes of the decided operating point.", lambda r: r.switches),
    (_COUNTER, "trimode_replica_preemptions", "Requests put back.", lambda r: r.preemptions),
    (
        _GAUGE,
        "trimode_replica_stored_pages",
        "Pages of prompts and answers kept to be shared.",
        lambda r: r.stored_pages,
    ),
    (_COUNTER, "trimode_replica_shortages", "Times that the device's memory ran out.", lambda r: r.shortages),
)
_OF_POINTS: tuple[tuple[_Kind, str, str, Callable[[PointReport], float]], ...] = (
    (_GAUGE, "trimode_replica_cycle_seconds", "Predicted at the present batch.", lambda p: p.cycle_seconds),
    (_GAUGE, "trimode_replica_tokens_per_cycle", "Tokens per request and cycle.", lambda p: p.tokens_per_cycle),
    (
        _GAUGE,
        "trimode_replica_predicted_tokens_per_second",
        "Of the whole batch, predicted.",
        lambda p: p.tokens_per_second,
    ),
    (_COUNTER, "trimode_replica_cycles", "Cycles run.", lambda p: p.cycles),
    (_COUNTER, "trimode_replica_tokens", "Tokens emitted.", lambda p: p.tokens),
)
