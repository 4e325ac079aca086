"""From logits to tokens: greedy, temperature, top-p and its like, and the speculative accept rule.

Greedy rows take the whole batch's argmax; only rows that sample pay for distributions. Speculative sampling
(Leviathan et al., arXiv 2211.17192): a draft x drawn from q is kept with probability min(1, p(x)/q(x)); at the
first refusal the token comes from max(0, p - q), normalised; behind a kept draft it comes from p. The output is
then distributed exactly as p, whatever q is.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trimode_workers.engine.law import Cuts, Law, invert
from trimode_workers.engine.sequence import Sequence

_WEYL = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_RESOLUTION = 24
"""Bits of a uniform number: as many as float32 holds exactly."""


class Purpose(IntEnum):
    """What a number at a position is for; numbers of different purposes are independent."""

    DRAW = 0
    """The token itself: autoregressive, a diffusion fill, or what follows the accepted drafts."""
    DRAFT = 1
    ACCEPT = 2
    AGAIN = 3
    """A token in place of one that a grammar refused."""


def uniforms(seeds: NDArray[np.uint64], positions: NDArray[np.uint64], purpose: Purpose) -> NDArray[np.float32]:
    """Numbers in (0, 1], of the broadcast shape of `seeds` and `positions`."""
    # A hash of seed and position, not a generator with a state: neighbours in the batch, preemption and resumption on
    # another replica must not change a draw.
    key = _mix(seeds + _WEYL)
    key = _mix(key ^ (positions * np.uint64(len(Purpose)) + np.uint64(purpose) + np.uint64(1)) * _WEYL)
    whole = (key >> np.uint64(64 - _RESOLUTION)).astype(np.float32)
    # Never 0, at which `invert` would come to a token of probability 0.
    return (whole + np.float32(1.0)) * np.float32(2.0**-_RESOLUTION)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # The finalizer of SplitMix64.
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))


class Sampled:
    """The rows of a batch that draw (temperature > 0). `at` `[r]` are their places in the batch."""

    def __init__(self, sequences: Seq[Sequence], at: list[int], device: torch.device) -> None:
        settings = [sequences[i].sampling for i in at]
        self.device = device
        self.at = torch.tensor(at, device=device)
        self._seeds = np.array([[s.seed & 0xFFFFFFFFFFFFFFFF] for s in settings], dtype=np.uint64)
        self._next = np.array([[len(sequences[i].tokens)] for i in at], dtype=np.uint64)
        self._temperatures = torch.tensor([s.temperature for s in settings], device=device)
        self._cuts: Cuts | None = None
        if any(s.top_p < 1.0 or s.top_k or s.min_p for s in settings):
            columns = [s.top_p for s in settings], [s.top_k for s in settings], [s.min_p for s in settings]
            self._cuts = Cuts(*(torch.tensor(column, device=device) for column in columns))

    @classmethod
    def among(cls, sequences: Seq[Sequence], device: torch.device) -> Sampled | None:
        """The rows that draw, None where all are greedy."""
        at = [i for i, s in enumerate(sequences) if not s.greedy]
        return cls(sequences, at, device) if at else None

    def law(self, logits: Tensor) -> Law:
        """logits of the whole batch `[b, n, vocab]` -> what these rows draw from, `[r, n]` places."""
        return Law.of(logits, self.at, self._temperatures, self._cuts)

    def uniform(self, n: int, purpose: Purpose, ahead: int = 0) -> Tensor:
        """`[r, n]` numbers for the n positions that begin `ahead` of the next token's."""
        positions: NDArray[np.uint64] = self._next + np.arange(ahead, ahead + n).astype(np.uint64)
        return torch.from_numpy(uniforms(self._seeds, positions, purpose)).to(self.device)

    def draw(self, law: Law, purpose: Purpose, ahead: int = 0) -> Tensor:
        """A token for each place of the law, `[r, n]`."""
        return law.draw(self.uniform(law.at.shape[1], purpose, ahead))


def pick(logits: Tensor, sampled: Sampled | None, ahead: int = 0) -> Tensor:
    """logits `[b, n, vocab]` -> tokens `[b, n]`, one per position from `ahead` of the next token on."""
    tokens = logits.argmax(-1)
    if sampled is not None:
        tokens[sampled.at] = sampled.draw(sampled.law(logits), Purpose.DRAW, ahead)
    return tokens


def leading(matches: Tensor) -> Tensor:
    """How many leading entries of each row of the bool tensor `[b, n]` hold: `[b]` int64."""
    return matches.long().cumprod(1).sum(1)


class Drawn(NamedTuple):
    """Drafts of rows that sample, `[r, n]`, and what each was drawn from. `most` `[r]`: how many of the n are drafts at
    all, where rows have fewer."""

    tokens: Tensor
    law: Law
    most: Tensor | None = None


def accept(p: Law, drafts: Drawn, u_accept: Tensor, u_draw: Tensor) -> tuple[Tensor, Tensor]:
    """The accept rule. p `[r, n + 1]`, `u_accept` `[r, n]`, `u_draw` `[r, n + 1]`.

    Returns the number of drafts kept `[r]` and the token that follows them `[r]`.
    """
    n, q = drafts.tokens.shape[1], drafts.law
    px, qx = p.chances(drafts.tokens), q.chances(drafts.tokens)
    # u q <= p, not u <= p / q: no draft with q = 0 divides by it.
    kept = leading(u_accept * qx <= px)
    count = torch.full_like(kept, n) if drafts.most is None else drafts.most
    kept = torch.minimum(kept, count)
    target = p.whole(kept)
    refused = torch.where((kept < count)[:, None], q.whole(kept.clamp(max=n - 1)), 0.0)
    residual = (target - refused).clamp(min=0.0)
    # p equal to q up to rounding: a refusal has probability 0 then, and p is as good as the empty residual.
    residual = torch.where(residual.sum(-1, keepdim=True) > 0, residual, target)
    return kept, invert(residual, u_draw.gather(1, kept[:, None])[:, 0])
