"""Quadratic self-speculation: one forward verifies the last draft and makes the next one.

Behind the seed and each drafted token (the heads, causal) stand masks that draft what follows it, so whichever head
turns out to be the last one kept, a draft behind it is there. It waits in the sequence for the next cycle; a draft
that is lost, or made for other tokens, costs a cycle of one token and nothing else. Drafts are made without the
draft adapter: verification, which must not have it, is the same forward.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch

from trimode_api.modes import OperatingPoint
from trimode_workers.engine.constrained_commit import constrained
from trimode_workers.engine.law import Law
from trimode_workers.engine.modes.speculation import judge
from trimode_workers.engine.primitive import Primitive, Riders
from trimode_workers.engine.processors import processed
from trimode_workers.engine.sampling import Drawn, Purpose, Sampled, leading
from trimode_workers.engine.scores import Scores
from trimode_workers.engine.sequence import Draft, Sequence

_NONE = Draft(0, [], None)


def run(
    primitive: Primitive, sequences: Seq[Sequence], point: OperatingPoint, riders: Riders | None = None
) -> list[list[int]]:
    """One to `block_length` tokens per sequence: the drafts that hold, and the one that follows them."""
    size, blank = point.block_length, primitive.mask_token_id
    drafts = [_valid(s, size - 1) for s in sequences]
    lengths = [len(draft.tokens) if draft.law is None else draft.law.at.shape[1] for draft in drafts]
    # Only a whole draft is a recorded shape. Unrecorded, a forward is as wide as the longest draft of the batch.
    n = size - 1 if primitive.graphs is not None else max(1, *lengths)
    known = [[s.tokens[-1], *draft.tokens] for s, draft in zip(sequences, drafts, strict=True)]
    heads = primitive.tensor([row + [blank] * (n + 1 - len(row)) for row in known])
    sampled = Sampled.among(sequences, heads.device)
    q: Law | None = None
    if sampled is not None:
        # What the drafts of the rows that sample are drawn from; where a place has none, any token.
        like = primitive.network.like.new_empty(0, primitive.network.config.vocab_size)
        q = Law.joined([drafts[i].law for i in sampled.at.tolist()], n, like)
        heads[sampled.at, 1:] = sampled.draw(q, Purpose.DRAFT)

    window = primitive.window([s.row for s in sequences], [s.cached for s in sequences], n + 1)
    masks = heads.new_full((len(sequences), (n + 1) * size), blank)
    hidden = primitive.forward_groups(torch.cat((heads, masks), 1), window, size, riders)
    logits = primitive.network.logits(hidden[:, : n + 1])
    scores = Scores.among(sequences, logits)
    logits = processed(logits, sequences, heads[:, 1:])
    tokens = logits.argmax(-1)
    most = torch.tensor(lengths, device=heads.device)
    kept = torch.minimum(leading(tokens[:, :-1] == heads[:, 1:]), most)
    if sampled is not None and q is not None:
        judge(sampled, sampled.law(logits), Drawn(heads[sampled.at, 1:], q, most[sampled.at]), tokens, kept)

    # The first mask of a group stands where the token that follows its head is known by now.
    first = n + 1 + kept * size + 1
    places = first[:, None] + torch.arange(size - 1, device=heads.device)
    ahead = primitive.network.logits(hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1])))
    # One transfer to Python for the whole batch: the next drafts and the count ride in the last columns.
    rows: list[list[int]] = torch.cat((tokens, ahead.argmax(-1), kept[:, None]), 1).tolist()
    law = None if sampled is None else sampled.law(ahead)
    laws = {} if law is None or sampled is None else {i: law.row(r) for r, i in enumerate(sampled.at.tolist())}
    for i, (sequence, row) in enumerate(zip(sequences, rows, strict=True)):
        at = len(sequence.tokens) + row[-1] + 1
        sequence.draft = Draft(at, row[n + 1 : -1] if i not in laws else [], laws.get(i))
    return constrained([row[: row[-1] + 1] for row in rows], logits, sequences, scores)


def _valid(sequence: Sequence, most: int) -> Draft:
    """What is drafted behind the sequence's tokens as they are now, at most `most` of it."""
    draft = sequence.draft
    if draft is None or draft.at != len(sequence.tokens):
        return _NONE
    return Draft(draft.at, draft.tokens[:most], None if draft.law is None else draft.law.first(most))
