"""What a model's authors recommend where the client says nothing: generation_config.json.

Rule: `do_sample: false` means greedy; a `temperature` or `top_p` in the file counts, and so do `top_k`, `min_p` and
`repetition_penalty`; otherwise OpenAI's defaults hold (1.0 and 1.0, and none).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimode_workers.errors import TokenizerError
from trimode_workers.text.tokenizer import read_json


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """Used where a request leaves the field out. `temperature` 0 is greedy."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


def load_defaults(folder: Path) -> SamplingDefaults:
    """The defaults of the model in `folder`; TokenizerError where the file is there but unreadable."""
    path = folder / "generation_config.json"
    config = read_json(path)
    repetition = _number(config, "repetition_penalty", path, 100.0)
    if config.get("do_sample") is False:
        return SamplingDefaults(temperature=0.0, repetition_penalty=repetition)
    return SamplingDefaults(
        temperature=_number(config, "temperature", path, 2.0),
        top_p=_number(config, "top_p", path, 1.0),
        top_k=int(_number(config, "top_k", path, 1e9, 0.0)),
        min_p=_number(config, "min_p", path, 1.0, 0.0),
        repetition_penalty=repetition,
    )


def load_ends(folder: Path) -> frozenset[int]:
    """Ids that end an answer: of generation_config.json, else of config.json. TokenizerError for unreadable files."""
    for name in ("generation_config.json", "config.json"):
        value = read_json(folder / name).get("eos_token_id")
        if value is not None:
            return frozenset(value if isinstance(value, list) else [value])
    return frozenset()


def _number(config: dict[str, Any], name: str, path: Path, highest: float, otherwise: float = 1.0) -> float:
    value = config.get(name)
    if value is None:
        return otherwise
    if not isinstance(value, int | float) or not 0 <= value <= highest:
        raise TokenizerError(f"{path}: {name} must be a number from 0 to {highest:g}, got {value!r}")
    return float(value)
