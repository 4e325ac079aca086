"""The decoder: embedding, layers, final norm and head, with the published tensor names.

Attention itself is a function handed in by the caller, so that a KV cache (engine) and a dual-stream mask
(training) are the same thing here. Nothing in this module knows of caches, masks or modes.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimode_workers.model.config import ModelConfig
from trimode_workers.model.rotary import angles, inverse_frequencies, query_scale, rotate

if TYPE_CHECKING:
    from trimode_workers.model.fused import FusedDecoder
    from trimode_workers.model.sampler import SamplerHead

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""attend(layer, q `[b, heads, n, head_dim]`, k and v `[b, kv_heads, n, head_dim]`) -> like q.
q and k arrive rotated, q also scaled; attend divides by sqrt(head_dim) (torch's attention does by default)."""


class Network(Protocol):
    """What engines need of a decoder; `Decoder` and `FusedDecoder` both offer it."""

    config: ModelConfig

    @property
    def like(self) -> Tensor:
        """One of its weights: what it computes with has this type and is on this device."""
        ...

    @property
    def drafter(self) -> "Network | None":
        """The network with its draft adapter on; None where it has none."""
        ...

    @property
    def sampler(self) -> "SamplerHead | None":
        """Judges the likeliest tokens at masked places; None where their probability has to do."""
        ...

    def hidden(self, tokens: Tensor, positions: Tensor, attend: Attend, reach: int | None = None) -> Tensor:
        """tokens `[b, n]` int64, positions `[b, n]` -> `[b, n, hidden]` after the final norm.

        `reach`: no position is that high. Without it the positions are read back, for which a GPU has to stop.
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """`[..., hidden]` -> `[..., vocab]`."""
        ...


class Linear(nn.Linear):
    """Without a bias. On the meta device, where weights are assigned later, no values are drawn."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        # A draw on the meta device imports torch._dynamo: 888 modules and as much processor as torch itself (4 s).
        if not self.weight.is_meta:
            super().reset_parameters()


class Embedding(nn.Embedding):
    """As with `Linear`, no values are drawn on the meta device."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class Attention(nn.Module):
    """The four projections; rotation and attention happen in `Decoder.hidden`."""

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.q_proj = Linear(c.hidden_size, c.heads * c.head_dim)
        self.k_proj = Linear(c.hidden_size, c.kv_heads * c.head_dim)
        self.v_proj = Linear(c.hidden_size, c.kv_heads * c.head_dim)
        self.o_proj = Linear(c.heads * c.head_dim, c.hidden_size)


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(c.hidden_size, c.intermediate_size)
        self.up_proj = Linear(c.hidden_size, c.intermediate_size)
        self.down_proj = Linear(c.intermediate_size, c.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.silu(self.gate_proj(x)) * self.up_proj(x), self.down_proj.weight)


class Layer(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(c.hidden_size, eps=c.norm_eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = nn.RMSNorm(c.hidden_size, eps=c.norm_eps)
        self.mlp = Mlp(c)


class Encoder(nn.Module):
    """The trunk, under the name that the published checkpoints use."""

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.layers))
        self.norm = nn.RMSNorm(c.hidden_size, eps=c.norm_eps)


class Decoder(nn.Module):
    """The readable, trainable decoder. `fused()` gives a faster, inference-only one with equal results."""

    drafter = None
    sampler = None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.diffusion_head = Linear(config.hidden_size, config.vocab_size)
        self.frequencies: Tensor
        with torch.device("cpu"):  # no part of a checkpoint: with values also where weights are on the meta device
            frequencies, self.magnitude = inverse_frequencies(config)
        self.register_buffer("frequencies", frequencies, persistent=False)

    @property
    def like(self) -> Tensor:
        """One of its weights."""
        return self.diffusion_head.weight

    def hidden(self, tokens: Tensor, positions: Tensor, attend: Attend, reach: int | None = None) -> Tensor:
        """tokens `[b, n]` int64, positions `[b, n]` -> `[b, n, hidden]` after the final norm. `reach` is not needed."""
        c = self.config
        x: Tensor = self.encoder.embed_tokens(tokens)
        turn = angles(positions, self.frequencies)
        cos, sin = turn.cos() * self.magnitude, turn.sin() * self.magnitude
        cos, sin = torch.cat((cos, cos), -1).to(x.dtype), torch.cat((-sin, sin), -1).to(x.dtype)
        scale = query_scale(positions, c.rope).to(x.dtype) if c.rope.query_scaling_beta else None
        b, n = tokens.shape
        for index, layer in enumerate(self.encoder.layers):
            assert isinstance(layer, Layer)
            attention = layer.self_attn
            y = layer.input_layernorm(x)
            q = attention.q_proj(y).view(b, n, c.heads, c.head_dim).transpose(1, 2)
            k = attention.k_proj(y).view(b, n, c.kv_heads, c.head_dim).transpose(1, 2)
            v = attention.v_proj(y).view(b, n, c.kv_heads, c.head_dim).transpose(1, 2)
            q = rotate(q, cos, sin)
            if scale is not None:
                q = q * scale
            o = attend(index, q, rotate(k, cos, sin), v).transpose(1, 2).reshape(b, n, -1)
            x = x + attention.o_proj(o)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        out: Tensor = self.encoder.norm(x)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """`[..., hidden]` -> `[..., vocab]`."""
        out: Tensor = self.diffusion_head(hidden)
        return out

    def fused(self, device: torch.device | None = None) -> "FusedDecoder":
        """An inference-only copy with packed weights (see `fused`); later changes here do not reach it.

        On `device` (None: where this one is), tensor by tensor: a device never holds both copies.
        """
        from trimode_workers.model.fused import FusedDecoder

        return FusedDecoder(self, device)
