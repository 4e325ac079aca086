"""Model folders: reading and writing `config.json` and safetensors, one file or sharded with an index.

What does not fit is refused by name, all problems of a folder together.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trimode_workers.errors import WeightsError
from trimode_workers.model.config import ModelConfig
from trimode_workers.model.decoder import Decoder

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
REPACKED = "language_model."
_SHOWN = 5


def load_decoder(folder: str | Path, dtype: torch.dtype = torch.float32) -> tuple[Decoder, ModelConfig]:
    """The decoder of a folder, in eval mode, its weights converted to `dtype`. Raises ConfigError, WeightsError."""
    folder = Path(folder)
    config = ModelConfig.from_folder(folder)
    # Names and shapes only: no memory, and no time for random weights that are replaced at once.
    with torch.device("meta"):
        decoder = Decoder(config)
    tensors: dict[str, Tensor] = {}
    for path in _files(folder):
        tensors |= read_tensors(path)
    expected = {name: tuple(p.shape) for name, p in decoder.named_parameters()}
    problems = _differences(expected, {name: tuple(t.shape) for name, t in tensors.items()})
    problems += [
        f"{name} is {str(tensor.dtype).removeprefix('torch.')}, allowed are float32, float16 and bfloat16"
        for name, tensor in sorted(tensors.items())
        if name in expected and tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16)
    ][:_SHOWN]
    if problems:
        raise WeightsError(f"{folder}: " + "; ".join(problems))
    converted = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    # The tensors as they are instead of a copy into the decoder's: never two sets of weights at a time.
    decoder.load_state_dict(converted, assign=True)
    return decoder.eval().requires_grad_(False), config


def save_decoder(decoder: Decoder, folder: str | Path) -> None:
    """Write config.json and model.safetensors in float32, with the published names."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(decoder.config.to_dict(), indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    tensors = {name: p.detach().float().contiguous() for name, p in decoder.named_parameters()}
    partial = folder / (WEIGHTS + ".partial")
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.replace(folder / WEIGHTS)  # a reader never sees half a file


def _files(folder: Path) -> list[Path]:
    """The safetensors files of a folder: those of the index where there is one."""
    index = folder / INDEX
    if not index.exists():
        if not (folder / WEIGHTS).is_file():
            raise WeightsError(f"{folder}: neither {WEIGHTS} nor {INDEX} is there")
        return [folder / WEIGHTS]
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise WeightsError(f"{index}: not a safetensors index with a weight_map: {exc!r}") from exc
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise WeightsError(f"{folder}: shards named in {INDEX} are missing: {_some(missing)}")
    return [folder / name for name in names]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises WeightsError."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as exc:
        raise WeightsError(f"{path}: corrupt or truncated safetensors file: {exc}") from exc


def _differences(expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> list[str]:
    if repacked := sum(name.startswith(REPACKED) for name in found):
        return [
            f"{repacked} tensors are named {REPACKED}*, as in a checkpoint repacked for MLX; take the published one, "
            "whose names begin with encoder. and diffusion_head."
        ]
    problems = []
    if missing := expected.keys() - found.keys():
        problems.append(f"missing tensors: {_some(missing)}")
    if unexpected := found.keys() - expected.keys():
        problems.append(f"unexpected tensors: {_some(unexpected)}")
    problems += [
        f"{name} has shape {list(found[name])}, config.json asks for {list(expected[name])}"
        for name in sorted(expected.keys() & found.keys())
        if expected[name] != found[name]
    ]
    return problems


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more
