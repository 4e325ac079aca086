"""The joint objective: AR loss + weight x diffusion loss, each a mean over the tokens of the whole step."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trimode_lab.training.batches import Batch
from trimode_lab.training.noise import Noised, clean_mask, noisy_mask
from trimode_workers.model import Decoder


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
    hidden, width = both_streams(model, batch, noised), batch.tokens.shape[1]
    answers = batch.blocks[:, 1:]
    written = torch.arange(answers.shape[1]) < batch.answer_lengths[:, None]
    ar_logits = model.logits(hidden[:, batch.first : width - 1][written]).float()
    ar = F.cross_entropy(ar_logits, answers[written], reduction="sum")
    guesses = model.logits(hidden[:, width:][noised.hidden]).float()
    each = F.cross_entropy(guesses, batch.blocks[noised.hidden], reduction="none")
    return Losses(ar, (each * noised.weights[noised.hidden]).sum())


def both_streams(model: Decoder, batch: Batch, noised: Noised) -> Tensor:
    """Hidden states `[b, T + 1 + A, hidden]`: of the clean tokens, then of the noisy ones."""
    columns = torch.arange(batch.tokens.shape[1])
    positions = torch.cat((columns, columns[batch.first :])).expand(len(batch.tokens), -1)
    tokens = torch.cat((batch.tokens, noised.tokens), 1)
    return model.hidden(tokens, positions, DualStream(batch, noised.block_starts))
