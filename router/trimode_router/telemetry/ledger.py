"""Who used what: GPU seconds, tokens and answers by tenant, tier and mode.

An answer's end tells what it has cost. What an answer cannot tell, since the client left, it failed or its stream broke
off, comes with the replica's reports a moment later, by the request's id.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import structlog

from trimode_api.wire import ReplicaReport
from trimode_router.request.account import MODES
from trimode_router.request.exchange import Exchange
from trimode_router.telemetry.fast_metrics import Count
from trimode_router.telemetry.metrics import Metrics

NO_TENANT = "none"
"""The tenant's label where no keys are asked for."""
PROMPT, _UNKNOWN = "Prompt", "unknown"
AWAITED_S, _MOST_AWAITED = 10.0, 4096
"""How long, and of how many requests, a replica's word on the cost is waited for: it repeats it for two seconds."""


class Ledger:
    """Counts into `metrics`. Times in seconds of the router's clock."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._log: Any = structlog.get_logger("access")
        self._children: dict[tuple[str, str, str], _Children] = {}
        self._awaited: OrderedDict[tuple[str, str], tuple[float, str, str]] = OrderedDict()
        """When it was left, tenant and tier, by request and replica."""

    def answered(self, exchange: Exchange) -> None:
        """Its answer has ended as it should."""
        record = exchange.record
        labels = _tenant(exchange), exchange.tier.name, record.mode or _UNKNOWN
        children = self._children.get(labels) or self._of(*labels)
        # Added to here and not by `inc`: each answer pays for every call.
        children.answers.value += 1
        children.prompt.value += record.prompt_tokens
        children.output.value += record.tokens or 0
        if record.busy:
            self._charge(*labels[:2], record.busy)

    def left(self, exchange: Exchange, replica_id: str, now: float) -> None:
        """An attempt at the replica ended without an account: the replica will tell."""
        # Servers of others and SGLang pools tell no seconds: what is awaited of them would only grow.
        while self._awaited and (
            next(iter(self._awaited.values()))[0] < now - AWAITED_S or len(self._awaited) >= _MOST_AWAITED
        ):
            self._awaited.popitem(last=False)
        self._awaited[exchange.request.request_id, replica_id] = now, _tenant(exchange), exchange.tier.name

    def reported(self, report: ReplicaReport) -> None:
        """Charge what a report tells of requests that this router has sent, each once."""
        for each in report.unanswered:
            # Reports go to every router, and repeat themselves.
            awaited = self._awaited.pop((each.request_id, report.replica_id), None)
            if awaited is None:
                continue
            _, tenant, tier = awaited
            self._charge(tenant, tier, each.busy_seconds)
            self._log.info(
                "charged",
                id=each.request_id,
                tier=tier,
                tenant=tenant,
                replica=report.replica_id,
                gpu_s=round(sum(each.busy_seconds.values()), 6),
            )

    def _charge(self, tenant: str, tier: str, busy: Mapping[str, float]) -> None:
        for point, seconds in busy.items():
            if seconds > 0:
                mode = MODES.get(point[:1])
                self._of(tenant, tier, PROMPT if mode is None else mode).seconds.inc(seconds)

    def _of(self, tenant: str, tier: str, mode: str) -> _Children:
        """Labelled children, looked up once: labels cost more than the counting."""
        labels = tenant, tier, mode
        found = self._children.get(labels)
        if found is None:
            metrics = self._metrics
            tokens = (metrics.tenant_tokens.labels(*labels, kind) for kind in ("prompt", "output"))
            found = _Children(metrics.gpu_seconds.labels(*labels), metrics.answers.labels(*labels), *tokens)
            self._children[labels] = found
        return found


def _tenant(exchange: Exchange) -> str:
    return NO_TENANT if exchange.tenant is None else exchange.tenant.name


class _Children(NamedTuple):
    seconds: Count
    answers: Count
    prompt: Count
    output: Count
