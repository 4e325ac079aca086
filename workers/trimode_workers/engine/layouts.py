"""Which layout the cache has: rows on a processor, pages on a GPU.

Rows on a processor, because gathering pages in every layer makes an AR forward of 64 requests of the tiny model slower
there (`figures`); pages on a GPU, where kernels read them by a table: requests then take the memory that they use, not
their longest context, and padding and masks go.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trimode_api.prefix import PAGE_TOKENS
from trimode_workers.engine.cache import KVCache
from trimode_workers.engine.kernels import pick_kernel
from trimode_workers.engine.page_pool import PagePool
from trimode_workers.engine.paged_cache import PagedCache, pages_for
from trimode_workers.engine.settings import EngineSettings
from trimode_workers.engine.store import PagedStore, PageStore
from trimode_workers.model.config import ModelConfig

Cache = KVCache | PagedCache
Store = PageStore | PagedStore

WIDEST_BLOCK = 64
"""Slots behind the longest sequence, in tokens: scratch of a block that begins at its end."""


def paged(settings: EngineSettings, device: torch.device) -> bool:
    """Whether an engine with these settings has pages there."""
    # A processor runs AR of 64 requests 1.11, 1.13 and 1.26 times as long over pages, at 96, 192 and 512 tokens each
    # (decision record 13).
    return settings.layout == "pages" or (settings.layout == "auto" and device.type == "cuda")


def make_cache(config: ModelConfig, settings: EngineSettings, like: Tensor) -> tuple[Cache, Store]:
    """The cache of an engine and what shares beginnings in it; in the type and on the device of `like`."""
    slots = settings.max_context_tokens + WIDEST_BLOCK
    if not paged(settings, like.device):
        rows = KVCache(config, settings.max_running_requests, slots, like.dtype, like.device)
        return rows, PageStore(rows, settings.shared)
    # One request of the longest context has to fit, whatever the capacity says.
    total = max(pages_for(settings.capacity), pages_for(slots))
    kept = total if settings.shared_tokens is None else settings.shared_tokens // PAGE_TOKENS
    cache = PagedCache(config, settings.max_running_requests, PagePool(total, kept), pages_for(slots), like)
    # Tried before anything is served: none of the kernels has met every GPU.
    cache.kernel = pick_kernel(cache)
    return cache, PagedStore(cache)
