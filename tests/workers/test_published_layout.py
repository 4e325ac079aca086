"""A folder as the models are published, in tiny sizes: it loads and serves; what deviates is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

import trimode_workers
from trimode_api.wire import PolicyConfig
from trimode_workers.engine.messages import Configure, Submit
from trimode_workers.errors import ModelError
from trimode_workers.process.build import build
from trimode_workers.replica.replica import Replica
from trimode_workers.replica.settings import EngineOptions, ReplicaSettings
from trimode_workers.text.detokenize import byte_alphabet
from trimode_workers.text.tokenizer import load_text_model

ADAPTER = "linear_spec_lora"
VOCABULARY = 512
HIDDEN, FEED, HEADS, KV_HEADS, HEAD_DIM, LAYERS = 64, 96, 4, 2, 24, 2
CONFIG = {
    "architectures": ["NemotronLabsDiffusionModel"],
    "auto_map": {"AutoModel": "modeling_nemotron_labs_diffusion.NemotronLabsDiffusionModel"},
    "model_type": "nemotron_labs_diffusion",
    "dtype": "bfloat16",
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "intermediate_size": FEED,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": False,
    "mask_token_id": 100,
    "block_size": 32,
    "bos_token_id": 1,
    "eos_token_id": 11,
    "max_position_embeddings": 262144,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "sliding_window": None,
    "rope_parameters": {
        "type": "yarn",
        "rope_type": "yarn",
        "rope_theta": 1000000.0,
        "factor": 16.0,
        "original_max_position_embeddings": 16384,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    },
}
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if not enable_thinking %}{{ '<think></think>' }}{% endif %}{% endif %}"
)
NAMED = {
    0: "<unk>",
    1: "<s>",
    2: "</s>",
    10: "<|im_start|>",
    11: "<|im_end|>",
    12: "<think>",
    13: "</think>",
    100: "<M>",
}
POINTS = ["AR", "S8", "S16", "D32@0.9"]
CONFIGURE = Configure(points=["AR", "S8"], fallback="AR")
Change = Callable[[dict[str, Any]], None]


def tokenizer() -> Tokenizer:
    """Bytes behind a block of special tokens, as Tekken has it; 1,000 of those there, 256 here."""
    specials = [NAMED.get(id, f"<SPECIAL_{id}>") for id in range(VOCABULARY - 256)]
    found = Tokenizer(models.BPE(vocab={text: id for id, text in enumerate([*specials, *byte_alphabet()])}, merges=[]))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    found.decoder = decoders.ByteLevel()
    found.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in specials])
    return found


def tensors() -> dict[str, torch.Tensor]:
    """Random weights under the published names and in their type."""
    shapes = {
        "encoder.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "encoder.norm.weight": (HIDDEN,),
        "diffusion_head.weight": (VOCABULARY, HIDDEN),
    }
    for n in range(LAYERS):
        at = f"encoder.layers.{n}"
        shapes |= {f"{at}.{norm}_layernorm.weight": (HIDDEN,) for norm in ("input", "post_attention")}
        shapes |= {f"{at}.self_attn.{p}_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN) for p in "kv"}
        shapes[f"{at}.self_attn.q_proj.weight"] = (HEADS * HEAD_DIM, HIDDEN)
        shapes[f"{at}.self_attn.o_proj.weight"] = (HIDDEN, HEADS * HEAD_DIM)
        shapes |= {f"{at}.mlp.{p}_proj.weight": (FEED, HIDDEN) for p in ("gate", "up")}
        shapes[f"{at}.mlp.down_proj.weight"] = (HIDDEN, FEED)
    random = torch.Generator().manual_seed(0)
    return {
        name: (torch.ones(shape) if "norm" in name else 0.2 * torch.randn(shape, generator=random)).bfloat16()
        for name, shape in shapes.items()
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    adapter = {"peft_type": "LORA", "r": 8, "lora_alpha": 32, "target_modules": ["o_proj"], "bias": "none"}
    random = torch.Generator().manual_seed(1)
    pairs = {
        f"base_model.model.encoder.layers.{n}.self_attn.o_proj.lora_{part}.weight": torch.randn(shape, generator=random)
        for n in range(LAYERS)
        for part, shape in (("A", (8, HEADS * HEAD_DIM)), ("B", (HIDDEN, 8)))
    }
    (tmp_path / ADAPTER).mkdir()
    (tmp_path / ADAPTER / "adapter_config.json").write_text(json.dumps(adapter))
    save_file(pairs, tmp_path / ADAPTER / "adapter_model.safetensors")
    save_file(tensors(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 11}))
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    specials = {"bos_token": "<s>", "eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(specials))
    return tmp_path


def load(folder: Path, adapter: str | None = None) -> Any:
    return build(
        EngineOptions(
            model=str(folder), draft_adapter=adapter, max_running_requests=2, max_context_tokens=128, threads=1
        ),
        CONFIGURE,
    )


async def test_it_serves_every_mode_with_its_adapter(folder: Path, policy: PolicyConfig) -> None:
    settings = ReplicaSettings(
        pool="flex",
        served_name="nemotron",
        engine=EngineOptions(
            model=str(folder), draft_adapter=ADAPTER, max_context_tokens=256, max_running_requests=4, threads=1
        ),
        policy=policy,
    )
    replica = await Replica.start(settings, "fleet-secret")
    body = {"model": "nemotron", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 24, "temperature": 0}
    found: dict[str, Any] = {}
    try:
        assert replica.engine.started is not None
        assert replica.engine.started.eos_token_ids == [11]
        headers = {"Authorization": "Bearer fleet-secret"}
        async with aiohttp.ClientSession(replica.url, headers=headers) as http:
            for mode in ("AR", "SelfSpeculation", "Diffusion"):
                async with http.post("/v1/chat/completions", json=body | {"trimode": {"mode": mode}}) as response:
                    assert response.status == 200, await response.text()
                    found[mode] = await response.json()
    finally:
        await replica.stop()
    texts = {mode: answer["choices"][0]["message"]["content"] for mode, answer in found.items()}
    assert texts["AR"] == texts["SelfSpeculation"] != ""
    prompt = load_text_model(folder).chat([{"role": "user", "content": "Hi"}])
    assert {answer["usage"]["prompt_tokens"] for answer in found.values()} == {len(prompt)}
    assert all(0 < answer["usage"]["completion_tokens"] <= 24 for answer in found.values())


def test_an_engine_starts_without_torch_s_compiler() -> None:
    """Importing it takes as much processor as importing torch, in every engine's process."""
    script = """
import sys
from trimode_workers.engine.messages import Configure
from trimode_workers.process.build import build
from trimode_workers.replica.settings import EngineOptions
options = EngineOptions(model=sys.argv[1], max_running_requests=2, max_context_tokens=128, threads=1)
build(options, Configure(points=["AR", "S8", "D8@0.9"], fallback="AR"))
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""
    tiny = str(Path(trimode_workers.__file__).parent / "tiny")
    done = subprocess.run([sys.executable, "-c", script, tiny], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_chat_template_leaves_thinking_off(folder: Path) -> None:
    ids = load_text_model(folder).chat([{"role": "user", "content": "Hi"}])
    text = tokenizer().decode(ids, skip_special_tokens=False)
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think></think>"
    assert [id for id in ids if id in NAMED] == [10, 11, 10, 12, 13]


def test_the_adapter_is_checked_at_the_start(folder: Path) -> None:
    engine, started = load(folder, ADAPTER)
    assert started.parameters == sum(tensor.numel() for tensor in tensors().values())
    assert engine.idle
    path = folder / ADAPTER / "adapter_model.safetensors"
    untrained = {name: tensor * ("lora_A" in name) for name, tensor in load_file(path).items()}
    save_file(untrained, path)
    with pytest.raises(ModelError, match=r"linear_spec_lora: the draft adapter changes nothing"):
        load(folder, ADAPTER)
    with pytest.raises(ModelError, match=r"other/adapter_config\.json: no such file"):
        load(folder, "other")


def test_in_the_published_type(folder: Path) -> None:
    options = EngineOptions(
        model=str(folder),
        draft_adapter=ADAPTER,
        dtype="bfloat16",
        max_running_requests=3,
        max_context_tokens=128,
        threads=1,
    )
    engine, started = build(options, Configure(points=["AR", "S8", "D8@0.9"], fallback="AR"))
    assert started.dtype == "bfloat16"
    for point in ("AR", "S8", "D8@0.9"):
        engine.submit(Submit(point, [256, 300, 301], 12, pin=point, lossy_ok=True, ignore_eos=True))
    found: dict[str, list[int]] = {}
    while not engine.idle:
        for event in engine.step().events:
            found.setdefault(event.request_id, []).extend(event.tokens)
    assert {point: len(tokens) for point, tokens in found.items()} == {"AR": 12, "S8": 12, "D8@0.9": 12}


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("model_type", "llama", "model_type is 'llama', allowed is 'nemotron_labs_diffusion'"),
        ("architectures", ["LlamaForCausalLM"], r"architectures is \['LlamaForCausalLM'\]"),
        ("architectures", ["NemotronLabsDiffusionVLModel"], "a vision-language checkpoint"),
        ("vision_config", {"depth": 4}, r"a vision-language checkpoint \(vision_config\)"),
        ("hidden_act", "gelu", "hidden_act is 'gelu', allowed is one of"),
        ("tie_word_embeddings", True, "tie_word_embeddings is True"),
        ("attention_bias", True, "attention_bias is True"),
        ("sliding_window", 4096, "sliding_window is 4096"),
        ("mask_token_id", VOCABULARY, "mask_token_id is 512, allowed is a token id from 0 to"),
        ("mask_token_id", None, "mask_token_id is None"),
        ("eos_token_id", None, "eos_token_id is None"),
        ("num_key_value_heads", 3, "num_key_value_heads is 3, allowed is a divisor"),
        ("head_dim", 23, "head_dim is 23, allowed is an even number"),
        ("head_dim", 16, r"q_proj\.weight has shape \[96, 64\], config\.json asks for \[64, 64\]"),
        ("num_hidden_layers", 3, r"missing tensors: encoder\.layers\.2\."),
        ("num_hidden_layers", 1, r"unexpected tensors: encoder\.layers\.1\."),
        ("vocab_size", 511, r"embed_tokens\.weight has shape \[512, 64\], config\.json asks for \[511, 64\]"),
        ("quantization_config", {"quant_method": "fp8"}, "quantization_config is .*, allowed is one of"),
    ],
)
def test_configs_that_deviate(folder: Path, field: str, value: object, words: str) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | {field: value}))
    with pytest.raises(ModelError, match=words):
        load(folder)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("rope_type", "llama3", r"rope_parameters\.rope_type is 'llama3', allowed is 'default' or 'yarn'"),
        ("rope_theta", None, r"rope_theta is None, allowed is a number > 0"),
        ("factor", -1, r"factor is -1, allowed is a number > 0"),
        ("llama_4_scaling_beta", -0.1, r"llama_4_scaling_beta is -0\.1"),
        ("original_max_position_embeddings", 0, r"original_max_position_embeddings is 0"),
        ("attention_factor", 1.5, r"rope_parameters\.attention_factor is 1\.5, allowed is None"),
    ],
)
def test_rotary_settings_that_deviate(folder: Path, field: str, value: object, words: str) -> None:
    rope = dict(CONFIG["rope_parameters"])  # type: ignore[call-overload]
    (folder / "config.json").write_text(json.dumps(CONFIG | {"rope_parameters": rope | {field: value}}))
    with pytest.raises(ModelError, match=words):
        load(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("diffusion_head.weight"), r"missing tensors: diffusion_head\.weight"),
        (lambda t: t.update({"lm_head.weight": torch.zeros(1)}), r"unexpected tensors: lm_head\.weight"),
        (
            lambda t: t.update({"encoder.norm.weight": torch.zeros(63)}),
            r"encoder\.norm\.weight has shape \[63\], config\.json asks for \[64\]",
        ),
        (
            lambda t: t.update({"encoder.norm.weight": torch.zeros(64, dtype=torch.int8)}),
            r"encoder\.norm\.weight is int8, allowed are float32, float16 and bfloat16",
        ),
    ],
)
def test_tensors_that_deviate(folder: Path, change: Change, words: str) -> None:
    found = tensors()
    change(found)
    save_file(found, folder / "model.safetensors")
    with pytest.raises(ModelError, match=words):
        load(folder)


def test_a_folder_without_a_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(Exception, match=r"tokenizer\.json: no such file; a model folder needs its tokenizer"):
        load_text_model(folder)
