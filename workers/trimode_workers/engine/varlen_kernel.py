"""Attention by lengths with what torch brings: `torch.nn.attention.varlen` (2.12 and later), on NVIDIA GPUs only.

With FlashAttention 3 (a package of its own, for Hopper) torch reads pages by their table. Its own kernels do not, so
that without it every row's pages are gathered first: exact lengths, but keys and values are moved twice more (10 GB of
them at 64 requests of 1,200 tokens of an 8B, beside 16 GB of weights). Never run by us: no GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention import activate_flash_attention_impl, list_flash_attention_impls
from torch.nn.attention.varlen import varlen_attn

from trimode_workers.engine.attention import Attention
from trimode_workers.engine.paged_cache import PagedPlan, gathered_tokens

WINDOW = {Attention.BLOCK: (-1, -1), Attention.CAUSAL: (-1, 0)}
"""torch's windows: everything, and causal aligned to the last key, which the last query sees."""


class Varlen:
    """`tables`: whether the kernel reads pages by their table."""

    def __init__(self, *, tables: bool) -> None:
        self.gathers, self._tables = not tables, tables

    def prepare(self, plan: PagedPlan, attention: Attention) -> None:
        """Nothing: lengths and tables are on the device."""

    def attend(self, plan: PagedPlan, layer: int, q: Tensor, attention: Attention) -> Tensor:
        """q `[total, heads, head_dim]` -> the same shape."""
        keys, values = plan.cache.keys[layer], plan.cache.values[layer]
        if not self._tables:
            keys, values = gathered_tokens(keys, plan.table), gathered_tokens(values, plan.table)
        # Lengths are read from `seen`, so that a recording may serve others; the longest they can be is fixed in it.
        found = varlen_attn(
            q,
            keys,
            values,
            plan.starts,
            None if self._tables else plan.key_starts,
            plan.widest,
            plan.reach,
            window_size=WINDOW[attention],
            enable_gqa=True,
            seqused_k=plan.seen,
            block_table=plan.table if self._tables else None,
        )
        assert isinstance(found, Tensor)
        return found


def varlen(device: torch.device) -> Varlen:
    """The kernel for that GPU; with FlashAttention 3 where it is installed and the GPU is a Hopper."""
    if "FA3" in list_flash_attention_impls() and torch.cuda.get_device_capability(device)[0] == 9:
        try:
            activate_flash_attention_impl("FA3")
        except (ImportError, RuntimeError):  # not installed
            return Varlen(tables=False)
        return Varlen(tables=True)
    return Varlen(tables=False)
