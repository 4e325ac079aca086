import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trimode_workers.model import Decoder, ModelConfig, WeightsError, load_decoder, save_decoder

CONFIG = ModelConfig(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    layers=2,
    heads=2,
    kv_heads=1,
    head_dim=8,
    max_positions=64,
    mask_token_id=3,
    eos_token_ids=(2,),
)
WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_decoder(Decoder(CONFIG), tmp_path)
    return tmp_path


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / WEIGHTS)


def test_saved_and_loaded_is_the_same(folder: Path) -> None:
    decoder, config = load_decoder(folder)
    assert config == CONFIG
    assert tensors(folder).keys() == {name for name, _ in decoder.named_parameters()}
    for name, p in decoder.named_parameters():
        assert torch.equal(p, tensors(folder)[name])
    assert torch.equal(decoder.frequencies, Decoder(CONFIG).frequencies)
    assert decoder.frequencies.device.type == "cpu"


def test_names_are_the_published_ones(folder: Path) -> None:
    layer = {
        *(f"self_attn.{p}_proj.weight" for p in "qkvo"),
        *(f"mlp.{p}_proj.weight" for p in ("gate", "up", "down")),
        "input_layernorm.weight",
        "post_attention_layernorm.weight",
    }
    outside = {"encoder.embed_tokens.weight", "encoder.norm.weight", "diffusion_head.weight"}
    assert set(tensors(folder)) == {f"encoder.layers.{n}.{name}" for n in (0, 1) for name in layer} | outside


def test_weights_are_converted_to_the_asked_type(folder: Path) -> None:
    decoder, _ = load_decoder(folder, torch.bfloat16)
    assert {p.dtype for p in decoder.parameters()} == {torch.bfloat16}
    assert decoder.frequencies.dtype == torch.float32


def test_shards_are_joined(folder: Path) -> None:
    whole = tensors(folder)
    names = sorted(whole)
    parts = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, mine in parts.items():
        save_file({name: whole[name] for name in mine}, folder / file)
    index = {"weight_map": {name: file for file, mine in parts.items() for name in mine}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (folder / WEIGHTS).unlink()
    decoder, _ = load_decoder(folder)
    assert all(torch.equal(p, whole[name]) for name, p in decoder.named_parameters())
    (folder / "b.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"shards .* missing: b\.safetensors"):
        load_decoder(folder)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": []}'])
def test_a_broken_index_is_refused(folder: Path, text: str) -> None:
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    with pytest.raises(WeightsError, match="not a safetensors index"):
        load_decoder(folder)


def test_missing_weights_are_refused(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(WeightsError, match=r"neither model\.safetensors nor"):
        load_decoder(folder)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_truncated_files_are_refused(folder: Path, kept: int) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:kept])
    with pytest.raises(WeightsError, match=r"model\.safetensors: corrupt or truncated"):
        load_decoder(folder)


def test_garbage_is_refused(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"not tensors at all" * 100)
    with pytest.raises(WeightsError, match="corrupt or truncated"):
        load_decoder(folder)


def test_tensors_that_do_not_fit_are_all_named(folder: Path) -> None:
    changed = tensors(folder)
    del changed["encoder.norm.weight"]
    changed["lm_head.weight"] = torch.zeros(1)
    changed["diffusion_head.weight"] = torch.zeros(39, 16)
    save_file(changed, folder / WEIGHTS)
    with pytest.raises(WeightsError) as caught:
        load_decoder(folder)
    message = str(caught.value)
    assert "missing tensors: encoder.norm.weight" in message
    assert "unexpected tensors: lm_head.weight" in message
    assert "diffusion_head.weight has shape [39, 16], config.json asks for [40, 16]" in message


def test_a_repack_is_named(folder: Path) -> None:
    parts = {name: t.to(torch.uint32) if t.ndim > 1 else t for name, t in tensors(folder).items()}
    repacked = {"language_model." + name.replace("encoder.", "model."): tensor for name, tensor in parts.items()}
    repacked |= {name.replace(".weight", ".scales"): torch.zeros(1) for name in list(repacked)}
    save_file(repacked, folder / WEIGHTS)
    with pytest.raises(
        WeightsError, match=r"42 tensors are named language_model\.\*, as in a checkpoint repacked for MLX"
    ):
        load_decoder(folder)


def test_long_lists_of_names_are_shortened(folder: Path) -> None:
    save_file({}, folder / WEIGHTS)
    with pytest.raises(WeightsError, match="and 16 more"):
        load_decoder(folder)
