"""Logits as requests want them: biases, barred tokens and penalties, before anything is chosen from them.

A verification has logits of several places at once, and what a penalty takes off at one of them depends on the drafts
before it. So the tokens of the sequence count for all places alike, over the whole vocabulary; the few ids that are
drafted are then worked out again, place by place, by the same arithmetic. What is chosen there is exactly what would
have been chosen one token at a time. Drafts themselves are made without any of it: that costs tokens, not exactness.

Rows that want none of it are not touched, a batch without any pays for one look at each request.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from trimode_workers.engine.law import at_once
from trimode_workers.engine.messages import Adjustments
from trimode_workers.engine.sequence import History, Sequence

Penalised = list[tuple[int, Sequence, Adjustments]]


def processed(logits: Tensor, sequences: Seq[Sequence], drafts: Tensor | None = None) -> Tensor:
    """logits `[b, n, vocab]` -> the same as the requests want them, float32; or `logits` themselves where none wants
    anything. Overwrites those of float32.

    drafts `[b, n - 1]`: the tokens assumed before the places 1 to n - 1, behind those that each sequence has.
    """
    wanted = [(i, s, s.adjustments) for i, s in enumerate(sequences) if s.adjustments is not None]
    if not wanted:
        return logits
    # bfloat16 has no numbers between 16 and 16.125: a penalty of 0.05 would be lost.
    logits = logits.float()
    biases = [(i, token, value) for i, _, a in wanted for token, value in a.bias.items()]
    if biases:
        rows, tokens, values = zip(*biases, strict=True)
        at = torch.tensor([rows, tokens], device=logits.device)
        # A view `[b, vocab, n]`: each pair of row and token is there once, so nothing has to accumulate.
        logits.transpose(1, 2)[at[0], at[1]] += torch.tensor(values, device=logits.device)[:, None]
    _bar(logits, wanted, drafts)
    penalised = [each for each in wanted if each[2].penalises]
    n, vocab = logits.shape[1:]
    size = max(1, at_once(len(penalised) * n * vocab) // (n * vocab))
    for start in range(0, len(penalised), size):
        _penalise(logits, penalised[start : start + size], drafts)
    return logits


def _bar(logits: Tensor, wanted: Penalised, drafts: Tensor | None) -> None:
    """Ids that are not allowed, words that may not come, and ends that may not come yet."""
    n = logits.shape[1]
    at = [
        (i, place, end)
        for i, s, a in wanted
        for place in range(min(n, a.min_tokens - (len(s.tokens) - s.begin)))
        for end in s.eos
    ]
    for i, s, a in wanted:
        if a.allowed is not None:
            others = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
            others[torch.tensor(a.allowed, device=logits.device)] = False
            logits[i].masked_fill_(others, -torch.inf)
        if not a.banned:
            continue
        longest = max(map(len, a.banned))
        line = s.tokens[max(0, len(s.tokens) - longest) :]
        first = len(line)
        if longest > 1 and drafts is not None:
            line = line + drafts[i].tolist()
        for *before, last in a.banned:
            for place in range(n):
                upto = first + place
                if not before or (len(before) <= upto and line[upto - len(before) : upto] == before):
                    at.append((i, place, last))
    if at:
        rows, places, tokens = torch.tensor(at, device=logits.device).unbind(1)
        logits[rows, places, tokens] = -torch.inf


def _penalise(logits: Tensor, wanted: Penalised, drafts: Tensor | None) -> None:
    device = logits.device
    at = torch.tensor([i for i, _, _ in wanted], device=device)
    # Counted once for all places of the verification; what drafts add is worked out below, id by id.
    history = [_history(s, logits.shape[-1], device) for _, s, _ in wanted]
    seen, answered = torch.stack([h.seen for h in history]), torch.stack([h.answered for h in history])
    settings = torch.tensor([[a.repetition, a.presence, a.frequency] for _, _, a in wanted], device=device)
    raw = logits[at]
    logits[at] = penalised(raw, seen[:, None], answered[:, None], settings)
    if drafts is None or drafts.shape[1] == 0:
        return
    columns = drafts[at]
    n, m = logits.shape[1], columns.shape[1]
    # How often each drafted id is among the drafts before a place: `[p, n, m]`.
    same = (columns[:, :, None] == columns[:, None, :]).float().cumsum(1)
    again = torch.cat((torch.zeros_like(same[:, :1]), same), 1)
    spread = columns[:, None].expand(-1, n, -1)
    values = penalised(
        raw.gather(-1, spread),
        seen.gather(-1, columns)[:, None].expand(-1, n, -1) | (again > 0),
        answered.gather(-1, columns)[:, None] + again,
        settings,
    )
    rows = at[:, None, None].expand(-1, n, m)
    places = torch.arange(n, device=device)[None, :, None].expand(len(wanted), -1, m)
    logits[rows, places, spread] = values  # an id drafted twice has the same value twice


def penalised(logits: Tensor, seen: Tensor, answered: Tensor, settings: Tensor) -> Tensor:
    """logits `[p, n, any]`, `seen` and `answered` broadcast to it, settings `[p, 3]` (`Adjustments`) -> new logits."""
    repetition, presence, frequency = (settings[:, k, None, None] for k in range(3))
    repeated = torch.where(logits > 0, logits / repetition, logits * repetition)
    return torch.where(seen, repeated, logits) - (answered > 0) * presence - answered * frequency


def _history(sequence: Sequence, vocab: int, device: torch.device) -> History:
    """Brought up to the sequence's tokens. It follows from them alone, on whatever replica the request began."""
    history = sequence.history
    if history is None:
        empty = torch.zeros(vocab, dtype=torch.bool, device=device), torch.zeros(vocab, device=device)
        history = sequence.history = History(*empty)
    upto, begin, tokens = history.upto, sequence.begin, sequence.tokens
    if upto < len(tokens):
        news = torch.tensor(tokens[upto:], device=device)
        history.seen[news] = True
        answer = news[max(0, begin - upto) :]
        # Not `answered[answer] += 1`, which counts an id once that comes several times in one cycle.
        history.answered.index_add_(0, answer, torch.ones(len(answer), device=device))
        history.upto = len(tokens)
    return history
