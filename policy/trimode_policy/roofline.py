"""How long one cycle should take on given hardware: a prior, to be corrected by measurement.

Belongs here: the roofline itself and how a model's shape becomes its numbers. Hardware figures are in `profiles`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import isfinite

from trimode_api.modes import Mode, OperatingPoint

DIFFUSION_TOKENS_PER_FORWARD = 2.5
"""Tokens fixed per forward of a diffusion block, its final causal forward included (model's paper: 2.57)."""
STEPPED_FORWARDS = 3.0
"""Forwards of a cycle whose draft is made in steps, before anything is measured: two steps and the verification."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What the roofline needs of a dense decoder: `parameters` weights of `bytes_per_value` bytes each, and per layer
    keys and values of `kv_heads * head_dim` values for each token."""

    parameters: int
    layers: int
    kv_heads: int
    head_dim: int
    bytes_per_value: int


@dataclass(frozen=True, slots=True)
class Roofline:
    """Seconds per cycle from bandwidth, arithmetic and a fixed cost per forward.

    One forward over `batch` rows of `q` tokens each takes
    `overhead + max(bytes read / bandwidth, operations / arithmetic speed)`; it reads the weights once and the
    cached keys and values of every row once (Williams, Waterman, Patterson: Roofline, 2009).

    `bytes_per_s` and `flops_per_s`: what is really reached, not the data sheet's peak.
    `overhead_s`: launch and interpreter cost per forward. `weight_bytes`: read per forward.
    `flops_per_token`: multiply-adds counted as two. `kv_bytes_per_token`: cached bytes per token of context.
    Raises ValueError for a number that is negative, or zero where it divides.
    """

    bytes_per_s: float
    flops_per_s: float
    overhead_s: float
    weight_bytes: float
    flops_per_token: float
    kv_bytes_per_token: float

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            positive = field.name.endswith("_per_s")
            if not isfinite(value) or value < 0 or (positive and value == 0):
                allowed = "a finite number above 0" if positive else "a finite number of at least 0"
                raise ValueError(f"roofline: {field.name} is {value}, must be {allowed}")

    @classmethod
    def for_model(cls, shape: ModelShape, *, flops_per_s: float, bytes_per_s: float, overhead_s: float) -> Roofline:
        """The roofline of a model of that shape: two operations per parameter and token."""
        return cls(
            bytes_per_s=bytes_per_s,
            flops_per_s=flops_per_s,
            overhead_s=overhead_s,
            weight_bytes=float(shape.parameters * shape.bytes_per_value),
            flops_per_token=2.0 * shape.parameters,
            kv_bytes_per_token=2.0 * shape.layers * shape.kv_heads * shape.head_dim * shape.bytes_per_value,
        )

    def read_seconds(self, rows: float, context_tokens: float) -> float:
        """Seconds to read the weights once and the cached keys and values of `rows` requests."""
        return (self.weight_bytes + self.kv_bytes_per_token * rows * context_tokens) / self.bytes_per_s

    def bound_seconds(self, read_s: float, tokens: float) -> float:
        """Seconds of one forward over `tokens` new tokens in all that reads for `read_s`."""
        # No term for attention: fitted to the packaged model it is within 16 % of half the cycles, too low for AR at 64
        # requests and too high at one. It only has to be a start, measurements take over.
        compute_s = self.flops_per_token * tokens / self.flops_per_s
        return self.overhead_s + (read_s if read_s > compute_s else compute_s)

    def seconds(self, point: OperatingPoint, batch: int, context_tokens: float) -> float:
        """Seconds of one cycle of `point` over `batch` requests with `context_tokens` cached tokens each (mean)."""
        return forwards(point) * self.bound_seconds(self.read_seconds(batch, context_tokens), batch * point.width)

    def prefill_seconds(self, tokens: int, point: OperatingPoint | None = None) -> float:
        """Seconds of one forward over `tokens` prompt tokens; the same beside any `point`."""
        return self.bound_seconds(self.read_seconds(1, 0.0), tokens)


def forwards(point: OperatingPoint) -> float:
    """Expected forwards per cycle; for diffusion a block takes as many as its tokens need, at least two."""
    if point.mode is not Mode.DIFFUSION:
        return float(point.forwards_per_cycle) if point.threshold is None else STEPPED_FORWARDS
    return max(2.0, point.block_length / DIFFUSION_TOKENS_PER_FORWARD)
