"""Gradients of one step's parts, each part in a thread of its own.

One thread per forward instead of many threads in one: they meet once a step, not at every operation. Sums run
in the order of the parts, so results do not depend on how many threads there are.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from trimode_lab.training.batches import Batch
from trimode_lab.training.noise import Noised
from trimode_lab.training.objective import losses
from trimode_workers.model import Decoder


@dataclass(frozen=True)
class Part:
    """A batch, its noise, and what its AR and diffusion sums are multiplied with in the joint loss."""

    batch: Batch
    noised: Noised
    ar_scale: float
    diffusion_scale: float


class Gradients:
    """Computes and sums the gradients of parts; `bfloat16` is for the matrix products only."""

    def __init__(self, model: Decoder, threads: int, bfloat16: bool) -> None:
        self.model, self.bfloat16 = model, bfloat16
        self.parameters = list(model.parameters())
        self.pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

    def compute(self, parts: list[Part]) -> tuple[float, float]:
        """Set `.grad` of every parameter to the sum over parts; returns both loss sums."""
        # parts come shortest first; the longest start first, so that the threads end together
        found = list(self.pool.map(self._one, reversed(parts)))[::-1]
        for p, *gradients in zip(self.parameters, *(gradients for gradients, _, _ in found), strict=True):
            p.grad = torch.stack(gradients).sum(0)
        return sum(ar for _, ar, _ in found), sum(diffusion for _, _, diffusion in found)

    def close(self) -> None:
        """End the threads."""
        self.pool.shutdown()

    def _one(self, part: Part) -> tuple[tuple[Tensor, ...], float, float]:
        # the cache of converted weights is shared by all threads: with it, runs do not repeat exactly
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16, cache_enabled=False):
            found = losses(self.model, part.batch, part.noised)
        joint = found.ar * part.ar_scale + found.diffusion * part.diffusion_scale
        return torch.autograd.grad(joint, self.parameters), found.ar.item(), found.diffusion.item()
