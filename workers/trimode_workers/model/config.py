"""The shape of a tri-mode decoder, read from a Hugging Face `config.json`.

Only values that change what the decoder computes (or which ids are special) belong here. All problems of a
config are reported together, each with its field, the value found and what is allowed.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trimode_workers.errors import ConfigError, ModelError
from trimode_workers.model_kind import ARCHITECTURE, MODEL_TYPE, foreign


def read_object(path: Path, error: type[ModelError], needed: str) -> dict[str, Any]:
    """The JSON object in `path`. Raises `error`; `needed` is what is said where there is no such file."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path}: no such file; {needed}") from None
    except (OSError, ValueError) as exc:
        raise error(f"{path}: not readable as JSON: {exc}") from exc
    if not isinstance(raw, dict):
        raise error(f"{path}: got {type(raw).__name__}, allowed is a JSON object")
    return raw


@dataclass(frozen=True)
class RopeConfig:
    """Rotary embedding: plain, or YaRN; `query_scaling_beta` is the published `llama_4_scaling_beta`."""

    kind: Literal["default", "yarn"] = "default"
    theta: float = 10000.0
    factor: float = 1.0
    original_max_positions: int = 4096
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    query_scaling_beta: float = 0.0


@dataclass(frozen=True)
class ModelConfig:
    """Shapes (in elements), special token ids and rotary settings of one decoder."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    max_positions: int
    mask_token_id: int
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None = None
    pad_token_id: int | None = None
    block_size: int = 32
    norm_eps: float = 1e-5
    rope: RopeConfig = RopeConfig()

    @classmethod
    def from_folder(cls, folder: str | Path) -> "ModelConfig":
        """Read `folder/config.json`. Raises ConfigError."""
        path = Path(folder) / "config.json"
        if not Path(folder).is_dir():
            raise ConfigError(f"model folder {str(folder)!r}: no such folder")
        return cls.from_dict(read_object(path, ConfigError, "a model folder needs config.json"), source=str(path))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], source: str = "config.json") -> "ModelConfig":
        """Check and convert the published layout. Raises ConfigError listing every problem."""
        return _Reader(raw, source).read()

    def to_dict(self) -> dict[str, Any]:
        """The published layout, ready for `config.json`; `from_dict` reads it back to an equal config."""
        rope = self.rope
        parameters: dict[str, Any] = {
            "rope_type": rope.kind,
            "rope_theta": rope.theta,
            "original_max_position_embeddings": rope.original_max_positions,
            "llama_4_scaling_beta": rope.query_scaling_beta,
        }
        if rope.kind == "yarn":
            parameters |= {"factor": rope.factor, "beta_fast": rope.beta_fast, "beta_slow": rope.beta_slow}
            parameters |= {"mscale": rope.mscale, "mscale_all_dim": rope.mscale_all_dim}
        eos = self.eos_token_ids
        return {
            "architectures": [ARCHITECTURE],
            "model_type": MODEL_TYPE,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": self.norm_eps,
            "max_position_embeddings": self.max_positions,
            "rope_parameters": parameters,
            "tie_word_embeddings": False,
            "attention_bias": False,
            "mlp_bias": False,
            "sliding_window": None,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": eos[0] if len(eos) == 1 else list(eos),
            "pad_token_id": self.pad_token_id,
            "mask_token_id": self.mask_token_id,
            "block_size": self.block_size,
            "dtype": "float32",
        }


class _Reader:
    """Collects values and problems of one raw config; one use."""

    def __init__(self, raw: Mapping[str, Any], source: str) -> None:
        self.raw, self.source = raw, source
        self.problems: list[str] = []

    def read(self) -> ModelConfig:
        raw = self.raw
        for field, allowed in _FIXED.items():
            if raw.get(field, allowed[0]) not in allowed:
                self.refuse(field, raw[field], f"one of {list(allowed)}")
        if reason := foreign(raw):
            self.problems.append(reason)
        if "model_type" not in raw:
            self.refuse("model_type", None, f"{MODEL_TYPE!r}")
        hidden, heads = self.count("hidden_size"), self.count("num_attention_heads")
        kv_heads = self.count("num_key_value_heads", default=heads)
        if heads % kv_heads:
            self.refuse("num_key_value_heads", kv_heads, f"a divisor of num_attention_heads ({heads})")
        head_dim = self.count("head_dim", default=max(hidden // heads, 1))
        if head_dim % 2:
            self.refuse("head_dim", head_dim, "an even number")
        vocab = self.count("vocab_size")
        config = ModelConfig(
            vocab_size=vocab,
            hidden_size=hidden,
            intermediate_size=self.count("intermediate_size"),
            layers=self.count("num_hidden_layers"),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            max_positions=self.count("max_position_embeddings"),
            mask_token_id=self.token("mask_token_id", vocab, required=True) or 0,
            eos_token_ids=self.eos(vocab),
            bos_token_id=self.token("bos_token_id", vocab),
            pad_token_id=self.token("pad_token_id", vocab),
            block_size=self.count("block_size", default=32),
            norm_eps=self.number("rms_norm_eps", raw, default=1e-5),
            rope=self.rope(),
        )
        if self.problems:
            raise ConfigError(f"{self.source}: " + "; ".join(self.problems))
        return config

    def refuse(self, field: str, value: object, allowed: str) -> None:
        self.problems.append(f"{field} is {value!r}, allowed is {allowed}")

    def count(self, field: str, default: int | None = None) -> int:
        value = self.raw.get(field)
        if value is None and default is not None:
            return default
        if type(value) is not int or value < 1:
            self.refuse(field, value, "a whole number >= 1")
            return 2  # harmless stand-in: the problem above ends the reading
        return value

    def token(self, field: str, vocab: int, required: bool = False) -> int | None:
        value = self.raw.get(field)
        if value is None and not required:
            return None
        if type(value) is not int or not 0 <= value < vocab:
            self.refuse(field, value, f"a token id from 0 to vocab_size - 1 ({vocab - 1})")
            return 0
        return value

    def eos(self, vocab: int) -> tuple[int, ...]:
        value = self.raw.get("eos_token_id")
        ids = value if isinstance(value, list) else [value]
        if not ids or any(type(i) is not int or not 0 <= i < vocab for i in ids):
            self.refuse("eos_token_id", value, f"a token id, or a list of them, from 0 to {vocab - 1}")
            return (0,)
        return tuple(ids)

    def number(
        self,
        field: str,
        where: Mapping[str, Any],
        default: float | None = None,
        allowed: str = "a number > 0",
        good: Callable[[float], bool] = lambda v: v > 0,
    ) -> float:
        value = where.get(field, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not good(value):
            self.refuse(field, value, allowed)
            return 1.0
        return float(value)

    def rope(self) -> RopeConfig:
        where = self.raw.get("rope_parameters")
        if not isinstance(where, Mapping):
            self.refuse("rope_parameters", where, "an object with rope_type and rope_theta")
            return RopeConfig()
        kind = where.get("rope_type", where.get("type", "default"))
        if kind not in ("default", "yarn"):
            self.refuse("rope_parameters.rope_type", kind, "'default' or 'yarn'")
        original = where.get("original_max_position_embeddings", self.raw.get("max_position_embeddings"))
        if type(original) is not int or original < 1:
            self.refuse("rope_parameters.original_max_position_embeddings", original, "a whole number >= 1")
            original = 1
        if where.get("attention_factor") is not None:
            self.refuse("rope_parameters.attention_factor", where["attention_factor"], "None")
        optional = {
            name: None if where.get(name) is None else self.number(name, where) for name in ("mscale", "mscale_all_dim")
        }
        return RopeConfig(
            kind=kind,
            theta=self.number("rope_theta", where),
            factor=self.number("factor", where, default=None if kind == "yarn" else 1.0),
            original_max_positions=original,
            beta_fast=self.number("beta_fast", where, default=32.0),
            beta_slow=self.number("beta_slow", where, default=1.0),
            query_scaling_beta=self.number("llama_4_scaling_beta", where, 0.0, "a number >= 0", lambda v: v >= 0),
            **optional,
        )


_FIXED: dict[str, tuple[object, ...]] = {
    "hidden_act": ("silu",),
    "tie_word_embeddings": (False,),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "sliding_window": (None,),
    "quantization_config": (None,),
}
