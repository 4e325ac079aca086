"""The published instruct models, as far as a processor can: their files without the weights.

A safetensors file begins with a header that lists every tensor's name, type, shape and place. SHA-256 sums of the
published headers are known. A header written from our decoder's own names and shapes that has the published sum is
the published one, byte by byte; the loader then gets these tensors on torch's meta device, where they have no values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import pytest
import torch

from trimode_workers.model import Decoder, ModelConfig, adapter, load_adapter, load_decoder, loading
from trimode_workers.model_kind import foreign

TYPES = {torch.bfloat16: "BF16", torch.float32: "F32"}
COMMON = {
    "architectures": ["NemotronLabsDiffusionModel"],
    "attention_bias": False,
    "block_size": 32,
    "bos_token_id": 1,
    "eos_token_id": 11,
    "head_dim": 128,
    "hidden_act": "silu",
    "mask_token_id": 100,
    "max_position_embeddings": 262144,
    "mlp_bias": False,
    "model_type": "nemotron_labs_diffusion",
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 131072,
}
ROPE = {
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "factor": 16.0,
    "llama_4_scaling_beta": 0.1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 16384,
    "rope_type": "yarn",
}
PEFT = {
    "alpha_pattern": {},
    "bias": "none",
    "fan_in_fan_out": False,
    "layers_to_transform": None,
    "lora_alpha": 512,
    "lora_bias": False,
    "modules_to_save": None,
    "peft_type": "LORA",
    "r": 128,
    "rank_pattern": {},
    "target_modules": ["o_proj"],
    "use_dora": False,
    "use_rslora": False,
}


@dataclass(frozen=True)
class Published:
    """One repository at one commit; the sums are of the headers of its weights and of its adapter."""

    repository: str
    commit: str
    hidden: int
    layers: int
    intermediate: int
    theta: float
    tensors: int
    size: int
    weights_sum: str
    adapter_sum: str

    def config(self) -> dict[str, object]:
        return COMMON | {
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "intermediate_size": self.intermediate,
            "rope_parameters": ROPE | {"rope_theta": self.theta},
        }

    def adapter_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = {"A": (128, 4096), "B": (self.hidden, 128)}
        return {
            f"base_model.model.encoder.layers.{n}.self_attn.o_proj.lora_{part}.weight": shape
            for n in range(self.layers)
            for part, shape in shapes.items()
        }


MODELS = [
    Published(
        "nvidia/Nemotron-Labs-Diffusion-3B",
        "0d51902da1f8869f83413ce642fab402fa5641e0",
        3072,
        26,
        9216,
        1e6,
        237,
        7_663_319_040,
        "f1fd72a428d98973aa16feed709383d71027c64e018ff5b0b87d26e05dcb4953",
        "f83c6c8138f2780e01bcf4dc92e75dca15036f3dbb5b32475de5d8e42cd8bf7d",
    ),
    Published(
        "nvidia/Nemotron-Labs-Diffusion-8B",
        "16c67f0560b912e93e0cabb6e0c4f5c3086d95fc",
        4096,
        34,
        14336,
        1e6,
        309,
        16_979_107_840,
        "c164cb276b30011b3fad9f43ae732442904e0d999da0e624b257424286d961c7",
        "81f800939c59dc9025ab2bfa84e6ed84753c2c28336f46d3a706b18912a1c553",
    ),
    Published(
        "nvidia/Nemotron-Labs-Diffusion-14B",
        "f8c3e2c078e193599b8882d965b1001c456ba738",
        5120,
        40,
        16384,
        1e9,
        363,
        27_012_147_200,
        "b6022bc3b7c9984b38cd2a8aba7caca29c8e0e80be0107b306658ed24516ea92",
        "b6811a9ff6a671d87691f32a84e89329a4bf9453ea3294c2711272b47bb21880",
    ),
]
PUBLISHED = pytest.mark.parametrize("published", MODELS, ids=lambda model: model.repository.rpartition("-")[2])


def safetensors_header(shapes: Mapping[str, tuple[int, ...]], kind: torch.dtype) -> bytes:
    """What precedes the weights of a safetensors file, as its library writes it: in order of names."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(shapes):
        begin, end = end, end + kind.itemsize * prod(shapes[name])
        entries[name] = {"dtype": TYPES[kind], "shape": list(shapes[name]), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


@PUBLISHED
def test_the_loader_takes_the_published_files(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ModelConfig.from_dict(published.config())
    with torch.device("meta"):
        ours = {name: tuple(p.shape) for name, p in Decoder(config).named_parameters()}
    files = {
        "model.safetensors": (ours, torch.bfloat16, published.weights_sum),
        "adapter_model.safetensors": (published.adapter_shapes(), torch.float32, published.adapter_sum),
    }
    for name, (shapes, kind, known) in files.items():
        header = safetensors_header(shapes, kind)
        assert hashlib.sha256(header).hexdigest() == known, name
    assert len(ours) == published.tensors
    assert 2 * sum(map(prod, ours.values())) == published.size

    def without_weights(path: Path) -> dict[str, torch.Tensor]:
        shapes, kind, _ = files[path.name]
        return {name: torch.empty(shape, dtype=kind, device="meta") for name, shape in shapes.items()}

    monkeypatch.setattr(loading, "read_tensors", without_weights)
    monkeypatch.setattr(adapter, "read_tensors", without_weights)
    for name, content in {"config.json": published.config(), "adapter_config.json": PEFT}.items():
        (tmp_path / name).write_text(json.dumps(content))
    for name in files:
        (tmp_path / name).touch()
    decoder, read = load_decoder(tmp_path, torch.bfloat16)
    assert read == config
    assert {p.dtype for p in decoder.parameters()} == {torch.bfloat16}
    assert (config.rope.theta, config.rope.factor) == (published.theta, 16.0)
    found = load_adapter(tmp_path, decoder)
    assert (found.scale, len(found.pairs)) == (4.0, published.layers)


@PUBLISHED
def test_their_configs_are_read_and_written_back(published: Published) -> None:
    config = ModelConfig.from_dict(published.config())
    assert foreign(published.config()) == ""
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert (config.eos_token_ids, config.mask_token_id, config.block_size) == ((11,), 100, 32)
    assert config.heads * config.head_dim == 4096  # of all three, hence not the hidden size
