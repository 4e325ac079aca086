"""The decoder for inference: fewer, larger operations.

At small batches a forward is bound by the number of operations and by reading weights, not by arithmetic. So q, k
and v are one matrix, gate and up are one, all are stored `[in, out]` (small products run up to 1.8 times faster),
norm weights are folded into the matrix behind them, residual additions ride on the matrix product, a norm is three
operations, and rotation is one complex product: the dimensions of q and k are reordered so that rotated pairs are
neighbours, which leaves their products unchanged. On CPUs products of many tokens go to oneDNN (`products`). Results
equal `Decoder`'s up to rounding.
"""

from collections.abc import Sequence
from copy import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from trimode_workers.model.decoder import Attend, Decoder, Layer
from trimode_workers.model.products import Product, packable
from trimode_workers.model.rotary import query_scale
from trimode_workers.model.sampler import SamplerHead

_FIRST_POSITIONS = 4096
"""Length of the first rotation table; it at least doubles when a position lies beyond it."""


class FusedDecoder:
    """Same contract as `Decoder`, inference only, with packed copies of the weights.

    `attend` gets the dimensions of q and k reordered, which no product of the two can tell.
    """

    def __init__(self, decoder: Decoder, device: torch.device | None = None, *, pack: bool = True) -> None:
        """`pack`: keep the weights for oneDNN too, where that is of use."""
        c = decoder.config
        self.config = c
        self.embedding = decoder.encoder.embed_tokens.weight.detach().to(device)
        # x / hypot(|x|, sqrt(h eps)) is RMSNorm over sqrt(h); below float32 the sum of squares would be too coarse
        self._quick = self.embedding.dtype == torch.float32
        gain = c.hidden_size**0.5 if self._quick else 1.0
        self._floor = torch.tensor((c.hidden_size * c.norm_eps) ** 0.5, device=self.embedding.device)
        layers = (layer for layer in decoder.encoder.layers if isinstance(layer, Layer))
        pack = pack and packable(self.embedding, sum(weight.numel() for weight in decoder.parameters()))
        self.layers = [_FusedLayer(layer, gain, c.head_dim, device, pack) for layer in layers]
        self.norm = (decoder.encoder.norm.weight * gain).detach().to(device)
        self.head = Product(_turned(decoder.diffusion_head.weight.to(device)), pack=pack)
        self.like = self.head.weight
        self.frequencies, self.magnitude = decoder.frequencies.to(device), decoder.magnitude
        self._turns = self._table(_FIRST_POSITIONS)
        self._outgrown: list[Tensor] = []
        self.drafter: FusedDecoder | None = None
        self.sampler: SamplerHead | None = None

    def adapt(self, outputs: Sequence[Tensor]) -> None:
        """Make `drafter`: this network with other `o_proj` weights `[hidden, heads * head_dim]`; shares the rest."""
        drafter = copy(self)
        drafter.layers = [layer.with_output(weight) for layer, weight in zip(self.layers, outputs, strict=True)]
        self.drafter = drafter

    def hidden(self, tokens: Tensor, positions: Tensor, attend: Attend, reach: int | None = None) -> Tensor:
        """tokens `[b, n]` int64, positions `[b, n]`, all below `reach` -> `[b, n, hidden]` after the final norm."""
        c = self.config
        b, n = tokens.shape
        heads, rotated = c.heads, c.heads + c.kv_heads
        x = F.embedding(tokens.reshape(-1), self.embedding)
        turn, scale = self._turn(positions, int(positions.max()) + 1 if reach is None else reach)
        for index, layer in enumerate(self.layers):
            qkv = layer.qkv(self._normed(x)).view(b, n, -1, c.head_dim)
            pairs = torch.view_as_complex(torch.unflatten(qkv[:, :, :rotated].float(), -1, (-1, 2)))
            qk = torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype).transpose(1, 2)
            q = qk[:, :heads] if scale is None else qk[:, :heads] * scale
            o = attend(index, q, qk[:, heads:], qkv[:, :, rotated:].transpose(1, 2))
            x = layer.o.onto(x, o.transpose(1, 2).reshape(b * n, -1))
            gate, up = layer.gate_up(self._normed(x)).chunk(2, -1)
            x = layer.down.onto(x, F.silu(gate).mul_(up))
        return self._normed(x).mul_(self.norm).view(b, n, -1)

    def logits(self, hidden: Tensor) -> Tensor:
        """`[..., hidden]` -> `[..., vocab]`."""
        return self.head(hidden.flatten(0, -2)).view(*hidden.shape[:-1], -1)

    def _normed(self, x: Tensor) -> Tensor:
        """RMSNorm without its weight (over sqrt(hidden) in float32, which the weights make up for)."""
        if self._quick:
            return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self._floor)
        return F.rms_norm(x, (self.config.hidden_size,), None, self.config.norm_eps)

    def _turn(self, positions: Tensor, reach: int) -> tuple[Tensor, Tensor | None]:
        """positions `[b, n]` -> complex rotation `[b, n, 1, head_dim / 2]`, and the query's factor where not 1."""
        rope = self.config.rope
        if reach > self._turns.shape[0]:
            # Forwards that another engine has recorded read the table at its address for as long as they live.
            self._outgrown.append(self._turns)
            self._turns = self._table(max(reach, 2 * self._turns.shape[0]))
        turn = torch.view_as_complex(torch.unflatten(self._turns[positions], -1, (1, -1, 2)))
        # The factor is exactly 1 up to there, so that most forwards need no product for it.
        if not rope.query_scaling_beta or reach <= rope.original_max_positions:
            return turn, None
        return turn, query_scale(positions, rope).to(self.embedding.dtype)

    def _table(self, count: int) -> Tensor:
        """Cosine and sine of every pair at positions 0 to `count - 1`: `[count, head_dim]`, interleaved."""
        angles = torch.arange(count, device=self.frequencies.device)[:, None].float() * self.frequencies
        return torch.stack((angles.cos(), angles.sin()), -1).flatten(1) * self.magnitude


class _FusedLayer:
    """One layer's packed weights, `[in, out]`, the norms' ones folded in times `gain`."""

    def __init__(self, layer: Layer, gain: float, head_dim: int, device: torch.device | None, pack: bool) -> None:
        w = {name: weight.detach().to(device) for name, weight in layer.named_parameters()}
        before, after = w["input_layernorm.weight"] * gain, w["post_attention_layernorm.weight"] * gain
        # Outputs of each head reordered so that the two halves of a rotated pair follow one another.
        given = [w[f"self_attn.{part}_proj.weight"] for part in "qk"]
        q, k = (x.view(-1, 2, head_dim // 2, x.shape[-1]).transpose(1, 2).reshape(x.shape) for x in given)
        self._pack = pack
        self.qkv = self._product(torch.cat((q, k, w["self_attn.v_proj.weight"])) * before)
        self.o = self._product(w["self_attn.o_proj.weight"])
        self.gate_up = self._product(torch.cat((w["mlp.gate_proj.weight"], w["mlp.up_proj.weight"])) * after)
        self.down = self._product(w["mlp.down_proj.weight"])

    def with_output(self, weight: Tensor) -> "_FusedLayer":
        """The same layer with another `o_proj`."""
        other = copy(self)
        other.o = self._product(weight.to(self.o.weight.device))
        return other

    def _product(self, weight: Tensor) -> Product:
        return Product(_turned(weight), pack=self._pack)


def _turned(weight: Tensor) -> Tensor:
    return weight.detach().t().contiguous()
