"""What a replica says of itself, made from the engine's last words and the shell's own counters."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from trimode_api.wire import (
    DecisionReport,
    PointReport,
    PolicyConfig,
    ReplicaReport,
    SwitchReport,
    UnansweredReport,
)
from trimode_workers.engine.messages import Started, Stats
from trimode_workers.replica.policy import pool_points


class RateWindow:
    """Rate of a growing count over the last `seconds`; `now` is an argument."""

    def __init__(self, seconds: float = 2.0) -> None:
        self._seconds = seconds
        self._samples: deque[tuple[float, int]] = deque()

    def rate(self, total: int, now: float) -> float:
        """Adds the sample; units per second, 0 until there are two samples apart."""
        samples = self._samples
        samples.append((now, total))
        while len(samples) > 2 and samples[1][0] <= now - self._seconds:
            samples.popleft()
        then, before = samples[0]
        return (total - before) / (now - then) if now > then else 0.0


@dataclass(frozen=True, slots=True)
class Self:
    """What stays the same over a replica's life."""

    replica_id: str
    pool: str
    model: str
    url: str
    ray_cluster: str = ""


@dataclass(frozen=True, slots=True)
class Moment:
    """The shell's own view of now. `in_flight` counts requests the engine has been given and not ended."""

    sequence: int
    ready: bool
    draining: bool
    in_flight: int
    tokens_per_second: float
    policy: PolicyConfig
    unanswered: tuple[UnansweredReport, ...] = ()


def build_report(who: Self, now: Moment, engine: Started, stats: Stats) -> ReplicaReport:
    """The report. Requests are counted by the shell, because the engine's figures are a few cycles old."""
    running = min(stats.running, now.in_flight)
    allowed, last = pool_points(now.policy, who.pool), stats.switched
    switch = None
    if last is not None:
        switch = SwitchReport(from_point=last.source, to_point=last.target, reason=last.reason, detail=last.detail)
    return ReplicaReport(
        replica_id=who.replica_id,
        pool=who.pool,
        url=who.url,
        model=who.model,
        sequence=now.sequence,
        ready=now.ready,
        draining=now.draining,
        running=running,
        waiting=now.in_flight - running,
        max_running=engine.max_running_requests,
        queued_prompt_tokens=stats.queued_prompt_tokens,
        cached_tokens=stats.cached_tokens,
        capacity_tokens=stats.capacity_tokens,
        max_context_tokens=engine.max_context_tokens,
        point=stats.point,
        decision=DecisionReport(
            point=stats.decision_point, reason=stats.reason, detail=stats.detail, age_seconds=stats.age_s
        ),
        allowed_points=tuple(map(str, allowed)),
        points=_points(stats),
        switches=stats.switches_total,
        last_switch=switch,
        preemptions=stats.preemptions_total,
        prompt_tokens_computed=stats.prompt_total.get("computed", 0),
        prompt_tokens_shared=stats.prompt_total.get("shared", 0),
        stored_pages=stats.stored_pages,
        store_pages=stats.store_pages,
        shortages=stats.shortages_total,
        paces=tuple(stats.paces),
        prompt_seconds_per_token=stats.prompt_seconds_per_token,
        prompt_tokens_per_second=stats.prompt_tokens_per_second,
        tokens_per_second=now.tokens_per_second,
        policy_version=stats.policy_version,
        busy_seconds=stats.busy_s,
        start_seconds=engine.load_seconds,
        ray_cluster=who.ray_cluster,
        unanswered=now.unanswered,
    )


def _points(stats: Stats) -> tuple[PointReport, ...]:
    return tuple(
        PointReport(
            point=curve.point,
            cycle_seconds=curve.cycle_seconds,
            tokens_per_cycle=curve.tokens_per_cycle,
            tokens_per_second=curve.tokens_per_second,
            cycles=stats.cycles_total.get(curve.point, 0),
            tokens=stats.emitted_total.get(curve.point, 0),
        )
        for curve in stats.curves
    )
