"""Noise, the masks of both streams, the joint objective, and its gradients.

The loss is AR loss + weight x diffusion loss, each a mean over the tokens of the whole step. The noisy stream hides
answer tokens, never the prompt's. Its tokens see their own block of the noisy stream both ways and the clean tokens of
earlier blocks; clean tokens see earlier clean tokens only, never noisy ones.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from trimode_lab.training.batches import Batch
from trimode_lab.training.tokenizer import MASK
from trimode_workers.model import Decoder

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


@dataclass(frozen=True)
class Losses:
    """Sums over tokens (nats), to be divided by the step's totals."""

    ar: Tensor
    diffusion: Tensor


class DualStream:
    """The `attend` of training: columns `[:clean]` are the clean stream, the rest is the noisy one."""

    def __init__(self, batch: Batch, starts: Tensor) -> None:
        self.clean = batch.tokens.shape[1]
        self.clean_bias = _bias(clean_mask(batch))
        self.noisy_bias = _bias(noisy_mask(batch, starts))

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n, attention = self.clean, F.scaled_dot_product_attention
        # the CPU's flash attention is many times slower in bfloat16, backwards above all
        with torch.autocast("cpu", enabled=False):
            q, k, v = q.float(), k.float(), v.float()
            clean = attention(q[:, :, :n], k[:, :, :n], v[:, :, :n], self.clean_bias, enable_gqa=True)
            noisy = attention(q[:, :, n:], k, v, self.noisy_bias, enable_gqa=True)
        return torch.cat((clean, noisy), 2)


def _bias(mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape).masked_fill_(~mask, float("-inf"))


def losses(model: Decoder, batch: Batch, noised: Noised) -> Losses:
    """One forward over both streams."""
    hidden, width = both_streams(model, batch, noised), batch.tokens.shape[1]
    answers = batch.blocks[:, 1:]
    written = torch.arange(answers.shape[1]) < batch.answer_lengths[:, None]
    ar_logits = model.logits(hidden[:, batch.first : width - 1][written]).float()
    ar = F.cross_entropy(ar_logits, answers[written], reduction="sum")
    guesses = model.logits(hidden[:, width:][noised.hidden]).float()
    each = F.cross_entropy(guesses, batch.blocks[noised.hidden], reduction="none")
    return Losses(ar, (each * noised.weights[noised.hidden]).sum())


def both_streams(model: Decoder, batch: Batch, noised: Noised) -> Tensor:
    """Hidden states `[b, T + 1 + A, hidden]`: of the clean tokens, then of the noisy ones."""
    columns = torch.arange(batch.tokens.shape[1])
    positions = torch.cat((columns, columns[batch.first :])).expand(len(batch.tokens), -1)
    tokens = torch.cat((batch.tokens, noised.tokens), 1)
    return model.hidden(tokens, positions, DualStream(batch, noised.block_starts))


@dataclass(frozen=True)
class Part:
    """A batch, its noise, and what its AR and diffusion sums are multiplied with in the joint loss."""

    batch: Batch
    noised: Noised
    ar_scale: float
    diffusion_scale: float


class Gradients:
    """Computes and sums the gradients of parts; `bfloat16` is for the matrix products only.

    One thread per forward instead of many threads in one: they meet once a step, not at every operation. Sums run in
    the order of the parts, so results do not depend on how many threads there are.
    """

    def __init__(self, model: Decoder, threads: int, bfloat16: bool) -> None:
        self.model, self.bfloat16 = model, bfloat16
        self.parameters = list(model.parameters())
        self.pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

    def compute(self, parts: list[Part]) -> tuple[float, float]:
        """Set `.grad` of every parameter to the sum over parts; returns both loss sums."""
        # parts come shortest first; the longest start first, so that the threads end together
        found = list(self.pool.map(self._one, reversed(parts)))[::-1]
        for p, *gradients in zip(self.parameters, *(gradients for gradients, _, _ in found), strict=True):
            p.grad = torch.stack(gradients).sum(0)
        return sum(ar for _, ar, _ in found), sum(diffusion for _, _, diffusion in found)

    def close(self) -> None:
        """End the threads."""
        self.pool.shutdown()

    def _one(self, part: Part) -> tuple[tuple[Tensor, ...], float, float]:
        # the cache of converted weights is shared by all threads: with it, runs do not repeat exactly
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16, cache_enabled=False):
            found = losses(self.model, part.batch, part.noised)
        joint = found.ar * part.ar_scale + found.diffusion * part.diffusion_scale
        return torch.autograd.grad(joint, self.parameters), found.ar.item(), found.diffusion.item()
