"""The primitive: one forward over the cache that every mode is made of.

Query i of a row has position `length + i`, sees the cached prefix `[:length]`, and inside its own tokens sees the
earlier ones (causal) or all of them (block). Keys and values of the tokens are written behind the prefix, where
attention finds them without a copy; whether they count is the caller's decision (`Sequence.cached`), and after a
block forward they never do. Prefill is the same with many tokens and no logits.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor

from trimode_workers.engine.cache import KVCache
from trimode_workers.model.decoder import Network


class Attention(Enum):
    """What a query sees of the tokens that are run with it."""

    CAUSAL = "causal"
    BLOCK = "block"


class Window:
    """The slots behind the prefixes of some rows: `n` per row. Made once per cycle, shared by its forwards."""

    def __init__(self, cache: KVCache, rows: Seq[int], lengths: Seq[int], n: int) -> None:
        """`rows` ascending. `positions` is `[b, n]`, `slots` `[b * n]` into the flat cache."""
        b, device = len(rows), cache.memory.device
        self.n, self.reach = n, max(lengths) + n
        self.level = min(lengths) + n == self.reach
        start = torch.tensor(lengths, device=device)
        step = _steps(n, device)
        self.positions = start[:, None] + step if n > 1 else start[:, None]
        first = torch.tensor([r * cache.slots + length for r, length in zip(rows, lengths, strict=True)])
        self.slots = (first.to(device)[:, None] + step).view(-1) if n > 1 else first.to(device)
        self.rows: slice | Tensor = slice(rows[0], rows[0] + b)
        if rows[-1] - rows[0] != b - 1:
            self.rows = torch.tensor(rows, device=device)
        self._masks: dict[Attention, Tensor | None] = {}

    def mask(self, attention: Attention, dtype: torch.dtype) -> Tensor | None:
        """Additive mask `[b, 1, n or 1, reach]`; None where every query sees all slots up to `reach`."""
        if attention not in self._masks:
            self._masks[attention] = self._build(attention, dtype)
        return self._masks[attention]

    def _build(self, attention: Attention, dtype: torch.dtype) -> Tensor | None:
        one_sight = self.n == 1 or attention is Attention.BLOCK
        if one_sight and self.level:
            return None
        last = self.positions[:, -1:] if one_sight else self.positions
        hidden = _steps(self.reach, last.device) > last[:, None, :, None]
        return torch.zeros(hidden.shape, dtype=dtype, device=last.device).masked_fill_(hidden, -torch.inf)


class Primitive:
    """A network over a cache. Not thread-safe: one engine, one primitive."""

    def __init__(self, network: Network, cache: KVCache) -> None:
        self.network, self.cache = network, cache
        self.mask_token_id = network.config.mask_token_id

    def window(self, rows: Seq[int], lengths: Seq[int], n: int) -> Window:
        """The place of `n` further tokens of each row. `rows` ascending, `lengths` their cached tokens."""
        return Window(self.cache, rows, lengths, n)

    def tensor(self, tokens: Seq[Seq[int]]) -> Tensor:
        """Token ids on the cache's device, int64."""
        return torch.tensor(tokens, device=self.cache.memory.device)

    def forward(self, tokens: Tensor, window: Window, attention: Attention, first: int = 0) -> Tensor:
        """tokens `[b, n]` -> logits `[b, n - first, vocab]` of the queries from `first` on. Writes the window."""
        mask = window.mask(attention, self.cache.memory.dtype)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self._write(layer, window.slots, k, v)
            return self._attend(layer, q, window, mask)

        hidden = self.network.hidden(tokens, window.positions, attend)
        return self.network.logits(hidden[:, first:] if first else hidden)

    def prefill(self, pieces: Seq[Seq[int]], rows: Seq[int], lengths: Seq[int]) -> None:
        """Write the causal state of a piece of each row's prompt, pieces of any length, without padding: the
        network runs them as one row, only attention tells them apart. Computes no logits."""
        parts = [self.window([r], [at], len(p)) for p, r, at in zip(pieces, rows, lengths, strict=True)]
        positions = torch.cat([part.positions for part in parts], 1)
        slots = torch.cat([part.slots for part in parts])
        masks = [part.mask(Attention.CAUSAL, self.cache.memory.dtype) for part in parts]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self._write(layer, slots, k, v)
            queries = q.split_with_sizes([part.n for part in parts], 2)
            found = zip(queries, parts, masks, strict=True)
            return torch.cat([self._attend(layer, query, part, mask) for query, part, mask in found], 2)

        self.network.hidden(self.tensor([[token for piece in pieces for token in piece]]), positions, attend)

    def _write(self, layer: int, slots: Tensor, k: Tensor, v: Tensor) -> None:
        shape = (slots.shape[0], k.shape[1], k.shape[3])
        self.cache.flat_keys[layer].index_copy_(0, slots, k.transpose(1, 2).reshape(shape))
        self.cache.flat_values[layer].index_copy_(0, slots, v.transpose(1, 2).reshape(shape))

    def _attend(self, layer: int, q: Tensor, window: Window, mask: Tensor | None) -> Tensor:
        """q `[b, heads, n, head_dim]` -> the same shape, over all slots of the window's rows up to its reach."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        if isinstance(window.rows, slice):
            keys, values = keys[window.rows, : window.reach], values[window.rows, : window.reach]
        else:
            keys = keys[:, : window.reach].index_select(0, window.rows)
            values = values[:, : window.reach].index_select(0, window.rows)
        keys, values = keys.transpose(1, 2), values.transpose(1, 2)
        if window.n > 1:
            return F.scaled_dot_product_attention(q, keys, values, mask, enable_gqa=True)
        # One query per row: its heads attend as if they were queries of their KV head, twice as fast as grouping.
        folded = q.reshape(q.shape[0], keys.shape[1], -1, q.shape[3])
        return F.scaled_dot_product_attention(folded, keys, values, mask).reshape(q.shape)


def _steps(n: int, device: torch.device) -> Tensor:
    return torch.arange(n, device=device)
