"""How likely the model found the tokens of an answer, for requests that ask for it (`logprobs`).

What is told is the model's own opinion, a softmax over its logits as they are: before biases, penalties, temperature
and cuts, as vLLM has it. In a verification the logits of a place that holds are those that autoregression would have
had there, so the figures are its, too.

Only places that are emitted are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from trimode_workers.engine.law import parts
from trimode_workers.engine.messages import Score
from trimode_workers.engine.sequence import Sequence
from trimode_workers.model.decoder import Network


class Scores:
    """Of those of a batch that ask for them."""

    def __init__(self, sequences: Seq[Sequence], logits: Tensor) -> None:
        """logits `[b, n, vocab]`, as the model gave them."""
        self._wanted = [(i, s, s.logprobs) for i, s in enumerate(sequences) if s.logprobs is not None]
        # What comes next may overwrite the logits.
        kept = any(s.adjustments is not None for _, s, _ in self._wanted)
        self._logits = logits.clone() if kept else logits

    @classmethod
    def among(cls, sequences: Seq[Sequence], logits: Tensor) -> Scores | None:
        """None where nobody asks."""
        return cls(sequences, logits) if any(s.logprobs is not None for s in sequences) else None

    def note(self, rows: Seq[Seq[int]]) -> None:
        """Give each sequence the scores of the tokens in its row, token j of row i chosen from `logits[i, j]`. What is
        longer than the logits ends with an end that is not emitted."""
        n = self._logits.shape[1]
        at = [(i, j, token) for i, _, _ in self._wanted for j, token in enumerate(rows[i][:n])]
        if not at:
            return
        found = iter(scored(self._logits.flatten(0, 1), at, n, max(count for _, _, count in self._wanted)))
        for i, sequence, count in self._wanted:
            of_row = [next(found) for _ in rows[i][:n]]
            sequence.scores = [Score(s.logprob, s.ids[:count], s.logprobs[:count]) for s in of_row]


def note_prompt(sequence: Sequence, states: Tensor, network: Network) -> None:
    """Keep the scores of a piece of its prompt. states `[n, hidden]` of its tokens from `cached` on; each says how
    likely the token behind it is."""
    start, top = sequence.cached, sequence.prompt_logprobs
    behind = sequence.tokens[start + 1 : min(start + 1 + len(states), sequence.begin)]
    if top is None or not behind:
        return
    found: list[Score] = []
    for part in parts(
        len(behind), network.config.vocab_size
    ):  # all logits of a piece of 2,048 tokens of the 8B are 0.5 GB
        at = [(0, j, token) for j, token in enumerate(behind[part])]
        found += scored(network.logits(states[part]), at, 0, top, ranks=True)
    # Of a request that was preempted they are computed again: the same ones, in their places.
    sequence.prompt_scores[start : start + len(found)] = found


def scored(logits: Tensor, at: Seq[tuple[int, int, int]], n: int, top: int, *, ranks: bool = False) -> list[Score]:
    """The score of each (row, place, token), the place's logits being at row * n + place of `[any, vocab]`; with the
    `top` likeliest tokens there."""
    rows, places, tokens = torch.tensor(at, device=logits.device).unbind(1)
    lines, out = rows * n + places, []
    for part in parts(len(at), logits.shape[1]):
        whole = logits.index_select(0, lines[part]).float()
        whole -= whole.logsumexp(-1, keepdim=True)
        chosen = whole.gather(1, tokens[part, None])
        best = whole.topk(min(top, whole.shape[1]), -1)
        rank = (whole > chosen).sum(-1) + 1 if ranks else torch.zeros_like(lines[part])
        told = chosen[:, 0].tolist(), best.indices.tolist(), best.values.tolist(), rank.tolist()
        out += [Score(*each) for each in zip(*told, strict=True)]
    return out
