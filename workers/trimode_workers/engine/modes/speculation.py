"""Linear self-speculation: the model drafts a block by diffusion, then checks it autoregressively.

Both forwards run the same window. The draft sees its block both ways and leaves scratch; the check is causal and
overwrites it. Logit i of the check predicts the token behind place i, so it judges draft i + 1.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from trimode_api.modes import OperatingPoint
from trimode_workers.engine.primitive import Attention, Primitive
from trimode_workers.engine.randomness import Purpose
from trimode_workers.engine.sampling import Sampled, accept, leading
from trimode_workers.engine.sequence import Sequence


def run(primitive: Primitive, sequences: Seq[Sequence], point: OperatingPoint) -> list[list[int]]:
    """One to `block_length` tokens per sequence: the drafts that hold, and the one that follows them."""
    window = primitive.window([s.row for s in sequences], [s.cached for s in sequences], point.block_length)
    blank = [primitive.mask_token_id] * (point.block_length - 1)
    block = primitive.tensor([[s.tokens[-1], *blank] for s in sequences])
    sampled = Sampled.among(sequences, block.device)

    logits = primitive.forward(block, window, Attention.BLOCK, first=1, drafting=True)
    block[:, 1:] = logits.argmax(-1)
    q = None
    if sampled is not None:
        q = sampled.distribution(logits)
        block[sampled.at, 1:] = sampled.draw(q, Purpose.DRAFT)

    logits = primitive.forward(block, window, Attention.CAUSAL)
    tokens = logits.argmax(-1)
    kept = leading(tokens[:, :-1] == block[:, 1:])
    if sampled is not None and q is not None:
        _judge(sampled, sampled.distribution(logits), q, block, tokens, kept)
    # One transfer to Python for the whole batch: the count rides in the last column.
    rows: list[list[int]] = torch.cat((tokens, kept[:, None]), 1).tolist()
    return [row[: row[-1] + 1] for row in rows]


def _judge(sampled: Sampled, p: Tensor, q: Tensor, block: Tensor, tokens: Tensor, kept: Tensor) -> None:
    """Overwrite `tokens` and `kept` of the rows that sample with the outcome of the accept rule."""
    drafts, n = block[sampled.at, 1:], block.shape[1] - 1
    count, follower = accept(p, q, drafts, sampled.uniform(n, Purpose.ACCEPT), sampled.uniform(n + 1, Purpose.DRAW))
    chosen = torch.cat((drafts, follower[:, None]), 1)
    chosen.scatter_(1, count[:, None], follower[:, None])
    tokens[sampled.at], kept[sampled.at] = chosen, count
