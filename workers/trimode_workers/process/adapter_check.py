"""Whether the draft adapter does anything, found out through the forward that drafts.

Belongs here: the check that an engine makes when it starts. An adapter that is silently not applied costs speed
only, so nothing else would show it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trimode_workers.engine.cache import KVCache
from trimode_workers.engine.primitive import Attention, Primitive
from trimode_workers.model.fused import FusedDecoder

ROWS, PROMPT, BLOCK = 8, 16, 16


@dataclass(frozen=True, slots=True)
class DraftCheck:
    """`difference`: largest change of a logit. `changed` of `drafts` drafted tokens differ."""

    difference: float
    changed: int
    drafts: int


@torch.inference_mode()
def compare_drafts(network: FusedDecoder) -> DraftCheck:
    """Draft behind the same random prompts with the adapter and without."""
    config = network.config
    cache = KVCache(config, ROWS, PROMPT + BLOCK, network.like.dtype, network.like.device)
    primitive = Primitive(network, cache)
    random = torch.Generator().manual_seed(0)
    prompts = torch.randint(config.vocab_size, (ROWS, PROMPT), generator=random).tolist()
    rows = list(range(ROWS))
    primitive.advance([prompt[:-1] for prompt in prompts], rows, [0] * ROWS)
    # The forward that drafts, not the weights, is what is checked: a commit of an SGLang fork had loaded the adapter
    # and never applied it under CUDA graphs.
    window = primitive.window(rows, [PROMPT - 1] * ROWS, BLOCK)
    blank = [config.mask_token_id] * (BLOCK - 1)
    block = primitive.tensor([[prompt[-1], *blank] for prompt in prompts])
    plain, adapted = (
        primitive.forward(block, window, Attention.BLOCK, first=1, drafting=drafting) for drafting in (False, True)
    )
    changed = int((plain.argmax(-1) != adapted.argmax(-1)).sum())
    return DraftCheck(float((plain.float() - adapted.float()).abs().max()), changed, ROWS * (BLOCK - 1))
