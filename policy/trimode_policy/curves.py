"""Predicted seconds and tokens per cycle of each operating point, corrected by what is measured.

Belongs here: the one object that an engine feeds with its cycles and asks for predictions. How durations are
learned is in `speed`, how yields are in `gain`; which point to run is decided in `choose`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, isfinite, log
from typing import NamedTuple

from trimode_api.modes import OperatingPoint
from trimode_policy.gain import Gain, Yield
from trimode_policy.roofline import Roofline, forwards
from trimode_policy.speed import Row, Speed, bucket_of
from trimode_policy.values import value

COLD = 2.0
"""Factor on the standard deviation of the first cycle after a change of point, which pays for cold caches."""
PREFILLED = 3.0
"""The same for a cycle whose prefill had to be subtracted."""
CLEAN_S = 2.0
"""Seconds after a clean cycle in which cycles with prefill are not learned from."""
LEAST_LEFT = 0.3
"""Share of the predicted seconds that must be left once prefill is subtracted."""
UNSEEN_VARIANCE_PER_S = 0.02
"""Variance (log pace) per second gained by a point that never ran, up to 1: a wrong prior is found out even so.

A prior that is wrong about one point by more than 6 times may delay its first probe by a minute."""


@value
class Observation:
    """One cycle as it was run.

    `batch`: decoding requests. `context_tokens`: cached tokens per request, mean. `prefill_tokens`: prompt tokens
    that shared the cycle (such cycles teach yields, and seconds only where there are no others). `seconds`: wall
    clock of the cycle. `tokens`: emitted by the whole batch in this cycle, by decoding only. `workloads`: of those that
    name one, (name, requests, tokens).
    """

    point: OperatingPoint
    batch: int
    context_tokens: float
    prefill_tokens: int
    seconds: float
    tokens: int
    workloads: tuple[tuple[str, int, int], ...] = ()


class Estimate(NamedTuple):
    """A point's prediction at one batch: `seconds` and `tokens` (per request) of a cycle, and how uncertain they are.

    `pace`: seconds per token of one user. `variance`: of the logarithm of the pace, without what all points share;
    `shared`: what speculating points share and others lack.
    `seen`: cycles measured at this very batch bucket. `idle_s`: since the point last ran, infinite if never.
    """

    point: OperatingPoint
    seconds: float
    tokens: float
    pace: float
    variance: float
    shared: float
    seen: int
    idle_s: float


@dataclass(slots=True)
class _Known:
    """What one operating point has been seen to do."""

    point: OperatingPoint
    forwards: float
    width: int
    speculates: bool
    tokens: Yield
    row: Row
    cycles: int = 0
    ran_at: float | None = None
    clean_at: float | None = None


class Curves:
    """Mutable and deterministic; holds no clock. Points not announced are learned when first observed."""

    def __init__(self, points: Iterable[OperatingPoint], prior: Roofline | None) -> None:
        """Without a prior a point can be predicted only after it has run."""
        self.prior = prior
        self._speed = Speed()
        self._gain = Gain()
        self._last: OperatingPoint | None = None
        self._since: float | None = None
        self._points: dict[OperatingPoint, _Known] = {}
        self._asked: tuple[Sequence[OperatingPoint], tuple[_Known, ...]] = ((), ())
        for point in points:
            self._known(point)

    def observe(self, o: Observation, now: float) -> None:
        """Learn from one cycle. A cycle without requests, or without a positive duration, teaches nothing."""
        if o.batch < 1 or not (isfinite(o.seconds) and o.seconds > 0):
            return
        known = self._known(o.point)
        warm, self._last = self._last == o.point, o.point
        known.ran_at = now
        self._since = now if self._since is None else self._since
        if o.workloads:
            named = {name: requests for name, requests, _ in o.workloads}
            self.serves({**named, "": o.batch - sum(named.values())})
            for name, requests, tokens in o.workloads:
                self._gain.learn_workload(known.tokens, name, tokens / requests, requests)
        # From every cycle: prompts that share it make it longer, but drafts are accepted as ever.
        self._gain.learn(known.tokens, o.tokens / o.batch, o.batch, now)
        read_s = self._read_seconds(o.batch, o.context_tokens)
        prior_s = (
            1.0 if self.prior is None else known.forwards * self.prior.bound_seconds(read_s, o.batch * known.width)
        )
        seconds, noise = o.seconds, 1.0 if warm else COLD
        # Cycles with prompts are the second choice: vLLM counted prefills as load (issue 49548) and fell from 232 to
        # between 24 and 157 tokens/s where the batch crossed its threshold.
        if o.prefill_tokens == 0:
            known.clean_at = now
        else:
            seconds, noise = self._without_prefill(known, o, prior_s, now), PREFILLED
        if seconds > 0:
            known.cycles += 1
            self._speed.learn(known.row, o.batch, log(seconds / prior_s), noise, now)

    def serves(self, running: Mapping[str, int]) -> None:
        """The batch that predictions are for from now on: requests by workload, '' for those that name none."""
        self._gain.mix(running)

    def workload_tokens(self, point: OperatingPoint) -> dict[str, float]:
        """Predicted tokens per request and cycle of each workload that was named; empty for points without drafts."""
        known = self._known(point)
        if not known.speculates:
            return {}
        return {name: self._gain.workload_tokens(known.tokens, name) for name in self._gain.workloads}

    def cycle_seconds(self, point: OperatingPoint, batch: int, context_tokens: float) -> float | None:
        """Predicted seconds of one cycle, or None where nothing allows a prediction."""
        found = self.estimates((point,), batch, context_tokens, None)
        return found[0].seconds if found else None

    def tokens_per_cycle(self, point: OperatingPoint) -> float:
        """Predicted tokens per request and cycle."""
        return self._gain.tokens(self._known(point).tokens)

    def tokens_per_second(self, point: OperatingPoint, batch: int, context_tokens: float) -> float | None:
        """Predicted tokens per second of the whole batch, or None where nothing allows a prediction."""
        found = self.estimates((point,), batch, context_tokens, None)
        return batch / found[0].pace if found else None

    def observed_cycles(self, point: OperatingPoint) -> int:
        """Cycles of `point` whose duration was learned from."""
        known = self._points.get(point)
        return 0 if known is None else known.cycles

    def idle_seconds(self, point: OperatingPoint, now: float) -> float:
        """Seconds since `point` last ran, infinite if it never did."""
        known = self._points.get(point)
        return float("inf") if known is None or known.ran_at is None else max(0.0, now - known.ran_at)

    @property
    def alarms(self) -> int:
        """How often a sustained shift of speed or acceptance reset the trust in what was learned."""
        return self._speed.tracker.alarms + self._gain.tracker.alarms

    def estimates(
        self, points: Sequence[OperatingPoint], batch: int, context_tokens: float, now: float | None
    ) -> list[Estimate]:
        """Predictions, with their variance as of `now` (None: as of the last measurement), in the order given.

        Points that cannot be predicted are left out, all of them where batch or context make no sense.
        Fastest when the same tuple of points is passed each time.
        """
        if batch < 1 or not 0 <= context_tokens < float("inf"):
            return []
        speed, gain, bucket = self._speed, self._gain, bucket_of(batch)
        read_s, scale = self._read_seconds(batch, context_tokens), exp(speed.tracker.level)
        shared, found, prior, tracker = gain.shared_variance(now), [], self.prior, speed.tracker
        # Looking a point up costs more than predicting it, and an engine asks about the same tuple in every cycle: the
        # last one is remembered by identity.
        asked, resolved = self._asked
        if points is not asked or not isinstance(points, tuple):
            resolved = tuple(self._known(point) for point in points)
            self._asked = (points, resolved)
        for known in resolved:
            if prior is None and known.cycles == 0:
                continue
            shape = known.row.cells[bucket] or speed.shape(known.row, bucket)
            variance = shape.variance if now is None else tracker.variance(shape, now)
            idle_s = float("inf") if now is None or known.ran_at is None else now - known.ran_at
            if known.cycles == 0 and now is not None and self._since is not None:
                variance += min(UNSEEN_VARIANCE_PER_S * max(0.0, now - self._since), 1.0)
            prior_s = 1.0 if prior is None else known.forwards * prior.bound_seconds(read_s, batch * known.width)
            seconds = prior_s * scale * exp(shape.mean)
            # Asked in every cycle: nothing is called for AR that only answers 0 or 1.
            tokens, common = known.tokens.tokens, 0.0
            if known.speculates:
                tokens, common = gain.tokens(known.tokens), shared
                variance += gain.variance(known.tokens, now)
            pace = seconds / tokens
            found.append(Estimate(known.point, seconds, tokens, pace, variance, common, shape.seen, idle_s))
        return found

    def _without_prefill(self, known: _Known, o: Observation, prior_s: float, now: float) -> float:
        """Seconds of the cycle less those of its prefill, or 0 where that teaches nothing.

        Clean cycles are preferred: only a point that had none for `CLEAN_S` learns from the others.
        """
        recent = known.clean_at is not None and 0 <= now - known.clean_at < CLEAN_S
        if self.prior is None or recent or self._speed.tracker.untouched:
            return 0.0
        level = exp(self._speed.tracker.level)
        left = o.seconds - level * self.prior.prefill_seconds(o.prefill_tokens)
        # Where the prior of prefill is too slow hardly anything is left, or less than nothing, and its logarithm would
        # ruin the cell.
        return left if left > LEAST_LEFT * level * prior_s else 0.0

    def _known(self, point: OperatingPoint) -> _Known:
        known = self._points.get(point)
        if known is None:
            tokens, row = self._gain.start(point), self._speed.start(point)
            known = _Known(point, forwards(point), point.width, point.mode.speculates, tokens, row)
            self._points[point] = known
        return known

    def _read_seconds(self, batch: int, context_tokens: float) -> float:
        return 1.0 if self.prior is None else self.prior.read_seconds(batch, context_tokens)
