"""What really happens in the simulated world, which the policy has to find out.

Belongs here: true seconds and true acceptance. What a policy believes is in its `Curves`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, log
from typing import Protocol

from trimode_api.modes import Mode, OperatingPoint
from trimode_policy.roofline import Roofline

GAIN_BY_LENGTH = {4: 0.29, 8: 0.48, 16: 0.71, 32: 1.0, 64: 1.2}
"""Tokens beyond the first per cycle, relative to those at 32: the 8B model's averages on SPEED-Bench are 4.17, 5.68
and 7.60 at 8, 16 and 32; 4 and 64 are extrapolated. Deliberately another form than the policy's own model."""


class Hardware(Protocol):
    """True mean seconds, without noise."""

    def seconds(self, point: OperatingPoint, batch: int, context_tokens: float) -> float:
        """Seconds of one cycle over `batch` requests with `context_tokens` cached tokens each (mean)."""
        ...

    def prefill_seconds(self, tokens: int, point: OperatingPoint | None = None) -> float:
        """Seconds by which `tokens` prompt tokens lengthen a cycle of `point`; None: nobody decodes."""
        ...


@dataclass(frozen=True, slots=True)
class MeasuredHardware:
    """A roofline bent to measurements: seconds are the roofline's times a ratio, interpolated in log batch.

    `ratios`: by point, (batch, measured / roofline) in ascending batch; outside them the nearest holds, and a point
    that was not measured keeps the roofline.
    """

    roofline: Roofline
    ratios: Mapping[OperatingPoint, Sequence[tuple[int, float]]]

    @classmethod
    def fitted(
        cls,
        roofline: Roofline,
        measured: Mapping[OperatingPoint, Mapping[int, float]],
        context_tokens: float,
    ) -> MeasuredHardware:
        """From measured seconds by point and batch, taken with `context_tokens` cached tokens per request."""
        ratios = {
            point: tuple((b, s / roofline.seconds(point, b, context_tokens)) for b, s in sorted(by_batch.items()))
            for point, by_batch in measured.items()
        }
        return cls(roofline, ratios)

    def seconds(self, point: OperatingPoint, batch: int, context_tokens: float) -> float:
        base = self.roofline.seconds(point, batch, context_tokens)
        pairs = self.ratios.get(point)
        return base if not pairs else base * _interpolated(pairs, batch)

    def prefill_seconds(self, tokens: int, point: OperatingPoint | None = None) -> float:
        return self.roofline.prefill_seconds(tokens)


def _interpolated(pairs: Sequence[tuple[int, float]], batch: int) -> float:
    place = bisect_right(pairs, batch, key=lambda pair: pair[0])
    if place == 0:
        return pairs[0][1]
    if place == len(pairs):
        return pairs[-1][1]
    (b0, r0), (b1, r1) = pairs[place - 1], pairs[place]
    share = log(batch / b0) / log(b1 / b0)
    return exp(log(r0) + share * (log(r1) - log(r0)))


@dataclass(slots=True)
class Truth:
    """Hardware, acceptance by kind of request, and how both change.

    `accepted`: tokens per cycle at block length 32, one number per kind. `drift`: (second, factor) steps, ascending;
    from that second on, the tokens beyond the first are multiplied by the factor. `measured`: tokens per cycle by
    point where they are known, one number for each kind or one for all, in place of the formula.
    """

    hardware: Hardware
    accepted: tuple[float, ...] = (7.6,)
    drift: tuple[tuple[float, float], ...] = ()
    measured: Mapping[OperatingPoint, Sequence[float]] = field(default_factory=dict)
    _cache: dict[float, dict[OperatingPoint, tuple[float, ...]]] = field(default_factory=dict)

    def __deepcopy__(self, memo: object) -> Truth:
        return self

    @property
    def kinds(self) -> int:
        """How many kinds of requests there are."""
        return len(self.accepted)

    def factor(self, now: float) -> float:
        """The factor of drift at this second."""
        current = 1.0
        for since, factor in self.drift:
            if now < since:
                break
            current = factor
        return current

    def tokens(self, point: OperatingPoint, now: float) -> tuple[float, ...]:
        """Mean tokens per request and cycle, by kind."""
        factor = self.factor(now) if self.drift else 1.0
        table = self._cache.get(factor)
        if table is None:
            table = self._cache[factor] = {}
        found = table.get(point)
        if found is None:
            found = table[point] = tuple(self._tokens(point, kind, factor) for kind in range(len(self.accepted)))
        return found

    def _tokens(self, point: OperatingPoint, kind: int, factor: float) -> float:
        if point.mode is Mode.AR:
            return 1.0
        if point.mode is Mode.DIFFUSION:
            return 0.9 * point.block_length
        known = self.measured.get(point)
        if known is None:
            mean = 1.0 + (self.accepted[kind] - 1.0) * GAIN_BY_LENGTH[point.block_length]
        else:
            mean = known[kind] if len(known) > 1 else known[0]
        return min(1.0 + (mean - 1.0) * factor, 0.95 * point.block_length)
