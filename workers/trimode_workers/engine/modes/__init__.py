"""The modes: each a function (primitive, sequences, point) -> proposed tokens per sequence, one cycle long.

A mode starts and ends in the engine's invariant: `sequences` (in ascending row order) have exactly one token that
is not cached, and the k tokens it proposes for one of them leave k more causal tokens in its row. AR also takes
sequences that miss more, and caches it. No mode knows of
batching policy, of what ends a request, or of how requests arrive.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq

from trimode_api.modes import Mode, OperatingPoint
from trimode_workers.engine.modes import ar, diffusion, quadratic, speculation
from trimode_workers.engine.primitive import Primitive
from trimode_workers.engine.sequence import Sequence

ModeFunction = Callable[[Primitive, Seq[Sequence], OperatingPoint], list[list[int]]]

MODES: dict[Mode, ModeFunction] = {
    Mode.AR: ar.run,
    Mode.SELF_SPECULATION: speculation.run,
    Mode.QUADRATIC: quadratic.run,
    Mode.DIFFUSION: diffusion.run,
}

__all__ = ["MODES", "ModeFunction"]
