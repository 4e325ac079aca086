"""Linear self-speculation: the model drafts a block by diffusion, then checks it autoregressively.

Both forwards run the same window. The draft sees its block both ways and leaves scratch; the check is causal and
overwrites it. Logit i of the check predicts the token behind place i, so it judges draft i + 1.

With a threshold the draft is made in up to `DRAFT_STEPS` forwards, each of which fixes the tokens it is sure of and
lets the next one see them.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from trimode_api.modes import OperatingPoint
from trimode_workers.engine.constrained_commit import constrained
from trimode_workers.engine.law import Law, log_mass
from trimode_workers.engine.primitive import Attention, Block, Primitive, Riders
from trimode_workers.engine.processors import processed
from trimode_workers.engine.sampling import Drawn, Purpose, Sampled, accept, leading
from trimode_workers.engine.scores import Scores
from trimode_workers.engine.sequence import Sequence

DRAFT_STEPS = 3
"""Forwards at most for a draft with a threshold; the last one fills whatever is left."""


def run(
    primitive: Primitive, sequences: Seq[Sequence], point: OperatingPoint, riders: Riders | None = None
) -> list[list[int]]:
    """One to `block_length` tokens per sequence: the drafts that hold, and the one that follows them."""
    window = primitive.window([s.row for s in sequences], [s.cached for s in sequences], point.block_length)
    blank = [primitive.mask_token_id] * (point.block_length - 1)
    block = primitive.tensor([[s.tokens[-1], *blank] for s in sequences])
    sampled = Sampled.among(sequences, block.device)

    q = _draft(primitive, block, window, sampled, point.threshold)
    # Writes over the draft's keys: kept for the next cycle, they would have seen places behind them. Drafts are
    # verified whole: cut by their own confidence they gained about 1 % on a processor (decision record 14).
    logits = primitive.network.logits(primitive.causal(block, window, riders))
    scores = Scores.among(sequences, logits)
    logits = processed(logits, sequences, block[:, 1:])
    tokens = logits.argmax(-1)
    kept = leading(tokens[:, :-1] == block[:, 1:])
    if sampled is not None and q is not None:
        judge(sampled, sampled.law(logits), Drawn(block[sampled.at, 1:], q), tokens, kept)
    # One transfer to Python for the whole batch: the count rides in the last column.
    rows: list[list[int]] = torch.cat((tokens, kept[:, None]), 1).tolist()
    return constrained([row[: row[-1] + 1] for row in rows], logits, sequences, scores)


def _draft(
    primitive: Primitive, block: Tensor, window: Block, sampled: Sampled | None, threshold: float | None
) -> Law | None:
    """Fill the block's masks; what the rows that sample were drawn from, `[r, B - 1]` places, if there are any."""
    masked = torch.ones_like(block[:, 1:], dtype=torch.bool)
    q: Law | None = None
    for left in reversed(range(DRAFT_STEPS)):
        logits = primitive.forward(block, window, Attention.BLOCK, first=1, drafting=True)
        tokens = logits.argmax(-1)
        now = None if sampled is None else sampled.law(logits)
        if sampled is not None and now is not None:
            tokens[sampled.at] = sampled.draw(now, Purpose.DRAFT)
        if threshold is None:
            block[:, 1:] = tokens
            return now
        chosen = _sure(logits, masked, threshold, sampled) if left else masked
        if sampled is not None and now is not None:
            if q is None:
                q = now
            else:
                q.take(chosen[sampled.at], now)
        block[:, 1:] = torch.where(chosen, tokens, block[:, 1:])
        masked = masked & ~chosen
        if left and not bool(masked.any()):
            break
    return q


def _sure(logits: Tensor, masked: Tensor, threshold: float, sampled: Sampled | None) -> Tensor:
    """Which masked places `[b, n]` to fix by these logits: those whose top-1 probability reaches the threshold, and
    the most confident one.

    Rows that sample fix from the left only, up to the first unsure place, and at least one: were a token drawn in
    sight of a later one, keeping it would tell something of the later one, which then is no fair draw any more.
    """
    confidence = (logits.amax(-1).float() - log_mass(logits)).exp().masked_fill(~masked, -1.0)
    sure = confidence >= threshold
    chosen = sure.scatter(1, confidence.argmax(1, keepdim=True), True)
    if sampled is not None:
        done = ~masked[sampled.at]
        run = leading(done | sure[sampled.at])
        last = torch.maximum(run, leading(done) + 1)[:, None]
        chosen[sampled.at] = torch.arange(masked.shape[1], device=masked.device) < last
    return chosen & masked


def judge(sampled: Sampled, p: Law, drafts: Drawn, tokens: Tensor, kept: Tensor) -> None:
    """Overwrite `tokens` and `kept` of the rows that sample with the outcome of the accept rule."""
    n = drafts.tokens.shape[1]
    u_accept, u_draw = sampled.uniform(n, Purpose.ACCEPT), sampled.uniform(n + 1, Purpose.DRAW)
    # Not typical acceptance: the answer would not be distributed as AR's.
    count, follower = accept(p, drafts, u_accept, u_draw)
    chosen = torch.cat((drafts.tokens, follower[:, None]), 1)
    chosen.scatter_(1, count[:, None], follower[:, None])
    tokens[sampled.at], kept[sampled.at] = chosen, count
