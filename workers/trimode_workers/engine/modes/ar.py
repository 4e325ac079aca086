"""Autoregressive: one causal forward of the seeds, one token each. Nothing here pays for the other modes."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from trimode_api.modes import OperatingPoint
from trimode_workers.engine.primitive import Attention, Primitive
from trimode_workers.engine.sampling import Sampled, pick
from trimode_workers.engine.sequence import Sequence


def run(primitive: Primitive, sequences: Seq[Sequence], point: OperatingPoint) -> list[list[int]]:
    """One token per sequence."""
    window = primitive.window([s.row for s in sequences], [s.cached for s in sequences], 1)
    seeds = primitive.tensor([[s.tokens[-1]] for s in sequences])
    logits = primitive.forward(seeds, window, Attention.CAUSAL)
    tokens: list[list[int]] = pick(logits, Sampled.among(sequences, seeds.device)).tolist()
    return tokens
