"""What became of requests: metrics, the access log, refusals for `/fleet`, and the rate of answers.

Nothing here decides, and nothing of a prompt is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import structlog

from trimode_api.errors import MOST_SHOWN, ApiError, clipped
from trimode_api.fleet import Refusal, TierState
from trimode_router.fleet.fleet import RING
from trimode_router.http.request import Request
from trimode_router.request.exchange import Exchange
from trimode_router.request.record import Record
from trimode_router.telemetry.fast_metrics import Spread
from trimode_router.telemetry.ledger import Ledger
from trimode_router.telemetry.metrics import Metrics

_WORKLOADS, _OTHER, _UNKNOWN = 16, "other", "unknown"
"""Workloads with series of their own, in each tier; the label of the others, and of what was not told."""
_SERVICE_SHARE = 0.05
"""Weight of the latest answer in the mean service time."""


class Accounting:
    """`wall` gives Unix seconds, for what people read. Of good answers, one in `sample` is logged; of others, all."""

    def __init__(self, metrics: Metrics, wall: Callable[[], float], sample: int = 100) -> None:
        self.metrics = metrics
        self.refusals: deque[Refusal] = deque(maxlen=RING)
        self.finished_total = 0
        self.refused_total = 0
        self._wall = wall
        self._sample = sample
        self._answers = 0
        self._log: Any = structlog.get_logger("access")
        self._service_s = 0.0
        self._tiers: dict[str, _TierMetrics] = {}
        self.ledger = Ledger(metrics)
        self.also: Callable[[Exchange], None] | None = None
        """Told of every exchange that is over, where somebody else counts, too."""

    def finished(self, exchange: Exchange, now: float) -> None:
        """An exchange is over, however it ended."""
        record = exchange.record
        if record.refusal is not None:
            self._refused(exchange.tier.name, record.refusal)
        tier = self._tiers.get(exchange.tier.name)
        if tier is None:
            tier = self._tiers[exchange.tier.name] = _TierMetrics(self.metrics, exchange)
        tier.count(exchange, now)
        if record.status == "200":
            self.ledger.answered(exchange)
        if self.also is not None:
            self.also(exchange)
        if record.replica_id:
            self.finished_total += 1
            # A mean that follows: demand and answers' lengths change within minutes.
            share = _SERVICE_SHARE if self._service_s > 0 else 1.0
            self._service_s += share * (now - record.started - record.queue_wait - self._service_s)
        # Good answers are sampled, as they would be nearly all of the log. What went wrong is always in it.
        if record.status == "200" and not record.resumptions:
            self._answers += 1
            if self._answers % self._sample:
                return
        self._log.info(
            "request",
            id=exchange.request.request_id,
            path=exchange.request.path,
            tier=exchange.tier.name,
            tenant=None if exchange.tenant is None else exchange.tenant.name,
            status=record.status,
            replica=record.replica_id,
            attempts=record.attempts,
            failures=record.failures or None,
            resumptions=record.resumptions or None,
            pause_s=round(record.pause, 4) if record.resumptions else None,
            # A replica's own refusal has its reason as well: its 400s stood here as null.
            refusal=(record.reason if record.refusal is None else record.refusal.code) or None,
            queued_s=round(record.queue_wait, 4),
            predicted_s=None if record.predicted_s is None else round(record.predicted_s, 4),
            first_byte_s=None if record.first_byte is None else round(record.first_byte - record.started, 4),
            seconds=round(now - record.started, 4),
            prompt_tokens=record.prompt_tokens or None,
            tokens=record.tokens,
            mode=record.mode or None,
            gpu_s=round(sum(record.busy.values()), 6) if record.busy else None,
        )

    def turned_away(self, request: Request, error: ApiError, *, completion: bool) -> None:
        """A request is refused before it is one of a tier: by its form, its key, its model; or the router failed.

        Those for completions are counted among the others, too, by status: an alert on errors must see a client with a
        wrong model's name. `trimode_router_refusals` is of what more replicas would mend.
        """
        self.metrics.rejections.labels(error.code or "unknown").inc()
        if completion:
            self.metrics.requests.labels(_UNKNOWN, str(error.status)).inc()
        self._log.info(
            "refused",
            id=request.request_id,
            method=request.method,
            path=clipped(request.path, MOST_SHOWN),
            status=str(error.status),
            refusal=error.code,
        )

    def _refused(self, tier: str, error: ApiError) -> None:
        reason = error.code or "unknown"
        self.refused_total += 1
        self.metrics.refusals.labels(reason).inc()
        self.refusals.append(
            Refusal(time=self._wall(), tier=tier, status=error.status, reason=reason, detail=error.message)
        )

    def retried(self) -> None:
        self.metrics.retries.inc()

    def resumed(self, pause_s: float) -> None:
        """A broken stream goes on, this long after its break."""
        self.metrics.pauses.observe(pause_s)

    def first_token(self, record: Record, now: float) -> None:
        """A first token has come, and when had been predicted."""
        if record.predicted_s:
            self.metrics.predictions.observe((now - record.sent_at) / record.predicted_s)

    def predicted_late(self, outcome: str) -> None:
        """A new request's first token is late for certain."""
        self.metrics.predicted_late.labels(outcome).inc()

    def objectives(self) -> tuple[TierState, ...]:
        """Of each tier that had any: answers so far, and those that met both objectives."""
        return tuple(TierState(name=name, answers=tier.answers, met=tier.met) for name, tier in self._tiers.items())

    def drain_rate(self, in_flight: int) -> float:
        """Requests per second that end while `in_flight` run, by how long the latest took; 0 for unknown.

        Answers counted over time would show the demand of a router with room to spare, not what it could drain.
        """
        return in_flight / self._service_s if self._service_s > 0 else 0.0


class _TierMetrics:
    """One tier's labelled children, looked up once: labels cost more than the counting."""

    def __init__(self, metrics: Metrics, exchange: Exchange) -> None:
        name = exchange.tier.name
        self.answers = self.met = 0
        """Streams that were answered, and those of them that met both objectives."""
        self._requests = metrics.requests
        self._name = name
        self._by_status: dict[str, Any] = {}
        self._metrics = metrics
        self._spreads: dict[tuple[str, str], _Spreads] = {}
        self._tokens = metrics.tokens.labels(name)
        self._queue_wait = metrics.queue_wait.labels(name)
        self._ttft, self._tpot = (
            tuple(metrics.objectives.labels(name, kind, met) for met in ("false", "true")) for kind in ("ttft", "tpot")
        )

    def count(self, exchange: Exchange, now: float) -> None:
        record = exchange.record
        child = self._by_status.get(record.status)
        if child is None:
            child = self._by_status[record.status] = self._requests.labels(self._name, record.status)
        child.inc()
        if record.queued_at is not None:
            self._queue_wait.observe(record.queue_wait)
        # Times of answers that failed, or were left by their clients, would make a bad minute look fast.
        if record.status != "200" or record.first_byte is None:
            return
        spreads = self._spreads_of(record.mode, exchange.asked.workload)
        spreads.whole.observe(now - record.started)
        waited = record.first_byte - record.started
        met = waited <= exchange.tier.ttft_s
        if record.stream:  # the first byte of any other answer is its end
            spreads.first_byte.observe(waited)
            self._ttft[met].inc()
        if record.tokens is not None:
            self._tokens.inc(record.tokens)
            if record.stream and record.tokens > 1:
                per_token = (now - record.first_byte) / (record.tokens - 1)
                spreads.per_token.observe(per_token)
                in_time = per_token <= exchange.tier.tpot_s
                self._tpot[in_time].inc()
                met = met and in_time
        if record.stream:
            self.answers += 1
            self.met += met

    def _spreads_of(self, mode: str, workload: str) -> _Spreads:
        """The times of answers of one mode and workload; a client's names are not let grow without bound."""
        found = self._spreads.get((mode, workload))
        if found is None:
            named = {known for _, known in self._spreads}
            label = workload if workload in named or len(named) < _WORKLOADS else _OTHER
            labels = self._name, mode or _UNKNOWN, label or _UNKNOWN
            children = (family.labels(*labels) for family in self._metrics.times)
            found = _Spreads(*children)
            if label == workload:
                self._spreads[mode, workload] = found
        return found


class _Spreads(NamedTuple):
    """Times of answers that share tier, mode and workload."""

    first_byte: Spread
    whole: Spread
    per_token: Spread
