"""Which models these engines decode, known from `config.json` alone. Free of torch.

All else is checked when loading (`trimode_workers.model.config`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimode_workers.errors import SourceError

MODEL_TYPE = "nemotron_labs_diffusion"
ARCHITECTURE = "NemotronLabsDiffusionModel"
_VISION_FIELDS = ("vision_config", "image_token_id", "image_token_index", "projector_config")
_VISION_NAMES = ("vlm", "vision", "conditionalgeneration", "_vl", "vlmodel")
_INSTEAD = "use nvidia/Nemotron-Labs-Diffusion-3B, -8B or -14B"


def foreign(config: Mapping[str, Any]) -> str:
    """Why the model of this config cannot be decoded here, in words; empty where it can."""
    kind, architectures = config.get("model_type"), config.get("architectures")
    names = " ".join(map(str, [kind, *(architectures if isinstance(architectures, list) else [architectures])]))
    seen = [field for field in _VISION_FIELDS if config.get(field) is not None]
    if seen or any(name in names.lower() for name in _VISION_NAMES):
        return f"a vision-language checkpoint ({', '.join(seen) or names}): only text is decoded here; {_INSTEAD}"
    # It calls itself nemotron_h, as the single tower that it is made of does.
    if "twotower" in names.lower().replace("_", ""):
        return (
            f"a Nemotron-Labs-TwoTower checkpoint ({names}), another family: a tower that reads and one that denoises, "
            f"of Mamba, attention and experts, and no self-speculation; {_INSTEAD}"
        )
    if (quantization := config.get("quantization")) is not None:
        return f"repacked for MLX (quantization is {quantization!r}): its integer weights are not read here; {_INSTEAD}"
    if kind is not None and kind != MODEL_TYPE:
        return f"model_type is {kind!r}, allowed is {MODEL_TYPE!r}"
    if architectures is not None and architectures != [ARCHITECTURE]:
        return f"architectures is {architectures!r}, allowed is {[ARCHITECTURE]!r}"
    return ""


def check_kind(folder: Path, name: str) -> None:
    """SourceError where `folder/config.json` is of a model that no engine here decodes.

    A config that is missing or malformed passes: loading says what is wrong with it.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if isinstance(config, dict) and (reason := foreign(config)):
        raise SourceError(f"model {name}: {reason}")
