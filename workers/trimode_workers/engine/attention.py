"""What a forward needs of attention and of the cache behind it: plan, write, attend.

Layouts: `cache.KVCache` (rows) and `paged_cache.PagedCache` (pages); `layouts` chooses.

No layout needs a mask to tell drafting from verifying: a block's keys lie behind the prefix before it attends, so that
drafting is attention over all keys of the row, and verifying the same call, causal to the end.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from trimode_workers.engine.forward import Groups


class Attention(Enum):
    """What a query sees of the tokens that are run with it."""

    CAUSAL = "causal"
    BLOCK = "block"


class Plan(Protocol):
    """Where the tokens of a forward lie, and how far their rows reach. Made once a cycle, shared by its forwards."""

    @property
    def positions(self) -> Tensor:
        """`[b, n]` for blocks, `[1, total]` for pieces, all below `reach`; tokens have the same shape."""
        ...

    @property
    def reach(self) -> int: ...

    def prepare(self, attention: Attention) -> None:
        """To be called before each unrecorded forward that attends in this way."""
        ...

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Put k and v `[b, kv_heads, n, head_dim]` behind the prefixes."""
        ...

    def attend(self, layer: int, q: Tensor, attention: Attention) -> Tensor:
        """q `[b, heads, n, head_dim]` -> the same shape, over all that is written of each query's row, or causal."""
        ...


class Block(Plan, Protocol):
    """As many tokens of each row."""

    def beside(self, riders: Riders) -> Plan:
        """These blocks in one line, row after row, and the riders behind them."""
        ...

    def attend_groups(self, layer: int, own: tuple[Tensor, Tensor, Tensor], groups: Groups) -> Tensor:
        """Queries of heads and masks, keys and values of the masks: over the rows and over those."""
        ...


@dataclass(slots=True)
class Riders:
    """Pieces of prompts that are run in a causal forward, by themselves or beside those who decode: `pieces` of tokens
    behind the first `lengths` of `rows`. `states` `[total, hidden]`: of all their tokens, once they were run."""

    pieces: Seq[Seq[int]]
    rows: Seq[int]
    lengths: Seq[int]
    states: Tensor | None = None

    @property
    def counts(self) -> list[int]:
        return [len(piece) for piece in self.pieces]

    def each(self) -> list[Tensor]:
        """The states of each piece, `[n, hidden]`. They were run."""
        assert self.states is not None
        return list(self.states.split_with_sizes(self.counts))


def grouped(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """q `[b, heads, n, head_dim]`, keys and values `[b, kv_heads, reach, head_dim]`, mask `[b, 1, n or 1, reach]`.

    The heads that share a KV head attend as if they were further queries of it: nothing is copied, and every kernel
    can do it, which is not so for grouped heads.
    """
    b, heads, n, _ = q.shape
    shared = heads // keys.shape[1]
    if mask is not None and n > 1:
        # Another mask, as many times as large as heads share a KV head: on a processor `window` goes without.
        mask = mask.expand(-1, -1, n, -1).repeat(1, 1, shared, 1)
    folded = q.reshape(b, keys.shape[1], shared * n, -1)
    # With a mask torch's flash kernel refuses, and the memory-efficient one refuses unequal numbers of heads.
    return F.scaled_dot_product_attention(folded, keys, values, mask).reshape(q.shape)
