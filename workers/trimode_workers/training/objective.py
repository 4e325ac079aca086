"""The joint objective: AR loss + weight x diffusion loss, each a mean over the tokens of the whole step."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trimode_workers.model import Decoder
from trimode_workers.training.batches import Batch
from trimode_workers.training.noise import Noised, clean_mask, noisy_mask


@dataclass(frozen=True)
class Losses:
    """Sums over tokens (nats), to be divided by the step's totals."""

    ar: Tensor
    diffusion: Tensor


class DualStream:
    """The `attend` of training: columns `[:clean]` are the clean stream, the rest is the noisy one."""

    def __init__(self, batch: Batch, starts: Tensor) -> None:
        self.clean = batch.tokens.shape[1]
        self.clean_bias = _bias(clean_mask(batch))
        self.noisy_bias = _bias(noisy_mask(batch, starts))

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n, attention = self.clean, F.scaled_dot_product_attention
        # the CPU's flash attention is many times slower in bfloat16, backwards above all
        with torch.autocast("cpu", enabled=False):
            q, k, v = q.float(), k.float(), v.float()
            clean = attention(q[:, :, :n], k[:, :, :n], v[:, :, :n], self.clean_bias, enable_gqa=True)
            noisy = attention(q[:, :, n:], k, v, self.noisy_bias, enable_gqa=True)
        return torch.cat((clean, noisy), 2)


def _bias(mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape).masked_fill_(~mask, float("-inf"))


def losses(model: Decoder, batch: Batch, noised: Noised) -> Losses:
    """One forward over both streams."""
    clean, start = batch.tokens, batch.prompt_columns
    answers, width = batch.answers, clean.shape[1]
    columns = torch.arange(width)
    positions = torch.cat((columns, columns[start:])).expand(len(clean), -1)
    attend = DualStream(batch, noised.block_starts)
    hidden = model.hidden(torch.cat((clean, noised.tokens), 1), positions, attend)
    written = torch.arange(width - start) < batch.answer_lengths[:, None]
    ar_logits = model.logits(hidden[:, start - 1 : width - 1][written]).float()
    ar = F.cross_entropy(ar_logits, answers[written], reduction="sum")
    guesses = model.logits(hidden[:, width:][noised.hidden]).float()
    each = F.cross_entropy(guesses, answers[noised.hidden], reduction="none")
    return Losses(ar, (each * noised.weights[noised.hidden]).sum())
