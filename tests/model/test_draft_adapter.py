"""The draft adapter: against PEFT's own layers and merge, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from trimode_workers.model import AdapterError, Decoder, ModelConfig, load_adapter

CONFIG = ModelConfig(
    vocab_size=61,
    hidden_size=48,
    intermediate_size=80,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    max_positions=128,
    mask_token_id=3,
    eos_token_ids=(2,),
)
TOKENS = torch.arange(40).view(2, 20) % 61
POSITIONS = torch.arange(20).expand(2, -1)


def causal(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def logits(network: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = network.logits(network.hidden(TOKENS, POSITIONS, causal))
    return found


def base() -> Decoder:
    torch.manual_seed(0)
    return Decoder(CONFIG).eval().requires_grad_(False)


def peft_model(**config: Any) -> Any:
    """PEFT's model around the decoder, with an adapter that is not zero."""
    model = get_peft_model(base(), LoraConfig(target_modules=["o_proj"], r=4, lora_alpha=16, **config))  # type: ignore[arg-type]
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As PEFT writes it."""
    peft_model().save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("rslora", [False, True])
def test_drafts_equal_those_of_peft_and_the_rest_stays(tmp_path: Path, rslora: bool) -> None:
    oracle = peft_model(use_rslora=rslora)
    oracle.save_pretrained(tmp_path)
    expected = logits(oracle.base_model.model)
    decoder = base()
    plain = logits(decoder)
    network = decoder.fused()
    network.adapt(load_adapter(tmp_path, decoder).outputs(decoder))
    assert network.drafter is not None
    assert (expected - plain).abs().max() > 0.1
    torch.testing.assert_close(logits(network.drafter), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits(network), plain, rtol=1e-4, atol=1e-4)


def test_merged_weights_are_pefts(folder: Path) -> None:
    decoder = base()
    merged = peft_model().merge_and_unload()
    outputs = load_adapter(folder, decoder).outputs(decoder)
    assert len(outputs) == CONFIG.layers
    for layer, output in zip(merged.encoder.layers, outputs, strict=True):
        torch.testing.assert_close(output, layer.self_attn.o_proj.weight, rtol=1e-6, atol=1e-6)


def test_all_but_the_outputs_is_shared(folder: Path) -> None:
    decoder = base()
    network = decoder.fused()
    network.adapt(load_adapter(folder, decoder).outputs(decoder))
    assert network.drafter is not None
    for mine, others in zip(network.layers, network.drafter.layers, strict=True):
        assert mine.qkv is others.qkv
        assert mine.o is not others.o
    assert network.drafter.head is network.head


def test_weights_of_a_smaller_type(folder: Path) -> None:
    decoder = base().to(torch.bfloat16)
    assert {output.dtype for output in load_adapter(folder, decoder).outputs(decoder)} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"target_modules": ["o_proj", "q_proj"]},
            r"target_modules is \['o_proj', 'q_proj'\], allowed is \['o_proj'\]",
        ),
        ({"peft_type": "IA3"}, "peft_type is 'IA3', allowed is 'LORA'"),
        ({"use_dora": True}, "use_dora is True, allowed is False"),
        ({"rank_pattern": {"layers.0": 2}}, r"rank_pattern is .*, allowed is \{\}"),
        ({"bias": "all"}, "bias is 'all', allowed is 'none'"),
        ({"modules_to_save": ["norm"]}, r"modules_to_save is \['norm'\]"),
        ({"r": 0}, "r is 0, allowed is a whole number >= 1"),
        ({"lora_alpha": "16"}, "lora_alpha is '16', allowed is a number"),
        ({"r": 8}, r"lora_A\.weight has shape \[4, 64\], expected is \[8, 64\]"),
    ],
)
def test_what_is_not_done_is_refused_by_name(folder: Path, change: dict[str, object], words: str) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(AdapterError, match=words):
        load_adapter(folder, base())


def test_two_problems_are_both_told(folder: Path) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bias": "all", "r": -1}))
    with pytest.raises(AdapterError, match=r"bias is 'all'.*; r is -1"):
        load_adapter(folder, base())


def test_tensors_that_do_not_fit(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    name = "base_model.model.encoder.layers.1.self_attn.o_proj.lora_A.weight"
    save_file({other: tensor for other, tensor in tensors.items() if other != name}, path)
    with pytest.raises(AdapterError, match=r"missing tensors: layers\.1\.self_attn\.o_proj\.lora_A$"):
        load_adapter(folder, base())
    save_file(tensors | {name.replace("layers.1", "layers.7"): torch.zeros(4, 64)}, path)
    with pytest.raises(AdapterError, match=r"unexpected tensor base_model\.model\.encoder\.layers\.7"):
        load_adapter(folder, base())


def test_an_adapter_that_is_not_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"no such file; a draft adapter is a folder with adapter_config\.json"):
        load_adapter(tmp_path / "none", base())
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors is not there"):
        load_adapter(folder, base())
