"""The decoder for inference: fewer, larger operations.

At small batches a forward is bound by the number of operations, not by arithmetic. So q, k and v are one
matrix, gate and up are one, norm weights are folded into the matrix behind them, residual additions ride on the
matrix product, and a norm is three operations. Results equal `Decoder`'s up to rounding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from trimode_workers.model.decoder import Attend, Decoder, Layer
from trimode_workers.model.rotary import angles, query_scale, rotate


class _FusedLayer:
    """One layer's packed weights, the norms' ones folded in times `gain`."""

    def __init__(self, layer: Layer, gain: float) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        before, after = layer.input_layernorm.weight * gain, layer.post_attention_layernorm.weight * gain
        qkv = torch.cat((attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight))
        self.qkv = (qkv * before).detach()
        self.o = attention.o_proj.weight.detach().t()
        self.gate_up = (torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight)) * after).detach()
        self.down = mlp.down_proj.weight.detach().t()


class FusedDecoder:
    """Same contract as `Decoder`, inference only; holds copies of the packed weights."""

    def __init__(self, decoder: Decoder) -> None:
        c = decoder.config
        self.config = c
        self.embedding = decoder.encoder.embed_tokens.weight.detach()
        # x / hypot(|x|, sqrt(h eps)) is RMSNorm over sqrt(h); below float32 the sum of squares would be too coarse
        self._quick = self.embedding.dtype == torch.float32
        gain = c.hidden_size**0.5 if self._quick else 1.0
        self._floor = torch.tensor((c.hidden_size * c.norm_eps) ** 0.5, device=self.embedding.device)
        self.layers = [_FusedLayer(layer, gain) for layer in decoder.encoder.layers if isinstance(layer, Layer)]
        self.norm = (decoder.encoder.norm.weight * gain).detach()
        self.head = decoder.diffusion_head.weight.detach()
        self.frequencies = decoder.frequencies
        self.magnitude = decoder.magnitude

    def hidden(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """tokens `[b, n]` int64, positions `[b, n]` -> `[b, n, hidden]` after the final norm."""
        c = self.config
        b, n = tokens.shape
        x = F.embedding(tokens.reshape(-1), self.embedding)
        turn = angles(positions, self.frequencies)
        cos, sin = turn.cos(), turn.sin()
        if self.magnitude != 1.0:
            cos, sin = cos * self.magnitude, sin * self.magnitude
        cos, sin = torch.cat((cos, cos), -1).to(x.dtype), torch.cat((-sin, sin), -1).to(x.dtype)
        scale = query_scale(positions, c.rope).to(x.dtype) if c.rope.query_scaling_beta else None
        turned = c.heads + c.kv_heads
        for index, layer in enumerate(self.layers):
            heads = F.linear(self._normed(x), layer.qkv).view(b, n, -1, c.head_dim).transpose(1, 2)
            qk = rotate(heads[:, :turned], cos, sin)
            q = qk[:, : c.heads] if scale is None else qk[:, : c.heads] * scale
            o = attend(index, q, qk[:, c.heads :], heads[:, turned:])
            x = torch.addmm(x, o.transpose(1, 2).reshape(b * n, -1), layer.o)
            gate, up = F.linear(self._normed(x), layer.gate_up).chunk(2, -1)
            x = torch.addmm(x, F.silu(gate) * up, layer.down)
        return (self._normed(x) * self.norm).view(b, n, -1)

    def logits(self, hidden: Tensor) -> Tensor:
        """`[..., hidden]` -> `[..., vocab]`."""
        return F.linear(hidden, self.head)

    def _normed(self, x: Tensor) -> Tensor:
        """RMSNorm without its weight (over sqrt(hidden) in float32, which the weights make up for)."""
        if self._quick:
            return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self._floor)
        return F.rms_norm(x, (self.config.hidden_size,), None, self.config.norm_eps)
