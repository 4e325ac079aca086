"""Rotary position embedding of the Ministral 3 family: plain or YaRN frequencies, and the query scaling.

Pure tensor functions of positions; the decoder computes the rotation once per forward and applies it in every
layer. Formulas: YaRN (arXiv 2309.00071, sections 3.2 to 3.4); halves are rotated, not interleaved pairs.
"""

import math

import torch
from torch import Tensor

from trimode_workers.model.config import ModelConfig, RopeConfig


def inverse_frequencies(config: ModelConfig) -> tuple[Tensor, float]:
    """The angle per position of each pair `[head_dim / 2]` (float32), and the factor on cos and sin."""
    rope, dim = config.rope, config.head_dim
    plain = 1.0 / rope.theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    if rope.kind == "default":
        return plain, 1.0

    def pair_turning(times: float) -> float:
        return dim * math.log(rope.original_max_positions / (times * 2 * math.pi)) / (2 * math.log(rope.theta))

    # Pairs that turn often in the original context are kept, those that hardly turn interpolated, between them a ramp.
    low = max(math.floor(pair_turning(rope.beta_fast)), 0)
    high = min(math.ceil(pair_turning(rope.beta_slow)), dim - 1)
    width = high - low if high != low else 0.001  # a step instead of a division by zero
    keep = 1.0 - ((torch.arange(dim // 2, dtype=torch.float32) - low) / width).clamp(0, 1)

    def magnitude(scale: float) -> float:
        return 1.0 if rope.factor <= 1 else 0.1 * scale * math.log(rope.factor) + 1.0

    factor = magnitude(1.0)
    if rope.mscale and rope.mscale_all_dim:
        factor = magnitude(rope.mscale) / magnitude(rope.mscale_all_dim)
    # The published factor, never one worked out from the lengths: the 3B base model says 0.25, with 4,096 positions.
    return plain / rope.factor * (1.0 - keep) + plain * keep, factor


def angles(positions: Tensor, frequencies: Tensor) -> Tensor:
    """positions `[b, n]` -> angles `[b, 1, n, head_dim / 2]` in float32, to be broadcast over heads."""
    return positions[:, None, :, None].float() * frequencies


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate `x[b, heads, n, head_dim]`; cos and sin are `[b, 1, n, head_dim]`, sin negative in its first half."""
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin


def query_scale(positions: Tensor, rope: RopeConfig) -> Tensor:
    """positions `[b, n]` -> factor on the query `[b, 1, n, 1]`; exactly 1 within the original context."""
    turns = torch.floor(positions.float() / rope.original_max_positions)
    return (1.0 + rope.query_scaling_beta * torch.log1p(turns))[:, None, :, None]
