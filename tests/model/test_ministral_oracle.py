"""The decoder against transformers' Ministral 3, an implementation that shares nothing with ours."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Ministral3Config, Ministral3ForCausalLM

from trimode_workers.model import Decoder, ModelConfig

PLAIN = {"rope_type": "default", "rope_theta": 5000.0, "original_max_position_embeddings": 4096}
SCALED = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 4.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}
CASES = {
    "plain": PLAIN | {"llama_4_scaling_beta": 0.0},
    "yarn with query scaling": SCALED,
    "yarn with its own magnitude": SCALED | {"mscale": None, "mscale_all_dim": None},
    "magnitudes that differ": SCALED | {"mscale": 2.0, "mscale_all_dim": 0.5},
    "factor below one": SCALED | {"factor": 0.25, "original_max_position_embeddings": 64},
}


def raw_config(rope: dict[str, object]) -> dict[str, object]:
    return {
        "vocab_size": 61,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,  # not hidden / heads
        "max_position_embeddings": 256,
        "rope_parameters": rope,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


def causal(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


@pytest.mark.parametrize("rope", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("fused", [False, True])
def test_logits_equal_those_of_ministral(rope: dict[str, object], fused: bool) -> None:
    torch.manual_seed(0)
    oracle = Ministral3ForCausalLM(Ministral3Config(**raw_config(rope))).eval()
    for name, p in oracle.named_parameters():
        torch.nn.init.normal_(p, mean=1.0 if "norm" in name else 0.0, std=0.3)
    special = {"model_type": "nemotron_labs_diffusion", "mask_token_id": 3}
    decoder = Decoder(ModelConfig.from_dict(raw_config(rope) | special)).eval()
    renamed = {
        name.replace("model.", "encoder.", 1).replace("lm_head", "diffusion_head"): tensor
        for name, tensor in oracle.state_dict().items()
    }
    decoder.load_state_dict(renamed)
    network = decoder.fused() if fused else decoder
    tokens = torch.randint(0, 61, (2, 100))  # six times the original length of the scaled cases
    positions = torch.arange(100).expand(2, -1)
    with torch.no_grad():
        expected = oracle(tokens).logits
        found = network.logits(network.hidden(tokens, positions, causal))
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_fused_decoder_in_bfloat16_stays_near() -> None:
    torch.manual_seed(0)
    special = {"model_type": "nemotron_labs_diffusion", "mask_token_id": 3}
    decoder = Decoder(ModelConfig.from_dict(raw_config(SCALED) | special)).eval().requires_grad_(False)
    tokens, positions = torch.randint(0, 61, (1, 40)), torch.arange(40)[None]
    exact = decoder.logits(decoder.hidden(tokens, positions, causal))
    fused = decoder.to(torch.bfloat16).fused()
    near = fused.logits(fused.hidden(tokens, positions, causal))
    assert near.dtype == torch.bfloat16
    assert (near.float() - exact).abs().max() < 0.05 * exact.abs().max()
