"""How large the measurements are: a random 8B on a GPU, a toy elsewhere, and their random weights.

Belongs here: shapes and numbers of requests, no measurement.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trimode_workers.model.config import ModelConfig, RopeConfig
from trimode_workers.model.decoder import Decoder
from trimode_workers.model.fused import FusedDecoder


@dataclass(frozen=True, slots=True)
class Size:
    """`rows`: requests at once; `prompt`: tokens of each; `contexts`: of the attention measurements; `pool`: tokens
    of keys that those may take."""

    config: ModelConfig
    dtype: torch.dtype
    rows: tuple[int, ...]
    points: tuple[str, ...]
    prompt: int
    cycles: int
    contexts: tuple[int, ...]
    pool: int


NEMOTRON_8B = ModelConfig(
    vocab_size=131072,
    hidden_size=4096,
    intermediate_size=14336,
    layers=34,
    heads=32,
    kv_heads=8,
    head_dim=128,
    max_positions=262144,
    mask_token_id=100,
    eos_token_ids=(11,),
    rope=RopeConfig("yarn", 1e6, 16.0, 16384, 32.0, 1.0, 1.0, 1.0, 0.1),
)
"""The published shapes of the 8B."""

TOY = ModelConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    max_positions=4096,
    mask_token_id=0,
    eos_token_ids=(1,),
)

FULL = Size(
    NEMOTRON_8B,
    torch.bfloat16,
    (1, 8, 64, 128),
    ("AR", "S8", "S16", "S32"),
    1000,
    12,
    (1024, 16384, 32768),
    2**20,
)
SMALL = Size(TOY, torch.float32, (1, 3), ("AR", "S8"), 20, 2, (64, 128), 512)


def random_network(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> FusedDecoder:
    """A decoder of these shapes whose weights say nothing; made on the device, which holds them twice for a while."""
    generator = torch.Generator(device).manual_seed(0)
    with torch.device("meta"):
        decoder = Decoder(config)
    weights = {
        name: torch.ones(p.shape, dtype=dtype, device=device)
        if p.ndim == 1  # norms
        else torch.empty(p.shape, dtype=dtype, device=device).normal_(std=p.shape[-1] ** -0.5, generator=generator)
        for name, p in decoder.named_parameters()
    }
    decoder.load_state_dict(weights, assign=True)
    return decoder.eval().requires_grad_(False).fused(device)


def parameters(config: ModelConfig) -> int:
    """Weights that one forward reads: all but the embedding, of which it reads a row per token."""
    wide, head = config.hidden_size, config.head_dim
    layer = wide * head * (2 * config.heads + 2 * config.kv_heads) + 3 * wide * config.intermediate_size
    return config.layers * layer + config.vocab_size * wide
