"""The place of a forward's tokens in the cache, and what their queries see of it.

Belongs here: slots, positions, masks, and the split of a batch into spans of rows of similar length. Attention pads
every row of a span to the longest; over a whole batch most of that would be padding, since answers end at any length.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from enum import Enum

import torch
from torch import Tensor

from trimode_workers.engine.cache import KVCache

SPAN_ROWS, LEVEL_SLOTS = 12, 16
"""Rows of a span at least; a batch whose lengths differ by fewer slots than that is one span."""


class Attention(Enum):
    """What a query sees of the tokens that are run with it."""

    CAUSAL = "causal"
    BLOCK = "block"


class Span:
    """Some rows of the batch that attend together, each over `reach` slots. `positions` is `[b, n]`."""

    def __init__(self, rows: Seq[int], lengths: Seq[int], positions: Tensor) -> None:
        self.n = positions.shape[1]
        self.size, self.reach = len(rows), max(lengths) + self.n
        self._level, self._positions = min(lengths) == max(lengths), positions
        first, last = rows[0], rows[-1]
        ascending = all(row == first + index for index, row in enumerate(rows))
        self.rows = slice(first, last + 1) if ascending else torch.tensor(rows, device=positions.device)
        self._masks: dict[Attention, Tensor | None] = {}

    def mask(self, attention: Attention, dtype: torch.dtype) -> Tensor | None:
        """Additive mask `[b, 1, n or 1, reach]`; None where every query sees all slots up to `reach`."""
        if attention not in self._masks:
            self._masks[attention] = self._build(attention, dtype)
        return self._masks[attention]

    def read(self, kept: Tensor) -> Tensor:
        """Keys or values of one layer, `[rows, kv_heads, slots, head_dim]` -> `[b, kv_heads, reach, head_dim]`.
        A view where the rows follow one another, else a copy."""
        if isinstance(self.rows, slice):
            return kept[self.rows, :, : self.reach]
        return kept[:, :, : self.reach].index_select(0, self.rows)

    def _build(self, attention: Attention, dtype: torch.dtype) -> Tensor | None:
        one_sight = self.n == 1 or attention is Attention.BLOCK
        if one_sight and self._level:
            return None
        last = self._positions[:, -1:] if one_sight else self._positions
        hidden = _steps(self.reach, last.device) > last[:, None, :, None]
        return torch.zeros(hidden.shape, dtype=dtype, device=last.device).masked_fill_(hidden, -torch.inf)


class Window:
    """The slots behind the prefixes of some rows: `n` per row. Made once per cycle, shared by its forwards.

    A recorded forward needs the positions only: the rest, which is 8 copies to the device and 26 small operations for
    64 rows, is made by `lay_out`.
    """

    slots: Tensor
    """`[b, kv_heads, n]` into the flat cache."""
    order: Tensor | None
    """The members span by span, None where there is one span; `back` is its inverse."""
    back: Tensor | None
    sizes: list[int]
    """Rows of each span."""

    def __init__(self, cache: KVCache, rows: Seq[int], lengths: Seq[int], n: int) -> None:
        """`positions` is `[b, n]`, all below `reach`. `leading`: the rows are the cache's first ones, in order."""
        self._cache, self._rows, self._lengths = cache, rows, lengths
        self.n, self.reach = n, max(lengths) + n
        self.leading = all(row == index for index, row in enumerate(rows))
        self.spans: list[Span] = []
        starts = [(r * cache.heads * cache.slots + at, at) for r, at in zip(rows, lengths, strict=True)]
        self._first, start = torch.tensor(starts, device=cache.memory.device).unbind(1)
        self._step = _steps(n, cache.memory.device)
        self.positions = start[:, None] + self._step

    def lay_out(self) -> Window:
        """This window with all that an unrecorded forward needs."""
        if self.spans:
            return self
        rows, lengths, device = self._rows, self._lengths, self._step.device
        heads = _steps(self._cache.heads, device) * self._cache.slots
        self.slots = self._first[:, None, None] + heads[:, None] + self._step
        order, cuts = spans(lengths)
        self.order = self.back = None
        if len(cuts) > 1:
            self.order = torch.tensor(order, device=device)
            self.back = torch.argsort(self.order)
        for begin, end in zip((0, *cuts), cuts, strict=False):
            members = order[begin:end]
            positions = self.positions if self.order is None else self.positions[self.order[begin:end]]
            self.spans.append(Span([rows[i] for i in members], [lengths[i] for i in members], positions))
        self.sizes = [span.size for span in self.spans]
        return self


def spans(lengths: Seq[int]) -> tuple[list[int], list[int]]:
    """The order of a batch's members and where it is cut, each span's end: as given where one span is best, else by
    length."""
    count = len(lengths)
    # Spans and prompts that ride along made AR at 64 requests 1.35 times as fast.
    parts = 1 if max(lengths) - min(lengths) < LEVEL_SLOTS else max(1, count // SPAN_ROWS)
    order = sorted(range(count), key=lengths.__getitem__) if parts > 1 else list(range(count))
    return order, [count * part // parts for part in range(1, parts + 1)]


def _steps(n: int, device: torch.device) -> Tensor:
    return torch.arange(n, device=device)
