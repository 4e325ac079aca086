import json
from pathlib import Path

import pytest

from trimode_workers.model import ConfigError, ModelConfig, ModelError

PUBLISHED = {
    "model_type": "nemotron_labs_diffusion",
    "architectures": ["NemotronLabsDiffusionModel"],
    "vocab_size": 131072,
    "hidden_size": 3072,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rms_norm_eps": 1e-05,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "mask_token_id": 100,
    "block_size": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 1000000.0,
        "factor": 0.25,
        "original_max_position_embeddings": 16384,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    },
}


def test_the_published_layout_is_read_and_written_back() -> None:
    config = ModelConfig.from_dict(PUBLISHED)
    assert (config.head_dim, config.hidden_size // config.heads) == (128, 96)
    assert (config.eos_token_ids, config.pad_token_id, config.mask_token_id) == ((2,), None, 100)
    assert config.rope.query_scaling_beta == 0.1
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_several_ends_are_a_list() -> None:
    config = ModelConfig.from_dict(PUBLISHED | {"eos_token_id": [2, 11]})
    assert config.eos_token_ids == (2, 11)
    assert config.to_dict()["eos_token_id"] == [2, 11]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama', allowed is 'nemotron_labs_diffusion'"),
        ({"hidden_size": "big"}, "hidden_size is 'big', allowed is a whole number >= 1"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0, allowed"),
        ({"num_key_value_heads": 5}, r"num_key_value_heads is 5, allowed is a divisor of num_attention_heads \(32\)"),
        ({"head_dim": 7}, "head_dim is 7, allowed is an even number"),
        ({"mask_token_id": None}, r"mask_token_id is None, allowed is a token id from 0 to vocab_size - 1 \(131071\)"),
        ({"mask_token_id": 131072}, "mask_token_id is 131072"),
        ({"eos_token_id": None}, "eos_token_id is None"),
        ({"eos_token_id": []}, r"eos_token_id is \[\]"),
        ({"tie_word_embeddings": True}, r"tie_word_embeddings is True, allowed is one of \[False\]"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"rope_parameters": None}, "rope_parameters is None"),
        ({"rope_parameters": PUBLISHED["rope_parameters"] | {"rope_type": "longrope"}}, "rope_type is 'longrope'"),
        ({"rope_parameters": PUBLISHED["rope_parameters"] | {"factor": -1}}, "factor is -1, allowed is a number > 0"),
        ({"rms_norm_eps": True}, "rms_norm_eps is True"),
    ],
)
def test_what_the_decoder_cannot_do_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(PUBLISHED | change)


def test_all_problems_come_together() -> None:
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_dict({"model_type": "x"}, source="here")
    message = str(caught.value)
    assert message.startswith("here: ")
    assert all(f"{field} is " in message for field in ("model_type", "hidden_size", "vocab_size", "rope_parameters"))


def test_folders_and_files_that_are_not_there_or_not_json(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        ModelConfig.from_folder(tmp_path / "absent")
    with pytest.raises(ConfigError, match=r"config\.json: no such file"):
        ModelConfig.from_folder(tmp_path)
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="not readable as JSON"):
        ModelConfig.from_folder(tmp_path)
    (tmp_path / "config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ConfigError, match="got list"):
        ModelConfig.from_folder(tmp_path)
