"""The modes: each a function (primitive, sequences, point, riders) -> proposed tokens per sequence, one cycle long.

A mode starts and ends in the engine's invariant: `sequences` (in ascending row order) have exactly one token that
is not cached, and the k tokens it proposes for one of them leave k more causal tokens in its row. Riders are pieces of
other sequences' prompts, which the mode's causal forward takes along. No mode knows of batching policy, of what ends a
request, or of how requests arrive.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Protocol

from trimode_api.modes import Mode, OperatingPoint
from trimode_workers.engine.modes import ar, diffusion, quadratic, speculation
from trimode_workers.engine.primitive import Primitive, Riders
from trimode_workers.engine.sequence import Sequence


class ModeFunction(Protocol):
    def __call__(
        self, primitive: Primitive, sequences: Seq[Sequence], point: OperatingPoint, riders: Riders | None = None
    ) -> list[list[int]]: ...


MODES: dict[Mode, ModeFunction] = {
    Mode.AR: ar.run,
    Mode.SELF_SPECULATION: speculation.run,
    Mode.QUADRATIC: quadratic.run,
    Mode.DIFFUSION: diffusion.run,
}

__all__ = ["MODES", "ModeFunction"]
