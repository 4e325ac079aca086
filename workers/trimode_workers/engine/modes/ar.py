"""Autoregressive: one causal forward of the seeds, one token each. Nothing here pays for the other modes."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from torch import Tensor

from trimode_api.modes import OperatingPoint
from trimode_workers.engine.constrained_commit import constrained
from trimode_workers.engine.primitive import Primitive, Riders
from trimode_workers.engine.processors import processed
from trimode_workers.engine.sampling import Sampled, pick
from trimode_workers.engine.scores import Scores
from trimode_workers.engine.sequence import Sequence


def run(
    primitive: Primitive, sequences: Seq[Sequence], point: OperatingPoint, riders: Riders | None = None
) -> list[list[int]]:
    """One token per sequence."""
    window = primitive.window([s.row for s in sequences], [s.cached for s in sequences], 1)
    # What AR pays for the other modes cannot be told from noise: 1.00 times as long at 1, 8 and 64 requests, in turns
    # with an engine that has AR alone (docs/architecture.md).
    hidden = primitive.causal(primitive.tensor([s.tokens[-1:] for s in sequences]), window, riders)
    return follow(primitive, sequences, hidden[:, 0])


def follow(primitive: Primitive, sequences: Seq[Sequence], hidden: Tensor) -> list[list[int]]:
    """The token that follows each sequence, by the states of their last tokens `[b, hidden]`."""
    logits = primitive.network.logits(hidden)[:, None]
    scores = Scores.among(sequences, logits)
    logits = processed(logits, sequences)
    tokens: list[list[int]] = pick(logits, Sampled.among(sequences, logits.device)).tolist()
    return constrained(tokens, logits, sequences, scores)
