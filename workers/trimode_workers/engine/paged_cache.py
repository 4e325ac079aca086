"""The KV cache in pages: a row is a table of pages, taken as its sequence grows, shared where sequences begin alike.

Which kernel reads them is `kernels`', which pages are free or kept is `page_pool`'s.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence as Seq
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from trimode_api.prefix import PAGE_TOKENS
from trimode_workers.engine.attention import Attention, Riders, grouped
from trimode_workers.engine.page_pool import PagePool
from trimode_workers.model.config import ModelConfig

if TYPE_CHECKING:
    from trimode_workers.engine.forward import Groups


class PageKernel(Protocol):
    """Attention over pages. Needs no mask: keys of a block lie behind the prefix before it runs."""

    @property
    def gathers(self) -> bool:
        """Whether it copies whole tables, so that recordings should have short ones too."""
        ...

    def prepare(self, plan: PagedPlan, attention: Attention) -> None:
        """Called before each forward over the plan, never within a recording of one."""
        ...

    def attend(self, plan: PagedPlan, layer: int, q: Tensor, attention: Attention) -> Tensor:
        """q `[total, heads, head_dim]` -> the same shape. Query i of n of a row sees all of its keys (block), or all
        but the last n - 1 - i (causal)."""
        ...


class PagedCache:
    """`keys[layer]` and `values[layer]` are `[pages + 1, PAGE_TOKENS, kv_heads, head_dim]`, views of `memory`
    `[layers, 2, pages + 1, ...]`. The last page belongs to no one: rows that only pad a batch write there.

    `width`: pages of the longest table. The memory starts zeroed, as gathered pages may hold slots never written.
    """

    def __init__(self, config: ModelConfig, rows: int, pool: PagePool, width: int, like: Tensor) -> None:
        shape = (config.layers, 2, pool.total + 1, PAGE_TOKENS, config.kv_heads, config.head_dim)
        # Pages keep a token's heads together, as the kernels read them; rows on a CPU keep a head's tokens together.
        self.memory = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self.keys: list[Tensor] = [layer[0] for layer in self.memory]
        self.values: list[Tensor] = [layer[1] for layer in self.memory]
        self.config, self.rows, self.pool, self.width = config, rows, pool, width
        self.kernel: PageKernel = Reference()
        self.tables: list[list[int]] = [[] for _ in range(rows)]
        # On the host, so that a plan takes its rows' tables in one copy.
        self._table = torch.full((rows, width), pool.total, dtype=torch.int32)
        self._free = list(range(rows))

    @property
    def slots(self) -> int:
        """Tokens of the longest row."""
        return self.width * PAGE_TOKENS

    @property
    def free_rows(self) -> int:
        return len(self._free)

    def acquire(self) -> int:
        """The lowest free row, without pages. IndexError where there is none: planning never asks then."""
        return heapq.heappop(self._free)

    def release(self, row: int) -> None:
        """Let go of a row and its pages; those that are kept stay until others are wanted."""
        self.pool.drop(self.tables[row])
        self.set_table(row, [])
        heapq.heappush(self._free, row)

    def set_table(self, row: int, pages: list[int]) -> None:
        """Say which pages a row consists of, all held by it already."""
        self.tables[row] = pages
        self._table[row] = self.pool.total
        self._table[row, : len(pages)] = torch.tensor(pages, dtype=torch.int32)

    def reserve(self, row: int, tokens: int) -> None:
        """Take pages until the row holds so many tokens."""
        table = self.tables[row]
        while len(table) * PAGE_TOKENS < tokens:
            self._table[row, len(table)] = page = self.pool.take()
            table.append(page)

    def state(self, row: int, length: int) -> Tensor:
        """The first `length` tokens of a row, `[layers, 2, length, kv_heads, head_dim]`."""
        pages = torch.tensor(self.tables[row], dtype=torch.int64, device=self.memory.device)
        return self.memory[:, :, pages].flatten(2, 3)[:, :, :length]

    def block(self, rows: Seq[int], lengths: Seq[int], n: int) -> PagedPlan:
        """The place of `n` further tokens of each row."""
        return PagedPlan(self, rows, lengths, [n] * len(rows))

    def pieces(self, rows: Seq[int], lengths: Seq[int], counts: Seq[int]) -> PagedPlan:
        """The place of `counts` further tokens of the rows, one after another in one line."""
        return PagedPlan(self, rows, lengths, counts, line=True)

    def tables_of(self, rows: Seq[int], pages: int) -> Tensor:
        """`[rows, pages]` int32 on the device."""
        return self._table[list(rows), :pages].to(self.memory.device)


class PagedPlan:
    """Where the tokens of a forward lie and how far their rows reach; made once a cycle, shared by its forwards.

    `positions`: `[b, n]` for blocks, `[1, total]` for a `line` of any rows' tokens, all below `reach`. `slots`
    `[total]`: into all pages as one line. `table` `[b, pages]` int32. `seen` `[b]` int32: keys of each row, its new
    tokens included. `starts` `[b + 1]` int32: where each row's queries begin. On the host: `counts` of new tokens and
    `pages` of each row, `ends`: as `seen`; `fixed`: whether recordings read the tensors where they are.
    """

    fixed = False

    def __init__(
        self, cache: PagedCache, rows: Seq[int], lengths: Seq[int], counts: Seq[int], *, line: bool = False
    ) -> None:
        for number, length, count in zip(rows, lengths, counts, strict=True):
            cache.reserve(number, length + count)
        self.cache, self.counts, self.pages = cache, list(counts), [cache.tables[row] for row in rows]
        self._rows, self._lengths, self.line = rows, lengths, line
        self.ends = [length + count for length, count in zip(lengths, counts, strict=True)]
        self.reach, self.widest = max(self.ends), max(counts)
        self.table = cache.tables_of(rows, pages_for(self.reach))
        device, begins, b = cache.memory.device, [0, *accumulate(counts)], len(rows)
        # One copy to the device for all of them.
        told = torch.tensor([*lengths, *self.ends, *counts, *begins], dtype=torch.int32).to(device)
        first, self.seen, many, self.starts = told[:b], told[b : 2 * b], told[2 * b : 3 * b], told[3 * b :]
        # The size is given because torch would read it back, for which a GPU has to stop.
        row = torch.repeat_interleave(many, output_size=begins[-1])
        positions = torch.arange(begins[-1], device=device) - self.starts[row] + first[row]
        # Tables are int32, as kernels read them; `index_copy_` takes int64 alone.
        self.slots = self.table[row, positions // PAGE_TOKENS].long() * PAGE_TOKENS + positions % PAGE_TOKENS
        self.positions = positions.view(1 if line else b, -1)
        self._mask: tuple[Groups, Tensor] | None = None

    @property
    def key_starts(self) -> Tensor:
        """Where each row's keys begin once whole tables are gathered, `[b + 1]` int32."""
        rows, pages = self.table.shape
        step = pages * PAGE_TOKENS
        return torch.arange(0, rows * step + 1, step, dtype=torch.int32, device=self.table.device)

    def beside(self, riders: Riders) -> PagedPlan:
        """These rows in one line, and the riders behind them."""
        counts = [*self.counts, *riders.counts]
        rows, lengths = [*self._rows, *riders.rows], [*self._lengths, *riders.lengths]
        return PagedPlan(self.cache, rows, lengths, counts, line=True)

    def prepare(self, attention: Attention) -> None:
        """Tell the kernel what comes."""
        self.cache.kernel.prepare(self, attention)

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Put k and v `[b, kv_heads, n, head_dim]` in their places."""
        for kept, new in ((self.cache.keys[layer], k), (self.cache.values[layer], v)):
            kept.flatten(0, 1).index_copy_(0, self.slots, new.transpose(1, 2).flatten(0, 1))

    def attend(self, layer: int, q: Tensor, attention: Attention) -> Tensor:
        """q `[b, heads, n, head_dim]` of the shape of `positions` -> the same shape."""
        b, heads, n, size = q.shape
        found = self.cache.kernel.attend(self, layer, q.transpose(1, 2).flatten(0, 1), attention)
        return found.view(b, n, heads, size).transpose(1, 2)

    def attend_groups(self, layer: int, own: tuple[Tensor, Tensor, Tensor], groups: Groups) -> Tensor:
        """Queries of heads and masks, keys and values of the masks: over the pages and over those."""
        q, k, v = own
        keys = torch.cat((gathered(self.cache.keys[layer], self.table), k), 2)
        values = torch.cat((gathered(self.cache.values[layer], self.table), v), 2)
        if self._mask is None or self._mask[0] is not groups:
            # Groups need a mask, which no kernel by lengths takes: tables are gathered, and read by torch's attention.
            self._mask = groups, groups.mask(self.table.shape[1] * PAGE_TOKENS, keys.dtype)
        return grouped(q, keys, values, self._mask[1])


class Reference:
    """The judge of other kernels: gathers every row's pages, then torch's attention with a mask. Runs anywhere, and
    within recordings."""

    gathers = True

    def prepare(self, plan: PagedPlan, attention: Attention) -> None:
        """Nothing to do."""

    def attend(self, plan: PagedPlan, layer: int, q: Tensor, attention: Attention) -> Tensor:
        """Rows of as many queries at once, others one by one; in a recording, which knows no counts, one over all."""
        keys, values = plan.cache.keys[layer], plan.cache.values[layer]
        if plan.positions.shape[0] == len(plan.counts):
            parts, step = [q], len(plan.counts)
        elif plan.fixed:
            return _over_all(plan, q, gathered(keys, plan.table), gathered(values, plan.table))
        else:
            parts, step = list(q.split_with_sizes(plan.counts)), 1
        found = []
        for at, part in enumerate(parts):
            mine = slice(at, at + step)
            queries = part.view(step, -1, *q.shape[1:]).transpose(1, 2)
            kept = gathered(keys, plan.table[mine]), gathered(values, plan.table[mine])
            seen, n, device = plan.seen[mine, None], queries.shape[2], q.device
            last = seen - 1 - torch.zeros(n, device=device, dtype=torch.int32)
            if attention is Attention.CAUSAL:
                last = seen - n + torch.arange(n, device=device)
            sees = torch.arange(kept[0].shape[2], device=device) <= last[:, None, :, None]
            attended = F.scaled_dot_product_attention(queries, *kept, sees, enable_gqa=True)
            found.append(attended.transpose(1, 2).flatten(0, 1))
        return torch.cat(found)


def _over_all(plan: PagedPlan, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Causal attention of a line: q `[total, heads, head_dim]`, keys and values `[b, kv_heads, slots, head_dim]` of all
    rows, of which a query sees its own row's up to its own position."""
    (b, _, slots, _), device = keys.shape, q.device
    row = torch.searchsorted(plan.starts[1:], torch.arange(len(q), device=device), right=True)
    own = torch.arange(b, device=device).repeat_interleave(slots) == row[:, None]
    seen = torch.arange(slots, device=device).repeat(b) <= plan.positions[0, :, None]
    keys, values = (kept.transpose(0, 1).flatten(1, 2)[None] for kept in (keys, values))
    line = q.transpose(0, 1)[None]
    return F.scaled_dot_product_attention(line, keys, values, own & seen, enable_gqa=True)[0].transpose(0, 1)


def pages_for(tokens: int) -> int:
    """Pages that hold so many tokens."""
    return -(-tokens // PAGE_TOKENS)


def gathered(pages: Tensor, table: Tensor) -> Tensor:
    """`[pages, PAGE_TOKENS, kv_heads, head_dim]` -> `[b, kv_heads, slots, head_dim]`."""
    return pages[table.long()].flatten(1, 2).transpose(1, 2)


def gathered_tokens(pages: Tensor, table: Tensor) -> Tensor:
    """The same in one line, row by row: `[b * slots, kv_heads, head_dim]`."""
    return pages[table.long()].flatten(0, 2)
