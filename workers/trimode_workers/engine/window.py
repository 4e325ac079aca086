"""The place of a forward's tokens in the cache, and what their queries see of it.

Attention pads every row of a span (rows of similar length) to the longest; over a whole batch most of that would be
padding, since answers end at any length.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from trimode_workers.engine.attention import Attention, Riders, grouped

if TYPE_CHECKING:
    from trimode_workers.engine.cache import KVCache
    from trimode_workers.engine.forward import Groups

SPAN_ROWS, LEVEL_SLOTS = 12, 16
"""Rows of a span at least; a batch whose lengths differ by fewer slots than that is one span."""


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
        if attention in self._masks:
            return self._masks[attention]
        mask, one_sight = None, self.n == 1 or attention is Attention.BLOCK
        if not (one_sight and self._level):
            last = self._positions[:, -1:] if one_sight else self._positions
            hidden = _steps(self.reach, last.device) > last[:, None, :, None]
            mask = torch.zeros(hidden.shape, dtype=dtype, device=last.device).masked_fill_(hidden, -torch.inf)
        self._masks[attention] = mask
        return mask

    def read(self, kept: Tensor) -> Tensor:
        """Keys or values of one layer, `[rows, kv_heads, slots, head_dim]` -> `[b, kv_heads, reach, head_dim]`.
        A view where the rows follow one another, else a copy."""
        if isinstance(self.rows, slice):
            return kept[self.rows, :, : self.reach]
        return kept[:, :, : self.reach].index_select(0, self.rows)

    def attend(self, q: Tensor, kept: tuple[Tensor, Tensor], attention: Attention) -> Tensor:
        """q `[b, heads, n, head_dim]` -> the same shape; `kept`: keys and values of one layer."""
        keys, values = map(self.read, kept)
        mask = self.mask(attention, keys.dtype)
        if self.n > 1 and keys.device.type == "cpu":  # as fast as `grouped` there, without another mask
            return F.scaled_dot_product_attention(q, keys, values, mask, enable_gqa=True)
        return grouped(q, keys, values, mask)

    def attend_groups(self, own: Seq[Tensor], kept: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """Queries of heads and masks, keys and values of the masks: over the rows and over those."""
        q, k, v = own
        keys, values = (torch.cat((self.read(rows), new), 2) for rows, new in zip(kept, (k, v), strict=True))
        if keys.device.type == "cpu":
            return F.scaled_dot_product_attention(q, keys, values, mask, enable_gqa=True)
        return grouped(q, keys, values, mask)


class Window:
    """The slots behind the prefixes of some rows: `n` per row. Made once per cycle, shared by its forwards.

    `positions` is `[b, n]`, all below `reach`, `slots` `[b, kv_heads, n]` into the flat cache. `order`: the members
    span by span, None where there is one span, `back` its inverse; `sizes`: rows of each span.
    """

    def __init__(self, cache: KVCache, rows: Seq[int], lengths: Seq[int], n: int) -> None:
        self._cache, device = cache, cache.memory.device
        self.n, self.reach = n, max(lengths) + n
        starts = [(r * cache.heads * cache.slots + at, at) for r, at in zip(rows, lengths, strict=True)]
        first, start = torch.tensor(starts, device=device).unbind(1)
        step, heads = _steps(n, device), _steps(cache.heads, device) * cache.slots
        self.positions = start[:, None] + step
        self.slots = first[:, None, None] + heads[:, None] + step
        self.spans: list[Span] = []
        self._sight: tuple[Groups, list[Tensor]] | None = None
        order, cuts = spans(lengths)
        self.order: Tensor | None = None
        self.back: Tensor | None = None
        if len(cuts) > 1:
            # Putting queries in order of length and back takes 10 % of AR's cycle at 64 requests of the tiny model,
            # less than the padding that it spares.
            self.order = torch.tensor(order, device=device)
            self.back = torch.argsort(self.order)
        for begin, end in zip((0, *cuts), cuts, strict=False):
            members = order[begin:end]
            positions = self.positions if self.order is None else self.positions[self.order[begin:end]]
            self.spans.append(Span([rows[i] for i in members], [lengths[i] for i in members], positions))
        self.sizes = [span.size for span in self.spans]

    def beside(self, riders: Riders) -> Pieces:
        """This window in one line, row after row, and the riders behind it."""
        return Pieces(self._cache, [self, *_windows(self._cache, riders.rows, riders.lengths, riders.counts)])

    def prepare(self, attention: Attention) -> None:
        """Nothing: masks are made as they are needed."""

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Put k and v `[b, kv_heads, n, head_dim]` into the window."""
        self._cache.write(layer, self.slots, k, v)

    def attend(self, layer: int, q: Tensor, attention: Attention) -> Tensor:
        """q `[b, heads, n, head_dim]` -> the same shape, over all slots of the window's rows up to their reach."""
        kept = self._cache.keys[layer], self._cache.values[layer]
        if self.order is None or self.back is None:
            return self.spans[0].attend(q, kept, attention)
        queries = zip(q.index_select(0, self.order).split_with_sizes(self.sizes), self.spans, strict=True)
        found = [span.attend(query, kept, attention) for query, span in queries]
        return torch.cat(found).index_select(0, self.back)

    def attend_groups(self, layer: int, own: tuple[Tensor, Tensor, Tensor], groups: Groups) -> Tensor:
        """Queries of heads and masks, keys and values of the masks: over the rows and over those."""
        kept = self._cache.keys[layer], self._cache.values[layer]
        if self._sight is None or self._sight[0] is not groups:
            self._sight = groups, groups.masks(self, self._cache.memory.dtype)
        sight = self._sight[1]
        if self.order is None or self.back is None:
            return self.spans[0].attend_groups(own, kept, sight[0])
        split = [part.index_select(0, self.order).split_with_sizes(self.sizes) for part in own]
        parts = zip(zip(*split, strict=True), self.spans, sight, strict=True)
        found = [span.attend_groups(part, kept, mask) for part, span, mask in parts]
        return torch.cat(found).index_select(0, self.back)


class Pieces:
    """Windows of any widths in one line, row after row, without padding."""

    def __init__(self, cache: KVCache, windows: Seq[Window]) -> None:
        """`positions` is `[1, total]`."""
        self._cache, self._windows = cache, windows
        self._widths = [window.positions.numel() for window in windows]
        self.reach = max(window.reach for window in windows)
        self.positions = _joined([window.positions.view(1, -1) for window in windows], 1)
        self._slots = _joined([window.slots.transpose(0, 1).flatten(1) for window in windows], 1)

    @classmethod
    def of(cls, cache: KVCache, rows: Seq[int], lengths: Seq[int], counts: Seq[int]) -> Pieces:
        """The place of `counts` further tokens of the rows."""
        return cls(cache, _windows(cache, rows, lengths, counts))

    def prepare(self, attention: Attention) -> None:
        """Nothing: masks are made as they are needed."""

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Put k and v `[1, kv_heads, total, head_dim]` behind the prefixes."""
        self._cache.write(layer, self._slots, k, v)

    def attend(self, layer: int, q: Tensor, attention: Attention) -> Tensor:
        """q `[1, heads, total, head_dim]` -> the same shape."""
        parts = zip(q.split_with_sizes(self._widths, 2), self._windows, strict=True)
        found = []
        for part, window in parts:
            blocks = torch.unflatten(part[0], 1, window.positions.shape).transpose(0, 1)
            found.append(window.attend(layer, blocks, attention).transpose(0, 1).flatten(1, 2)[None])
        return _joined(found, 2)


def _windows(cache: KVCache, rows: Seq[int], lengths: Seq[int], counts: Seq[int]) -> list[Window]:
    """Neighbours of one width attend together."""
    cuts = [0, *(i for i in range(1, len(counts)) if counts[i] != counts[i - 1]), len(counts)]
    return [Window(cache, rows[a:b], lengths[a:b], counts[a]) for a, b in pairwise(cuts)]


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


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
