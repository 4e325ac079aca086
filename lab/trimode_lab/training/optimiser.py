"""Muon for the matrices of the layers, AdamW for everything else, and the learning-rate schedule."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Quintic Newton-Schulz iteration of Muon (Keller Jordan, 2024)."""


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Push the singular values of `[k, rows, columns]` towards 1."""
    a, b, c = _COEFFICIENTS
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x if wide else x.mT
    return result


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised; all matrices of one shape go through one batched iteration, in float32."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.01):
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for p in group["params"]:
                by_shape[p.shape].append(p)
            for shape, params in by_shape.items():
                directions = []
                for p in params:
                    assert p.grad is not None
                    buffer: Tensor = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    buffer.lerp_(p.grad, 1 - group["momentum"])
                    directions.append(p.grad.lerp(buffer, group["momentum"]))  # Nesterov's look ahead
                updates = orthogonalise(torch.stack(directions))
                size = group["lr"] * 0.2 * max(shape) ** 0.5  # the root mean square of an AdamW update
                for p, update in zip(params, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["decay"]).add_(update, alpha=-size)


def build_optimisers(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Matrices inside the layers to Muon; embedding, head and norms to AdamW."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, p in model.named_parameters():
        (matrices if p.ndim == 2 and ".layers." in name else rest).append(p)
    return [Muon(matrices, lr), torch.optim.AdamW(rest, lr, betas=(0.9, 0.98), weight_decay=0.0)]


def learning_rate(peak: float, step: int, progress: float, flat: float = 0.5, warm_up: int = 60) -> float:
    """Linear warm-up over steps, flat until `flat` of the training, then linear to (almost) nothing."""
    return peak * min(1.0, (step + 1) / warm_up) * min(1.0, max(0.01, (1.0 - progress) / (1.0 - flat)))


def diffusion_weight(progress: float, early: float = 0.5, late: float = 1.0) -> float:
    """`early` for the first half, then a ramp to `late` at four fifths: drafts improve once copying is learnt."""
    return early + (late - early) * min(1.0, max(0.0, (progress - 0.5) / 0.3))
