"""Hardware as a profile has it: cycles measured by point, batch and context, and what prompts add to them.

Belongs here: prediction between what was measured. The roofline carries it beyond.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, log

from trimode_api.modes import Mode, OperatingPoint
from trimode_policy.roofline import Roofline

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
        ratio = _at(low[1], context_tokens)
        if low[0] != high[0]:
            share = log(batch / low[0]) / log(high[0] / low[0])
            ratio = exp((1 - share) * log(ratio) + share * log(_at(high[1], context_tokens)))
        return base * ratio

    def prefill_seconds(self, tokens: int, point: OperatingPoint | None = None) -> float:
        """Seconds by which so many prompt tokens lengthen a cycle of `point`; None: nobody decodes."""
        mode = Mode.SELF_SPECULATION if point is None else point.mode
        pairs = self.prompts.get(mode) or next(iter(self.prompts.values()), ())
        if len(pairs) < 2:
            return self.roofline.prefill_seconds(tokens)
        place = min(max(1, bisect_right(pairs, tokens, key=lambda pair: pair[0])), len(pairs) - 1)
        (t0, s0), (t1, s1) = pairs[place - 1], pairs[place]
        return max(0.0, s0 + (s1 - s0) * (tokens - t0) / (t1 - t0))


def _at(pairs: Contexts, context: float) -> float:
    """The ratio at a context."""
    place = bisect_right(pairs, context, key=lambda pair: pair[0])
    if place in (0, len(pairs)):
        return pairs[min(place, len(pairs) - 1)][1]
    (c0, r0), (c1, r1) = pairs[place - 1], pairs[place]
    return r0 + (r1 - r0) * (context - c0) / (c1 - c0)
