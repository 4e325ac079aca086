"""The KV cache in rows: causal keys and values, whatever the mode.

A row is a run of slots, one per token position; what lies behind a sequence's `cached` is scratch (a draft, a rejected
token, padding) and is overwritten, never read as state. Rows are handed out lowest first, so that the running batch
stays a slice and attention reads it without copies.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from trimode_api.prefix import PAGE_TOKENS
from trimode_workers.engine.window import Pieces, Window
from trimode_workers.model.config import ModelConfig


class KVCache:
    """`keys[layer]` and `values[layer]` are views `[rows, kv_heads, slots, head_dim]` of one tensor: the tokens of
    one head lie together, since attention reads them head by head.

    `pages` is a view `[rows, pages, layers, 2, kv_heads, PAGE_TOKENS, head_dim]` of their whole pages.

    The memory starts zeroed (masked attention multiplies it by 0, which must not meet a NaN); the operating system
    backs a page when it is first written, so unused rows cost address space only.
    """

    def __init__(self, config: ModelConfig, rows: int, slots: int, dtype: torch.dtype, device: torch.device) -> None:
        shape = (config.layers, 2, rows, config.kv_heads, slots, config.head_dim)
        # Rows, not pages: gathering pages by a block table in every layer makes an AR forward of 64 requests of the
        # tiny model 5 to 18 % slower on a CPU.
        self.memory = torch.zeros(shape, dtype=dtype, device=device)
        self.keys: list[Tensor] = [layer[0] for layer in self.memory]
        self.values: list[Tensor] = [layer[1] for layer in self.memory]
        self.flat_keys: list[Tensor] = [k.flatten(0, 2) for k in self.keys]
        self.flat_values: list[Tensor] = [v.flatten(0, 2) for v in self.values]
        paged = torch.unflatten(self.memory[:, :, :, :, : slots // PAGE_TOKENS * PAGE_TOKENS], 4, (-1, PAGE_TOKENS))
        self.pages = paged.permute(2, 4, 0, 1, 3, 5, 6)
        self.rows, self.heads, self.slots = rows, config.kv_heads, slots
        self._free = list(range(rows))

    def block(self, rows: Seq[int], lengths: Seq[int], n: int) -> Window:
        """The place of `n` further tokens of each row; `lengths` are their cached tokens."""
        return Window(self, rows, lengths, n)

    def pieces(self, rows: Seq[int], lengths: Seq[int], counts: Seq[int]) -> Pieces:
        """The place of `counts` further tokens of the rows in one line."""
        return Pieces.of(self, rows, lengths, counts)

    def state(self, row: int, length: int) -> Tensor:
        """The first `length` tokens of a row, `[layers, 2, length, kv_heads, head_dim]`."""
        return self.memory[:, :, row, :, :length].transpose(2, 3)

    def write(self, layer: int, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Put k and v `[b, kv_heads, n, head_dim]` at `slots`, as many, into the flat cache."""
        at = slots.reshape(-1)
        self.flat_keys[layer].index_copy_(0, at, k.reshape(at.shape[0], -1))
        self.flat_values[layer].index_copy_(0, at, v.reshape(at.shape[0], -1))

    @property
    def free_rows(self) -> int:
        return len(self._free)

    def acquire(self) -> int:
        """The lowest free row. IndexError where there is none: planning never asks then."""
        return heapq.heappop(self._free)

    def release(self, row: int) -> None:
        heapq.heappush(self._free, row)

    def lowest_free(self) -> int | None:
        return self._free[0] if self._free else None

    def move(self, row: int, length: int) -> int:
        """Move `length` cached tokens from `row` to the lowest free row and free `row`; returns the new row."""
        target = self.acquire()
        self.memory[:, :, target, :, :length].copy_(self.memory[:, :, row, :, :length])
        self.release(row)
        return target

    def swap(self, a: int, b: int, length: int) -> None:
        """Exchange the first `length` slots of two rows."""
        for layer in self.memory:  # one by one: a long row of all of them is half a GB, which may not be free
            kept = layer[:, a, :, :length].clone()
            layer[:, a, :, :length].copy_(layer[:, b, :, :length])
            layer[:, b, :, :length].copy_(kept)
