"""Cycles and acceptance, told from chunks: in every mode a server sends one chunk per cycle and request. Pure.

`now` is an argument.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from trimode_api.modes import Mode, OperatingPoint, speculation
from trimode_workers.engine.messages import PointStats, Stats, Switched
from trimode_workers.sglang.command import Tier, block_length

_FIELDS = {
    "sglang:num_running_reqs": "running",
    "sglang:num_queue_reqs": "waiting",
    "sglang:num_used_tokens": "cached_tokens",
    "sglang:max_total_num_tokens": "capacity_tokens",
    "sglang:token_usage": "token_usage",
    "sglang:spec_accept_length": "accept_length",
    "sglang:num_retracted_requests_total": "retracted",
}


@dataclass(frozen=True, slots=True)
class Figures:
    """Summed over data parallel ranks. `accept_length` 0 where the server reports none, as for dLLM algorithms."""

    running: float = 0.0
    waiting: float = 0.0
    cached_tokens: float = 0.0
    capacity_tokens: float = 0.0
    token_usage: float = 0.0
    accept_length: float = 0.0
    retracted: float = 0.0

    @property
    def used_tokens(self) -> int:
        """Cached tokens; older servers tell their share only."""
        return int(self.cached_tokens or self.token_usage * self.capacity_tokens)


def parse(text: str) -> Figures:
    """The figures in Prometheus' text format; ValueError where it is none."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            field = _FIELDS.get(sample.name)
            if field is not None:
                found[field] = found.get(field, 0.0) + sample.value
    return Figures(**found)


WEIGHT = 0.05
"""Of a new chunk in the running means."""


@dataclass(slots=True)
class _Mean:
    """Of one point: seconds between two chunks of a request, tokens in one."""

    cycle_s: float = 0.0
    tokens: float = 0.0
    count: int = 0

    def add(self, tokens: int, seconds: float | None) -> None:
        weight = max(WEIGHT, 1 / (self.count + 1))
        self.tokens += weight * (tokens - self.tokens)
        if seconds is not None:
            self.cycle_s = seconds if self.cycle_s == 0.0 else self.cycle_s + weight * (seconds - self.cycle_s)
        self.count += 1


@dataclass(slots=True)
class Observer:
    """One server. `tiers` is empty but for self-speculation, whose point follows the batch."""

    points: Sequence[OperatingPoint]
    tiers: Sequence[Tier]
    capacity_tokens: int
    rows: int
    began: float
    version: int = 0
    figures: Figures = field(default_factory=Figures)
    cycles: Counter[str] = field(default_factory=Counter)
    emitted: Counter[str] = field(default_factory=Counter)
    switches: int = 0
    switched: Switched | None = None
    _means: dict[str, _Mean] = field(default_factory=dict)
    _by_batch: dict[int, _Mean] = field(default_factory=dict)
    _point: str = ""
    _since: float = 0.0

    def point(self, running: int) -> OperatingPoint:
        """What the server runs with so many requests in its batch."""
        if self.points[0].mode is Mode.SELF_SPECULATION and self.tiers:
            return speculation(block_length(self.tiers, max(1, running)))
        return self.points[0]

    def chunk(self, running: int, tokens: int, seconds: float | None) -> OperatingPoint:
        """A chunk of `tokens` while `running` requests ran, `seconds` after the request's last (None: it is the
        first, and holds the prompt's). Returns the point that it is counted for."""
        point = self.point(running)
        name = str(point)
        self.cycles[name] += 1
        self.emitted[name] += tokens
        self._means.setdefault(name, _Mean()).add(tokens, seconds)
        # Batches up to the same power of two are one.
        level = 1 << max(0, running - 1).bit_length()
        self._by_batch.setdefault(level, _Mean()).add(tokens, seconds)
        return point

    def acceptance(self, point: OperatingPoint) -> float:
        """Tokens per cycle so far; the server's own figure where it has one."""
        mean = self._means.get(str(point))
        return self.figures.accept_length or (mean.tokens if mean else 0.0)

    def stats(self, in_flight: int, now: float) -> Stats:
        """The state for reports. Notes a change of tier."""
        running = min(in_flight, self.rows)
        point = self.point(running)
        if self._point and str(point) != self._point:
            self.switches += 1
            words = f"{running} running: another block length"
            self.switched = Switched(self._point, str(point), "Manual", words)
            self._since = now
        self._point = str(point)
        return Stats(
            running=running,
            waiting=in_flight - running,
            free_rows=self.rows - running,
            cached_tokens=self.figures.used_tokens,
            capacity_tokens=int(self.figures.capacity_tokens) or self.capacity_tokens,
            queued_prompt_tokens=0,
            point=str(point),
            decision_point=str(point),
            reason="Manual",
            detail="the mode is fixed when an SGLang server starts"
            + ("; its block length follows the batch" if len(self.tiers) > 1 else ""),
            age_s=now - (self._since or self.began),
            switches_total=self.switches,
            cycles_total=dict(self.cycles),
            emitted_total=dict(self.emitted),
            seconds_total={},
            preemptions_total=int(self.figures.retracted),
            policy_version=self.version,
            curves=[curve for each in self.points if (curve := self._curve(each, running)) is not None],
            switched=self.switched,
            paces=self._paces(),
        )

    def _paces(self) -> tuple[tuple[int, float], ...]:
        """(requests decoding, seconds per token of one) for the batches seen, ascending in both."""
        found: list[tuple[int, float]] = []
        slowest = 0.0
        for batch, mean in sorted(self._by_batch.items()):
            if mean.cycle_s > 0.0 and mean.tokens > 0.0:
                slowest = max(slowest, mean.cycle_s / mean.tokens)
                found.append((batch, slowest))
        return tuple(found)

    def _curve(self, point: OperatingPoint, running: int) -> PointStats | None:
        mean = self._means.get(str(point))
        if mean is None or mean.cycle_s <= 0.0:
            return None
        tokens = self.acceptance(point)
        return PointStats(str(point), mean.cycle_s, tokens, max(1, running) * tokens / mean.cycle_s, mean.count)
