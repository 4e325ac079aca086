"""Answers that follow a grammar: what a mode has chosen, cut where the grammar refuses it.

Every mode draws its tokens as if there were no grammar. A token that is allowed stands; at the first that is not, one
is drawn anew among those that are. The outcome is distributed as the model's own choice among what is allowed: x
comes with p(x) + (1 - Z) p(x) / Z = p(x) / Z, where Z is the mass of all that is allowed. So a model that follows the
grammar by itself pays for no mask, a speculated row is looked at no further than it was accepted, and requests without
a grammar pay for nothing.

Temperature and top-p come first, then the grammar; where they leave nothing that is allowed, the grammar comes first.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trimode_workers.engine.commit import Commit
from trimode_workers.engine.law import invert
from trimode_workers.engine.messages import Finish
from trimode_workers.engine.sampling import Purpose, Sampled
from trimode_workers.engine.scores import Scores
from trimode_workers.engine.sequence import Sequence
from trimode_workers.grammar.matcher import Matcher

Bound = list[tuple[int, Matcher]]


def constrained(
    rows: list[list[int]], logits: Tensor, sequences: Seq[Sequence], scores: Scores | None = None
) -> list[list[int]]:
    """`rows` with each sequence's tokens cut at the first one that its grammar refuses, and another token drawn there.
    `scores` are given to those who want them.

    Token j of row i was chosen from `logits[i, j]`. Advances the grammars; changes `rows`. A grammar that is complete
    adds its end. Where memory runs out (RuntimeError) the grammars are as before, because the cycle is then
    run again in parts (`shortage`).
    """
    bound = [(i, s.grammar) for i, s in enumerate(sequences) if s.grammar is not None]
    try:
        if bound:
            _follow(rows, logits, sequences, bound)
        if scores is not None:
            scores.note(rows)
    except RuntimeError:
        for i, grammar in bound:
            grammar.undo(len(rows[i]))
        raise
    for i, grammar in bound:
        # Nothing else may follow, so the model is not asked for the end in a cycle of its own.
        if grammar.complete:
            rows[i].append(grammar.end)
    return rows


def _follow(rows: list[list[int]], logits: Tensor, sequences: Seq[Sequence], bound: Bound) -> None:
    """Cut and continue `rows` as the grammars say, which then stand behind them."""
    refused: list[tuple[int, int, Matcher]] = []
    masks: list[NDArray[np.bool_]] = []
    for i, grammar in bound:
        taken = grammar.accept(rows[i])
        # Drafts behind an end are no part of the answer: asked what may stand there, the library allows the end alone
        # and takes no second one (seen with tools, where another call might have followed).
        if taken < len(rows[i]) and not (grammar.complete or grammar.ended or grammar.failure):
            mask = grammar.allowed(logits.shape[-1])
            if mask.any():
                refused.append((i, taken, grammar))
                masks.append(mask)
            else:
                grammar.stuck()
        rows[i] = rows[i][:taken]
    if refused:
        at = [(i, taken) for i, taken, _ in refused]
        chosen = _again(logits, at, torch.from_numpy(np.stack(masks)), [sequences[i] for i, _ in at])
        for (i, _, grammar), token in zip(refused, chosen, strict=True):
            if grammar.accept([token]):
                rows[i].append(token)
            else:
                grammar.stuck()


def _again(logits: Tensor, at: list[tuple[int, int]], allowed: Tensor, sequences: Seq[Sequence]) -> list[int]:
    """A token for each of the places `at` (row, position), among `allowed` `[r, vocab]`."""
    rows, places = torch.tensor(at, device=logits.device).unbind(1)
    allowed = allowed.to(logits.device)
    free = logits[rows, places][:, None]
    bound = free.masked_fill(~allowed[:, None], -torch.inf)
    tokens = bound.argmax(-1)[:, 0]
    sampled = Sampled.among(sequences, logits.device)
    if sampled is not None:
        here = torch.zeros_like(sampled.at)
        p = sampled.law(free).whole(here) * allowed[sampled.at]
        # Top-p may have left nothing that the grammar allows.
        p = torch.where(p.sum(-1, keepdim=True) > 0, p, sampled.law(bound).whole(here))
        places = places[sampled.at, None]
        # Numbers of their own: the one that drew the refused token says where that token lay, and would favour its
        # neighbours.
        u = sampled.uniform(int(places.max()) + 1, Purpose.AGAIN).gather(1, places)[:, 0]
        tokens[sampled.at] = invert(p, u)
    chosen: list[int] = tokens.tolist()
    return chosen


def ended(committed: Commit, proposed: int, sequence: Sequence) -> Commit:
    """What a grammar makes of a commit of `proposed` tokens: an answer that is complete has not been cut off."""
    grammar = sequence.grammar
    if grammar is None:
        return committed
    if grammar.failure:
        return Commit(committed.tokens, Finish.ERROR)
    if committed.finish is Finish.LENGTH and grammar.complete and proposed == len(committed.tokens) + 1:
        return Commit(committed.tokens, Finish.STOP)
    return committed
