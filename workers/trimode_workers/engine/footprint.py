"""Pure: how many requests fit into a device's memory beside the weights.

Who asks the device how much is free is at the edge.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from trimode_api.prefix import PAGE_TOKENS
from trimode_workers.engine.law import WORKING_BYTES, at_once
from trimode_workers.engine.settings import SHARED_PART
from trimode_workers.errors import SettingsError
from trimode_workers.model.config import ModelConfig

MOST_TOKENS = 4096
"""Of one forward over pages. A GPU is bound by arithmetic from some 300 tokens on, so parts cost nothing, while each
token's logits take 0.8 MB of an 8B."""
LOGIT_COPIES = 3
"""Logits held at a time, in their own type: of a draft in steps its own, those it becomes, and their exchange."""


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


@dataclass(frozen=True, slots=True)
class Demand:
    """What an engine is asked to hold: `rows` requests at a time, each of up to `context` tokens, and behind those a
    block of up to `widest`."""

    rows: int
    context: int
    widest: int


def footprint(config: ModelConfig, context: int, widest: int, itemsize: int) -> Footprint:
    """`context`: tokens of the longest request, `widest`: tokens of the longest block, behind it and in one forward;
    `itemsize`: bytes per number of weights and cache.

    Beside its own bytes a token of a forward holds the mask over all slots, once more for the heads that share a KV
    head.
    """
    per_token = bytes_per_token(config, itemsize)
    # Not small: 2 GiB for a piece of 2,048 tokens behind 131,072.
    mask = (context + widest) * itemsize * (1 + config.heads // config.kv_heads)
    scratch = widest * (forward_bytes_per_token(config, itemsize) + mask)
    return Footprint((context + widest) * per_token, context * per_token // SHARED_PART, scratch)


def bytes_per_token(config: ModelConfig, itemsize: int) -> int:
    """Of the cache: keys and values in every layer."""
    return 2 * config.layers * config.kv_heads * config.head_dim * itemsize


def forward_bytes_per_token(config: ModelConfig, itemsize: int) -> int:
    """Of a forward's scratch: its logits, the MLP's halves, and some vectors of the hidden size."""
    logits = config.vocab_size * itemsize * LOGIT_COPIES
    return logits + (2 * config.intermediate_size + 8 * config.hidden_size) * itemsize


def tokens_that_fit(config: ModelConfig, demand: Demand, itemsize: int, free: int) -> int:
    """Tokens of a paged cache in `free` bytes, whole pages, beside the scratch of forwards of at most `MOST_TOKENS`
    tokens (a group of more is run in parts). No more than what is demanded can use. Raises SettingsError where not one
    request of the longest context fits.
    """
    rows, context, widest = demand.rows, demand.context, demand.widest
    per_token, longest = bytes_per_token(config, itemsize), PAGE_TOKENS * -(-(context + widest) // PAGE_TOKENS)
    # However many requests run: 3.5 GiB for an 8B.
    scratch = min(MOST_TOKENS, rows * widest) * forward_bytes_per_token(config, itemsize)
    left = free - workspace(config, widest, rows) - scratch
    tokens = min(left // per_token // PAGE_TOKENS, rows * longest // PAGE_TOKENS) * PAGE_TOKENS
    if tokens >= longest:
        return tokens
    most = left // per_token // PAGE_TOKENS * PAGE_TOKENS - widest
    allowed = f"at most {most} tokens fit" if most > 1 else "not even a short request fits"
    raise SettingsError(
        f"max_context_tokens is {context}: one request of that length needs {_gib(longest * per_token)} of memory "
        f"beside the weights and {_gib(free - left)} for forwards, {_gib(max(0, left))} are free: {allowed}"
    )


def workspace(config: ModelConfig, widest: int, rows: int) -> int:
    """Bytes in which distributions are worked out, some places at a time, whatever the number of requests."""
    # Planned apart from the logits: whole distributions took up to 38 bytes for each where 10 were planned, and a cycle
    # that ran out of memory ended the replica.
    return WORKING_BYTES * at_once(rows * widest * config.vocab_size)


def rows_that_fit(config: ModelConfig, demand: Demand, itemsize: int, free: int) -> int:
    """Requests that may run at once in `free` bytes, at most those demanded. Raises SettingsError where none fits."""
    wanted, context, widest = demand.rows, demand.context, demand.widest
    # A row reserves its longest context: by arithmetic 145 rows of 4,096 tokens of the 8B fit into an H200, and 2 of
    # 262,144. Pages are taken as they are needed, and so a GPU has those.
    one = footprint(config, context, widest, itemsize)
    free = free - workspace(config, widest, wanted)
    rows = min(wanted, free // one.request)
    if rows >= 1:
        return rows
    sizes = range(context)
    longest = bisect_right(sizes, free, key=lambda size: footprint(config, size, widest, itemsize).request) - 1
    allowed = f"at most {longest} tokens fit" if longest > 1 else "not even a short request fits"
    raise SettingsError(
        f"max_context_tokens is {context}: one request of that length needs {_gib(one.request)} of memory beside the "
        f"weights, {_gib(max(0, free))} are free: {allowed}"
    )


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
