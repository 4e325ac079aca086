"""What a sampler head learns from: masked places as diffusion meets them, and whether the likeliest token was right.

Blocks behind true text are denoised as when serving, at thresholds drawn at random, with whatever mistakes that
makes; every place that is still hidden in a forward is one sample. The decoder is not changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Generator, Tensor

from trimode_lab.training.batches import Batch, collate, draw_rows, split_by_length
from trimode_lab.training.noise import PAD_WEIGHT, Noised, block_starts, clean_mask, noisy_mask
from trimode_lab.training.tokenizer import MASK
from trimode_tools.tasks import stream
from trimode_workers.model.decoder import Decoder
from trimode_workers.model.sampler import signs

BLOCKS = (8, 16, 32)
STEPS = 8
"""Forwards of a batch; most blocks are filled by then."""
_ROWS, _ROWS_PER_FORWARD, _TOKENS = 64, 16, 250
_LOWEST, _HIGHEST = 0.4, 0.995


@dataclass(frozen=True)
class Places:
    """`hidden` `[n, h]`, `seen` `[n, SIGNS]`, `right` `[n]` as 0 or 1, `weights` `[n]`: less behind the end."""

    hidden: Tensor
    seen: Tensor
    right: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.right)


def harvest(decoder: Decoder, tokenizer: Tokenizer, count: int, seed: int, progress: Callable[[int], None]) -> Places:
    """At least `count` places; the same for the same seed. `progress` is told how many there are."""
    rng = Random(seed)
    noise = Generator().manual_seed(seed)
    samples = stream(rng, held_out=False)
    found: list[Places] = []
    while (have := sum(map(len, found))) < count:
        progress(have)
        rows = draw_rows(tokenizer, samples, rng, _ROWS, _TOKENS)
        for part in split_by_length(rows, _ROWS_PER_FORWARD):
            found += _denoise(decoder, collate(part), noise)
    progress(count)
    return Places(
        *(torch.cat([getattr(part, name) for part in found]) for name in ("hidden", "seen", "right", "weights"))
    )


@torch.inference_mode()
def _denoise(decoder: Decoder, batch: Batch, rng: Generator) -> list[Places]:
    noised = _masked(batch, rng)
    stream = _NoisyStream(decoder, batch, noised.block_starts)
    thresholds = _LOWEST + (_HIGHEST - _LOWEST) * torch.rand(len(batch.tokens), 1, generator=rng)
    found: list[Places] = []
    for _ in range(STEPS):
        open_rows = noised.hidden.any(1).nonzero()[:, 0]
        if not len(open_rows):
            break
        noised, thresholds = _rows(noised, open_rows), thresholds[open_rows]
        stream.narrow(open_rows)
        states = stream.states(noised.tokens)
        logits = decoder.logits(states)
        logits[..., decoder.config.mask_token_id] = -torch.inf
        p = torch.softmax(logits, -1)
        confidence, tokens = p.max(-1)
        at = noised.hidden
        right = (tokens == stream.truth)[at].float()
        found.append(Places(states[at], signs(p[at]), right, noised.weights[at]))
        confidence = confidence.masked_fill(~at, -1.0)
        best = torch.full_like(confidence, -1.0).scatter_reduce(1, noised.block_starts, confidence, "amax")
        chosen = at & ((confidence >= thresholds) | (confidence == best.gather(1, noised.block_starts)))
        filled = torch.where(chosen, tokens, noised.tokens)
        noised = replace(noised, tokens=filled, hidden=at & ~chosen)
    return found


def _rows(noised: Noised, rows: Tensor) -> Noised:
    return Noised(noised.tokens[rows], noised.block_starts[rows], noised.hidden[rows], noised.weights[rows])


class _NoisyStream:
    """The noisy stream over a clean one that is run once: it never sees the noise. `truth` is what was hidden."""

    def __init__(self, decoder: Decoder, batch: Batch, starts: Tensor) -> None:
        self._decoder, self._mask, self.truth = decoder, noisy_mask(batch, starts), batch.blocks
        self._clean: list[tuple[Tensor, Tensor]] = []
        columns, seen = torch.arange(batch.tokens.shape[1]), clean_mask(batch)
        self._positions = columns[batch.first :].expand(len(batch.tokens), -1)

        def keep(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self._clean.append((k, v))
            return F.scaled_dot_product_attention(q, k, v, seen, enable_gqa=True)

        decoder.hidden(batch.tokens, columns.expand_as(batch.tokens), keep)

    def narrow(self, rows: Tensor) -> None:
        """Go on with some of the rows only."""
        self._clean = [(k[rows], v[rows]) for k, v in self._clean]
        self._mask, self._positions, self.truth = self._mask[rows], self._positions[rows], self.truth[rows]

    def states(self, tokens: Tensor) -> Tensor:
        """Noisy tokens `[b, 1 + A]` -> hidden states."""

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = (torch.cat(pair, 2) for pair in zip(self._clean[layer], (k, v), strict=True))
            return F.scaled_dot_product_attention(q, keys, values, self._mask, enable_gqa=True)

        return self._decoder.hidden(tokens, self._positions, attend)


def _masked(batch: Batch, rng: Generator) -> Noised:
    """All of every block but its first token hidden, as a block begins when serving."""
    b, width = batch.blocks.shape
    lengths = torch.tensor(BLOCKS)[torch.randint(len(BLOCKS), (b,), generator=rng)]
    starts = block_starts(width, lengths, (torch.rand(b, generator=rng) * lengths).long())
    columns, last = torch.arange(width), batch.answer_lengths[:, None]
    hidden = (columns != starts) & (columns > 0) & (starts <= last)
    weights = torch.where(columns <= last, 1.0, PAD_WEIGHT) * hidden
    return Noised(torch.where(hidden, MASK, batch.blocks), starts, hidden, weights)
