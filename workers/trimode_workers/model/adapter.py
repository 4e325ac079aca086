"""The draft adapter: a LoRA in PEFT's layout on the attention outputs, in force while drafting only.

It is merged into copies of the weights it changes, W + scale * B A, so that drafting runs the same operations as
everything else; the weights that verify stay as they were. What PEFT can express and this does not is refused by
name, all problems of an adapter together.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from trimode_workers.errors import AdapterError
from trimode_workers.model.config import read_object
from trimode_workers.model.decoder import Decoder, Layer
from trimode_workers.model.loading import read_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TARGETS = ["o_proj"]
_NAME = re.compile(r"(?:.*\.)?layers\.(?P<layer>\d+)\.self_attn\.o_proj\.lora_(?P<part>[AB])(?:\.default)?\.weight")
_PLAIN: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "fan_in_fan_out": (False, None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "modules_to_save": (None, []),
    "layers_to_transform": (None, []),
}


@dataclass(frozen=True, slots=True)
class DraftAdapter:
    """`pairs[layer]`: A `[rank, heads * head_dim]` and B `[hidden, rank]`. `scale` multiplies their product."""

    scale: float
    pairs: tuple[tuple[Tensor, Tensor], ...]

    def outputs(self, decoder: Decoder) -> list[Tensor]:
        """The merged `o_proj` weights of every layer, in the decoder's type, computed in float32."""
        layers = [layer for layer in decoder.encoder.layers if isinstance(layer, Layer)]
        weights = [layer.self_attn.o_proj.weight.detach() for layer in layers]
        return [
            (w.float() + self.scale * (b.to(w.device).float() @ a.to(w.device).float())).to(w.dtype)
            for w, (a, b) in zip(weights, self.pairs, strict=True)
        ]


def load_adapter(folder: str | Path, decoder: Decoder) -> DraftAdapter:
    """The adapter in `folder`, checked against the decoder it belongs to. Raises AdapterError, WeightsError."""
    folder = Path(folder)
    path = folder / CONFIG
    raw = read_object(path, AdapterError, f"a draft adapter is a folder with {CONFIG} and {WEIGHTS}")
    problems = [
        f"{field} is {raw[field]!r}, allowed is {allowed[0]!r}"
        for field, allowed in _PLAIN.items()
        if raw.get(field, allowed[0]) not in allowed
    ]
    targets = raw.get("target_modules")
    if ([targets] if isinstance(targets, str) else targets) != TARGETS:
        problems.append(f"target_modules is {targets!r}, allowed is {TARGETS}")
    rank, alpha = raw.get("r"), raw.get("lora_alpha")
    if type(rank) is not int or rank < 1:
        problems.append(f"r is {rank!r}, allowed is a whole number >= 1")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        problems.append(f"lora_alpha is {alpha!r}, allowed is a number")
    if problems:
        raise AdapterError(f"{path}: " + "; ".join(problems))
    assert isinstance(rank, int)
    assert isinstance(alpha, int | float)
    if not (folder / WEIGHTS).is_file():
        raise AdapterError(f"{folder}: {WEIGHTS} is not there")
    pairs = _pairs(read_tensors(folder / WEIGHTS), rank, decoder, folder / WEIGHTS)
    return DraftAdapter(alpha / (math.sqrt(rank) if raw.get("use_rslora") else rank), pairs)


def _pairs(tensors: Mapping[str, Tensor], rank: int, decoder: Decoder, path: Path) -> tuple[tuple[Tensor, Tensor], ...]:
    c = decoder.config
    shapes = {"A": (rank, c.heads * c.head_dim), "B": (c.hidden_size, rank)}
    found: dict[tuple[int, str], Tensor] = {}
    problems = []
    for name, tensor in sorted(tensors.items()):
        match = _NAME.fullmatch(name)
        if match is None or int(match["layer"]) >= c.layers:
            problems.append(f"unexpected tensor {name}")
        elif tuple(tensor.shape) != shapes[match["part"]]:
            problems.append(f"{name} has shape {list(tensor.shape)}, expected is {list(shapes[match['part']])}")
        else:
            found[int(match["layer"]), match["part"]] = tensor
    missing = [f"layers.{n}.self_attn.o_proj.lora_{p}" for n in range(c.layers) for p in "AB" if (n, p) not in found]
    if missing and not problems:
        problems.append(f"missing tensors: {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}")
    if problems:
        raise AdapterError(f"{path}: " + "; ".join(problems[:5]))
    return tuple((found[n, "A"], found[n, "B"]) for n in range(c.layers))
