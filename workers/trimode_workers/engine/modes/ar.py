"""Autoregressive: one causal forward of the seeds, one token each. Nothing here pays for the other modes.

What is missing of a prompt rides along in the same forward: beside a batch of seeds it costs little.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

from trimode_api.modes import OperatingPoint
from trimode_workers.engine.constrained_commit import constrained
from trimode_workers.engine.primitive import Primitive
from trimode_workers.engine.processors import processed
from trimode_workers.engine.sampling import Sampled, pick
from trimode_workers.engine.scores import Scores
from trimode_workers.engine.sequence import Sequence


def run(primitive: Primitive, sequences: Seq[Sequence], point: OperatingPoint) -> list[list[int]]:
    """One token per sequence, after whatever of its tokens is not cached yet."""
    pieces = [s.tokens[s.cached :] for s in sequences]
    hidden = primitive.advance(pieces, [s.row for s in sequences], [s.cached for s in sequences])
    for sequence in sequences:
        sequence.cached += sequence.missing
    logits = primitive.network.logits(hidden)[:, None]
    scores = Scores.among(sequences, logits)
    logits = processed(logits, sequences)
    tokens: list[list[int]] = pick(logits, Sampled.among(sequences, logits.device)).tolist()
    return constrained(tokens, logits, sequences, scores)
