"""Pure: how many requests fit into a device's memory beside the weights.

Belongs here: bytes of the cache and of one forward's scratch, from shapes alone. Who asks the device how much is free
is at the edge.
"""

from __future__ import annotations

from dataclasses import dataclass

from trimode_workers.engine.errors import SettingsError
from trimode_workers.engine.settings import SHARED_PART
from trimode_workers.model.config import ModelConfig

FLOAT_COPIES = 2
"""Copies in float32 of a forward's logits: what a softmax reads and what it writes."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of one running request: its row of the cache, its part of the page store, and its share of the widest
    forward's scratch."""

    row: int
    pages: int
    scratch: int

    @property
    def request(self) -> int:
        return self.row + self.pages + self.scratch


def footprint(config: ModelConfig, context: int, widest: int, itemsize: int) -> Footprint:
    """`context`: tokens of the longest request, `widest`: tokens of the longest block, behind it and in one forward;
    `itemsize`: bytes per number of weights and cache.

    Keys and values are 2 x layers x kv_heads x head_dim numbers per token. A forward holds per token: its logits and
    their copies in float32, the MLP's two halves, and some vectors of the hidden size.
    """
    per_token = 2 * config.layers * config.kv_heads * config.head_dim * itemsize
    logits = config.vocab_size * (itemsize + 4 * FLOAT_COPIES)
    inner = (2 * config.intermediate_size + 8 * config.hidden_size) * itemsize
    return Footprint((context + widest) * per_token, context * per_token // SHARED_PART, widest * (logits + inner))


def rows_that_fit(config: ModelConfig, context: int, widest: int, itemsize: int, free: int, wanted: int) -> int:
    """Requests that may run at once, at most `wanted`, in `free` bytes. Raises SettingsError where not one fits."""
    one = footprint(config, context, widest, itemsize)
    rows = min(wanted, free // one.request)
    if rows >= 1:
        return rows
    per_token = one.row // (context + widest)
    longest = (free - one.scratch - widest * per_token) * SHARED_PART // (per_token * (SHARED_PART + 1))
    allowed = f"at most {longest} tokens fit" if longest > 1 else "not even a short request fits"
    raise SettingsError(
        f"max_context_tokens is {context}: one request of that length needs {_gib(one.request)} of memory beside the "
        f"weights, {_gib(max(0, free))} are free: {allowed}"
    )


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
