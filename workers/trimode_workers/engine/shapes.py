"""Pure: which forwards are recorded, and to which of them a batch is padded.

Both numbers of rows and reaches are few, because each shape takes time at every start: rows grow by a third or a half
from one to the next, as every row of padding is computed, and reaches double, as attention is the smaller part.
"""

from __future__ import annotations

from dataclasses import dataclass

from trimode_api.modes import Mode, OperatingPoint
from trimode_workers.engine.attention import Attention

SHORTEST_REACH = 256
"""Slots; also what longer ones are multiples of, as attention with a mask wants its rows aligned."""
MOST_GROUPED = 1024
"""Tokens of a quadratic forward, n * (n + 1) per row, beyond which it is not recorded: an H200 computes 25 ms for so
many (arithmetic), three times what the processor takes to ask for the kernels, and the recordings' pool would have to
hold the intermediate results."""
WORTH_A_REACH = 1.25
"""The longest reach, all slots, is that much longer than the one before it at least: shapes cost time at start."""


@dataclass(frozen=True, slots=True)
class Shape:
    """`rows` from the first on, `n` tokens each, attention over the first `reach` slots. `masks`: behind each token
    of a quadratic forward, 0 for others."""

    rows: int
    n: int
    reach: int
    attention: Attention
    drafting: bool = False
    masks: int = 0

    @property
    def tokens(self) -> int:
        return self.rows * self.n * (1 + self.masks)


def bucket(count: int, most: int) -> int:
    """The smallest of 1, 2, 3, 4, 6, 8, 12, 16 ... that holds `count`, at most `most`."""
    size = 1
    while size < count:
        size = size * 2 if size == 1 else (size // 2 * 3 if size & (size - 1) == 0 else size // 3 * 4)
    return min(size, most)


def row_sizes(most: int) -> list[int]:
    """All buckets up to `most` rows."""
    return sorted({bucket(count, most) for count in range(1, most + 1)})


def reaches(slots: int) -> list[int]:
    """Slots over which recorded attention reads: 256, 512, 1024 ... and all of them."""
    sizes, size = [], SHORTEST_REACH
    while size * WORTH_A_REACH <= slots:
        sizes.append(size)
        size *= 2
    return [*sizes, slots]


def forwards(point: OperatingPoint, rows: int, reach: int, adapter: bool) -> list[Shape]:
    """The shapes that a cycle of the point runs. `adapter`: whether drafts are made with one."""
    n = point.block_length
    check = Shape(rows, n, reach, Attention.CAUSAL)
    match point.mode:
        case Mode.AR:
            return [Shape(rows, 1, reach, Attention.CAUSAL)]
        case Mode.SELF_SPECULATION:
            return [Shape(rows, n, reach, Attention.BLOCK, drafting=adapter), check]
        case Mode.DIFFUSION:
            return [Shape(rows, n, reach, Attention.BLOCK), check]
        case Mode.QUADRATIC:
            groups = Shape(rows, n, reach, Attention.CAUSAL, masks=n)
            return [groups] if groups.tokens <= MOST_GROUPED else []
