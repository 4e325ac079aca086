"""Block diffusion: fill a block of masks over several forwards, most confident places first.

Lossy: the answer is not the autoregressive one. A block runs to its end within one cycle, because half a denoised
block is not causal state. Logit i predicts place i (no shift). How confident a place is, its likeliest token's
probability says, or a trained sampler head where the model has one.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from trimode_api.modes import OperatingPoint
from trimode_workers.engine.law import log_mass
from trimode_workers.engine.primitive import Attention, Block, Primitive, Riders
from trimode_workers.engine.sampling import Purpose, Sampled, pick
from trimode_workers.engine.sequence import Sequence
from trimode_workers.model.decoder import Network


def run(
    primitive: Primitive, sequences: Seq[Sequence], point: OperatingPoint, riders: Riders | None = None
) -> list[list[int]]:
    """`block_length` tokens per sequence: the block behind the seed, and the next seed."""
    size, threshold = point.block_length, point.threshold or 1.0
    blank = [primitive.mask_token_id] * (size - 1)
    block = primitive.tensor([[s.tokens[-1], *blank] for s in sequences])
    masked = torch.ones_like(block, dtype=torch.bool)
    masked[:, 0] = False
    open_rows = list(range(len(sequences)))
    while open_rows:
        # Rows finish at different steps: with new shapes D32@0.9 at 16 rows ran 208 forwards unrecorded beside 82
        # replays.
        if primitive.graphs is not None:  # no new shape as rows finish: those that are done run along in vain
            open_rows = list(range(len(sequences)))
        part = [sequences[i] for i in open_rows]
        at = torch.tensor(open_rows, device=block.device)
        hidden = primitive.states(block[at], _window(primitive, part, size), Attention.BLOCK, first=1)
        tokens, confidence = _guess(primitive.network, hidden, Sampled.among(part, block.device))
        wanted = masked[at, 1:]
        confidence = confidence.masked_fill(~wanted, -1.0)
        # Every place that reaches the threshold, and the surest one in any case: a block that no forward is sure of
        # would stay open for ever.
        sure = (confidence >= threshold).scatter_(1, confidence.argmax(1, keepdim=True), True) & wanted
        block[at, 1:] = torch.where(sure, tokens, block[at, 1:])
        masked[at, 1:] = wanted & ~sure
        # Where an end of sequence has no mask to its left, nothing behind it will be read: stop denoising there.
        for i, (sequence, row) in enumerate(zip(sequences, block.tolist(), strict=True)):
            end = next((j for j, token in enumerate(row) if j and token in sequence.eos), None)
            if end is not None and not bool(masked[i, :end].any()):
                block[i] = torch.where(masked[i], row[end], block[i])
                masked[i] = False
        still = masked.any(1).tolist()
        open_rows = [i for i in open_rows if still[i]]
    hidden = primitive.causal(block, _window(primitive, sequences, size), riders)
    logits = primitive.network.logits(hidden[:, size - 1 :])
    after = pick(logits, Sampled.among(sequences, block.device), ahead=size - 1)
    rows: list[list[int]] = torch.cat((block[:, 1:], after), 1).tolist()
    return rows


def _window(primitive: Primitive, sequences: Seq[Sequence], size: int) -> Block:
    return primitive.window([s.row for s in sequences], [s.cached for s in sequences], size)


def _guess(network: Network, hidden: Tensor, sampled: Sampled | None) -> tuple[Tensor, Tensor]:
    """hidden `[r, B - 1, hidden]` -> the token for each place and the confidence in it, both `[r, B - 1]`.

    The sampler head judges likeliest tokens only, so rows that sample go by the probability of what they drew.
    """
    logits = network.logits(hidden)
    # As the released code has it: where 78 % is on the mask, a token of 0.06 would pass for 0.18 without it.
    mass = log_mass(logits)  # of all tokens: a place where the model would rather have a mask is no sure one
    logits[..., network.config.mask_token_id] = -torch.inf  # a mask is never an answer, and would keep the block open
    best, tokens = logits.max(-1)
    confidence = (best.float() - mass).exp()
    if network.sampler is not None:
        confidence = torch.sigmoid(network.sampler(hidden, torch.softmax(logits.float(), -1)))
    if sampled is not None:
        drawn = sampled.draw(sampled.law(logits), Purpose.DRAW)
        tokens[sampled.at] = drawn
        chosen = logits[sampled.at].gather(-1, drawn[..., None]).squeeze(-1)
        confidence[sampled.at] = (chosen.float() - mass[sampled.at]).exp()
    return tokens, confidence
