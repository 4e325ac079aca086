"""The sampler head: how likely it is that the decoder's likeliest token at a masked place is right.

Diffusion fixes the places it is sure of. How sure it may be is told by the top-1 probability, or better by this small
head, trained afterwards (`trimode_lab.training.sampler`), that sees the hidden state too. A model folder ships
one as `sampler.safetensors`; its tensors say its width.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from trimode_workers.errors import WeightsError
from trimode_workers.model.loading import read_tensors

SAMPLER = "sampler.safetensors"
"""The file in a model folder."""
SIGNS = 3
"""Numbers seen beside the hidden state: log-odds of the top-1, log ratio of the first two, entropy (nats)."""
_LEAST = 1e-6


class SamplerHead(nn.Module):
    """A correction of the top-1's log-odds by two hidden layers; zero before training. Computes in float32."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden + SIGNS)
        self.first = nn.Linear(hidden + SIGNS, width)
        self.second = nn.Linear(width, width)
        self.last = nn.Linear(width, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, hidden: Tensor, p: Tensor) -> Tensor:
        """hidden `[..., h]` after the final norm, p `[..., vocab]` without the mask token -> log-odds `[...]` that
        the likeliest token is right."""
        return self.judge(hidden, signs(p))

    def judge(self, hidden: Tensor, seen: Tensor) -> Tensor:
        """The same from the `signs` of p."""
        x = self.norm(torch.cat((hidden.float(), seen), -1))
        x = nn.functional.silu(self.first(x))
        x = nn.functional.silu(self.second(x))
        correction: Tensor = self.last(x).squeeze(-1)
        return seen[..., 0] + correction


def signs(p: Tensor) -> Tensor:
    """What probabilities `[..., vocab]` say themselves: `[..., SIGNS]`."""
    (first, second), rest = p.topk(2, -1).values.clamp(_LEAST, 1 - _LEAST).unbind(-1), p.clamp(min=_LEAST)
    entropy = -(p * rest.log()).sum(-1)
    return torch.stack((torch.logit(first), (first / second).log(), entropy), -1)


def save_sampler(head: SamplerHead, folder: Path) -> None:
    """Write it into a model folder, whole or not at all."""
    partial = folder / (SAMPLER + ".partial")
    save_file({name: tensor.detach().contiguous() for name, tensor in head.state_dict().items()}, partial)
    partial.replace(folder / SAMPLER)


def load_sampler(folder: str | Path, hidden: int) -> SamplerHead | None:
    """The head that the folder ships, None where it ships none. Raises WeightsError where it does not fit a decoder
    of this hidden size."""
    path = Path(folder) / SAMPLER
    if not path.is_file():
        return None
    tensors = read_tensors(path)
    first = tensors.get("first.weight")
    width = first.shape[0] if first is not None and first.ndim == 2 else 1
    head = SamplerHead(hidden, width)
    expected = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected:
        wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        words = "; ".join(
            f"{name} is {found.get(name, 'missing')}, expected {expected.get(name, 'none')}" for name in wrong
        )
        raise WeightsError(f"{path}: {words}")
    head.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return head.eval().requires_grad_(False)
