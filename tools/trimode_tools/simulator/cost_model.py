"""What really happens in the simulated world, which the policy has to find out.

What a policy believes is in its `Curves`.
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
        """Seconds by which `tokens` prompt tokens lengthen a cycle of `point`; None: no request decodes."""
        ...


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
        return self  # the oracle's search copies fleets; what is the same in all of them is not copied

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
            if point.mode is Mode.AR:
                means = [1.0] * self.kinds
            elif point.mode is Mode.DIFFUSION:
                means = [0.9 * point.block_length] * self.kinds
            else:
                known = self.measured.get(point)
                if known is None:
                    gain = GAIN_BY_LENGTH[point.block_length]
                    known = [1.0 + (accepted - 1.0) * gain for accepted in self.accepted]
                calm = known if len(known) > 1 else [known[0]] * self.kinds
                most = 0.95 * point.block_length
                means = [min(1.0 + (mean - 1.0) * factor, most) for mean in calm]
            found = table[point] = tuple(means)
        return found


Contexts = Sequence[tuple[float, float]]
"""(cached tokens per request, measured seconds over the roofline's), ascending."""
Batches = Sequence[tuple[int, Contexts]]
"""(batch, what was measured there), ascending."""


@dataclass(frozen=True, slots=True)
class ProfiledHardware:
    """A roofline times the ratio to it that was measured: linear in context, log-linear in batch, the nearest beyond.

    A point that was not measured keeps the roofline. `prompts`: by mode, (prompt tokens in a cycle, seconds by which
    they lengthen it), ascending; linear between and beyond. A mode without takes another one's, or the roofline's.
    """

    roofline: Roofline
    cells: Mapping[OperatingPoint, Batches]
    prompts: Mapping[Mode, Sequence[tuple[int, float]]] = field(default_factory=dict)

    @classmethod
    def measured(
        cls,
        roofline: Roofline,
        cycles: Sequence[tuple[OperatingPoint, int, float, float]],
        prompts: Sequence[tuple[Mode, int, float]] = (),
    ) -> ProfiledHardware:
        """From (point, batch, cached tokens per request, seconds) and (mode, prompt tokens, further seconds)."""
        found: dict[OperatingPoint, dict[int, list[tuple[float, float]]]] = {}
        for point, batch, context, seconds in cycles:
            ratio = seconds / roofline.seconds(point, batch, context)
            found.setdefault(point, {}).setdefault(batch, []).append((context, ratio))
        cells = {
            point: tuple((batch, tuple(sorted(pairs))) for batch, pairs in sorted(batches.items()))
            for point, batches in found.items()
        }
        by_mode: dict[Mode, list[tuple[int, float]]] = {}
        for mode, tokens, seconds in sorted(prompts):
            by_mode.setdefault(mode, []).append((tokens, seconds))
        return cls(roofline, cells, by_mode)

    def seconds(self, point: OperatingPoint, batch: int, context_tokens: float) -> float:
        """Seconds of one cycle."""
        base = self.roofline.seconds(point, batch, context_tokens)
        batches = self.cells.get(point)
        if not batches:
            return base
        place = bisect_right(batches, batch, key=lambda pair: pair[0])
        low, high = batches[max(0, place - 1)], batches[min(place, len(batches) - 1)]
        ratio = _ratio_at(low[1], context_tokens)
        if low[0] != high[0]:
            share = log(batch / low[0]) / log(high[0] / low[0])
            ratio = exp((1 - share) * log(ratio) + share * log(_ratio_at(high[1], context_tokens)))
        return base * ratio

    def prefill_seconds(self, tokens: int, point: OperatingPoint | None = None) -> float:
        """Seconds by which so many prompt tokens lengthen a cycle of `point`; None: no request decodes."""
        mode = Mode.SELF_SPECULATION if point is None else point.mode
        pairs = self.prompts.get(mode) or next(iter(self.prompts.values()), ())
        if len(pairs) < 2:
            return self.roofline.prefill_seconds(tokens)
        place = min(max(1, bisect_right(pairs, tokens, key=lambda pair: pair[0])), len(pairs) - 1)
        (t0, s0), (t1, s1) = pairs[place - 1], pairs[place]
        return max(0.0, s0 + (s1 - s0) * (tokens - t0) / (t1 - t0))


def _ratio_at(pairs: Contexts, context: float) -> float:
    """The ratio at a context."""
    place = bisect_right(pairs, context, key=lambda pair: pair[0])
    if place in (0, len(pairs)):
        return pairs[min(place, len(pairs) - 1)][1]
    (c0, r0), (c1, r1) = pairs[place - 1], pairs[place]
    return r0 + (r1 - r0) * (context - c0) / (c1 - c0)
