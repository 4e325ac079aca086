"""Pure: which forwards are recorded, and to which of them a batch is padded.

Both numbers of rows and reaches are few, because each shape takes time at every start: rows grow by a third or a half
from one to the next, as every row of padding is computed, and reaches double, as attention is the smaller part.
"""

from __future__ import annotations

from dataclasses import dataclass

from trimode_api.modes import Mode, OperatingPoint
from trimode_workers.engine.attention import Attention
from trimode_workers.engine.footprint import MOST_TOKENS

SHORTEST_REACH = 256
"""Slots; also what longer ones are multiples of, as attention with a mask wants its rows aligned."""
MOST_GROUPED = 1024
"""Tokens of a recorded quadratic forward of more than one row, n * (n + 1) for each: an H200 computes 25 ms for so many
(arithmetic), and the recordings' pool has to hold its masks."""
LINE_STEP = 256
"""Tokens by which recorded lines differ from 256 on: an H200 computes 6 ms for so many (arithmetic)."""
WORTH_A_REACH = 1.25
"""The longest reach, all slots, is that much longer than the one before it at least: shapes cost time at start."""


@dataclass(frozen=True, slots=True)
class Shape:
    """`rows` of `n` tokens each, attention over tables of `reach` slots. `masks`: behind each token of a quadratic
    forward, 0 for others. `line`: so many tokens in all, shared by the rows in any way; 0 where each has `n`."""

    rows: int
    n: int
    reach: int
    attention: Attention
    drafting: bool = False
    masks: int = 0
    line: int = 0

    @property
    def tokens(self) -> int:
        return self.line or self.rows * self.n * (1 + self.masks)

    @property
    def recordable(self) -> bool:
        """Whether there is a place for its intermediate results. More are run in parts."""
        return self.rows == 1 or self.tokens <= (MOST_GROUPED if self.masks else MOST_TOKENS)


def bucket(count: int, most: int) -> int:
    """The smallest of 1, 2, 3, 4, 6, 8, 12, 16 ... that holds `count`, at most `most`."""
    size = 1
    while size < count:
        size = size * 2 if size == 1 else (size // 2 * 3 if size & (size - 1) == 0 else size // 3 * 4)
    return min(size, most)


def row_sizes(most: int) -> list[int]:
    """All buckets up to `most` rows."""
    return sorted({bucket(count, most) for count in range(1, most + 1)})


def rows_at_once(width: int, rows: int, most: int) -> int:
    """Rows of `width` tokens each, of `rows` there are, whose bucket has `most` tokens at most; one at least."""
    return max(size for size in row_sizes(rows) if size == 1 or size * width <= most)


def line_of(tokens: int) -> int:
    """Tokens of the recorded line that holds so many: fine steps, as every token of padding is computed."""
    return next((size for size in (64, 128) if tokens <= size), -(-tokens // LINE_STEP) * LINE_STEP)


def lines(most: int) -> list[int]:
    """All lines up to that which holds `most` tokens."""
    return sorted({line_of(tokens) for tokens in (64, 128, *range(LINE_STEP, most, LINE_STEP), most) if tokens <= most})


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
            return [Shape(rows, n, reach, Attention.CAUSAL, masks=n)]
