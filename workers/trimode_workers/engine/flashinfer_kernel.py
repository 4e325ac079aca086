"""Attention over pages by FlashInfer (`pip install trimode[gpu]`): the one module that imports it.

`BatchPrefillWithPagedKVCacheWrapper` of flashinfer-python 0.7, planned once for each forward and run in every layer.
A recorded forward has a wrapper of its own with buffers of fixed size, planned again before each replay. Never run by
us: no GPU. What is tested is what it is told, against the package's signature and a stand-in that computes by it.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any
from weakref import WeakKeyDictionary

import torch
from flashinfer import BatchPrefillWithPagedKVCacheWrapper
from torch import Tensor

from trimode_api.prefix import PAGE_TOKENS
from trimode_workers.engine.attention import Attention
from trimode_workers.engine.paged_cache import PagedCache, PagedPlan, pages_for

WORKSPACE = 128 << 20
"""Bytes for partial results where long keys are split, as FlashInfer's documentation has it; all wrappers share them,
since they run one after another."""
BACKEND = "fa2"
"""Of FlashInfer's own kernels the one that splits long keys; its FA3 was found to be slower (mini-sglang)."""


class FlashInfer:
    """Wrappers over one cache."""

    gathers = False

    def __init__(self, cache: PagedCache) -> None:
        self._workspace = torch.empty(WORKSPACE, dtype=torch.uint8, device=cache.memory.device)
        self._free_form = {attention: self._wrapper() for attention in Attention}
        self._fixed: WeakKeyDictionary[PagedPlan, dict[Attention, Any]] = WeakKeyDictionary()

    def prepare(self, plan: PagedPlan, attention: Attention) -> None:
        """Plan the forward: copies to the device, and a schedule that the processor works out."""
        self._of(plan, attention).plan(**arguments(plan, attention))

    def attend(self, plan: PagedPlan, layer: int, q: Tensor, attention: Attention) -> Tensor:
        """q `[total, heads, head_dim]` -> the same shape."""
        kept = plan.cache.keys[layer], plan.cache.values[layer]
        found: Tensor = self._of(plan, attention).run(q, kept)
        return found

    def _of(self, plan: PagedPlan, attention: Attention) -> Any:
        if not plan.fixed:
            return self._free_form[attention]
        # A recording reads its wrapper's buffers where they are, so a plan of fixed shape keeps its own for as long as
        # it lives.
        wrappers = self._fixed.setdefault(plan, {})
        if attention not in wrappers:
            rows, like = len(plan.counts), plan.table
            wrappers[attention] = self._wrapper(
                use_cuda_graph=True,
                qo_indptr_buf=like.new_empty(rows + 1),
                paged_kv_indptr_buf=like.new_empty(rows + 1),
                paged_kv_indices_buf=like.new_empty(like.numel()),
                paged_kv_last_page_len_buf=like.new_empty(rows),
            )
        return wrappers[attention]

    def _wrapper(self, **fixed: Any) -> Any:
        # NHD: the cache's pages keep a token's heads together.
        return BatchPrefillWithPagedKVCacheWrapper(self._workspace, "NHD", backend=BACKEND, **fixed)


def arguments(plan: PagedPlan, attention: Attention) -> dict[str, Any]:
    """What `plan` of the wrapper is told of a forward. Index tensors are on the host, where it reads them."""
    config, dtype = plan.cache.config, plan.cache.memory.dtype
    # FlashInfer tells a row's length by the number of its pages and the fill of the last one: pages that were taken
    # ahead would count as keys.
    pages = [row[: pages_for(end)] for row, end in zip(plan.pages, plan.ends, strict=True)]
    return {
        "qo_indptr": _numbers([0, *accumulate(plan.counts)]),
        "paged_kv_indptr": _numbers([0, *accumulate(map(len, pages))]),
        "paged_kv_indices": _numbers([page for row in pages for page in row]),
        "paged_kv_last_page_len": _numbers([(end - 1) % PAGE_TOKENS + 1 for end in plan.ends]),
        "num_qo_heads": config.heads,
        "num_kv_heads": config.kv_heads,
        "head_dim_qk": config.head_dim,
        "page_size": PAGE_TOKENS,
        "causal": attention is Attention.CAUSAL,
        "q_data_type": dtype,
        "kv_data_type": dtype,
    }


def _numbers(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)
