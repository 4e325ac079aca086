"""Blocks and noise: which answer tokens the noisy stream hides, and who may see whom (the dual-stream mask).

Noisy tokens see their own block of the noisy stream both ways and the clean tokens of earlier blocks; clean
tokens see earlier clean tokens only, never noisy ones. Prompts are never noised.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from trimode_lab.training.batches import Batch
from trimode_lab.training.tokenizer import MASK

BLOCK_LENGTHS = (4, 8, 16, 32, 64)
_BLOCK_SHARES = (0.05, 0.25, 0.3, 0.3, 0.1)
_KIND_SHARES = (0.4, 0.45, 0.15)
"""All hidden but the first (as when drafting); a uniform share hidden, first known; a uniform share of all."""
PAD_WEIGHT = 0.1
"""Of positions behind `<end>` in its block: easy, so they should not drown the rest."""


@dataclass(frozen=True)
class Noised:
    """All `[b, 1 + A]` as `Batch.blocks`: noisy tokens, first column of each one's block, hidden or not, weight."""

    tokens: Tensor
    block_starts: Tensor
    hidden: Tensor
    weights: Tensor


def block_starts(width: int, lengths: Tensor, offsets: Tensor) -> Tensor:
    """Column `[b, width]` at which each column's block starts; row r's blocks are cut at `offset + i * length`."""
    columns = torch.arange(width)
    shifted = columns - offsets[:, None]
    starts = torch.div(shifted, lengths[:, None], rounding_mode="floor") * lengths[:, None] + offsets[:, None]
    return starts.clamp(min=0)


def add_noise(batch: Batch, rng: Generator) -> Noised:
    """Hide answer tokens; one block length and offset per row, one kind and share of noise per block."""
    clean = batch.blocks
    b, width = clean.shape
    lengths = torch.tensor(BLOCK_LENGTHS)[_choose(_BLOCK_SHARES, (b,), rng)]
    offsets = (torch.rand(b, generator=rng) * lengths).long()
    starts = block_starts(width, lengths, offsets)
    columns = torch.arange(width).expand(b, width)
    first = columns == starts

    def per_block(values: Tensor) -> Tensor:  # values [b, width]: every column takes its block's first
        return values.gather(1, starts)

    kind = per_block(_choose(_KIND_SHARES, (b, width), rng))
    share = per_block(torch.rand(b, width, generator=rng))
    hidden = torch.rand(b, width, generator=rng) < torch.where(kind == 0, 1.0, share)
    hidden &= ~(first & (kind < 2)) & (columns > 0)
    last = batch.answer_lengths[:, None]  # of `<end>`, as the answer starts in column 1
    weights = torch.where(columns <= last, 1.0, PAD_WEIGHT) * (starts <= last)
    hidden &= weights > 0
    return Noised(torch.where(hidden, MASK, clean), starts, hidden, weights * hidden)


def _choose(shares: tuple[float, ...], shape: tuple[int, ...], rng: Generator) -> Tensor:
    edges = torch.tensor(shares).cumsum(0)[:-1]
    return torch.bucketize(torch.rand(shape, generator=rng), edges, right=True)


def clean_mask(batch: Batch) -> Tensor:
    """Clean queries and keys: bool `[b, 1, T, T]`, causal, left padding unseen (but by itself, to stay finite)."""
    width = batch.tokens.shape[1]
    columns = torch.arange(width)
    real = columns >= (batch.prompt_columns - batch.prompt_lengths)[:, None]
    seen = real[:, None, :] & (columns[None, :] <= columns[:, None])
    return (seen | torch.eye(width, dtype=torch.bool))[:, None]


def noisy_mask(batch: Batch, starts: Tensor) -> Tensor:
    """Noisy queries, clean then noisy keys: bool `[b, 1, 1 + A, T + 1 + A]`."""
    columns = torch.arange(batch.tokens.shape[1])
    real = columns >= (batch.prompt_columns - batch.prompt_lengths)[:, None]
    earlier = columns < (batch.first + starts)[:, :, None]
    own = starts[:, :, None] == starts[:, None, :]
    return torch.cat((real[:, None, :] & earlier, own), -1)[:, None]
