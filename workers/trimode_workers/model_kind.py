"""Which models these engines decode, told from `config.json` alone. Pure, and free of torch.

Belongs here: the refusals that are worth making before gigabytes are downloaded. All else is checked when loading
(`trimode_workers.model.config`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MODEL_TYPE = "nemotron_labs_diffusion"
ARCHITECTURE = "NemotronLabsDiffusionModel"
_VISION_FIELDS = ("vision_config", "image_token_id", "image_token_index", "projector_config")
_VISION_NAMES = ("vlm", "vision", "conditionalgeneration", "_vl", "vlmodel")


def foreign(config: Mapping[str, Any]) -> str:
    """Why the model of this config cannot be decoded here, in words; empty where it can."""
    kind, architectures = config.get("model_type"), config.get("architectures")
    names = " ".join(map(str, [kind, *(architectures if isinstance(architectures, list) else [architectures])]))
    seen = [field for field in _VISION_FIELDS if config.get(field) is not None]
    if seen or any(name in names.lower() for name in _VISION_NAMES):
        return (
            f"a vision-language checkpoint ({', '.join(seen) or names}): only text is decoded here; "
            "use nvidia/Nemotron-Labs-Diffusion-3B, -8B or -14B"
        )
    if kind is not None and kind != MODEL_TYPE:
        return f"model_type is {kind!r}, allowed is {MODEL_TYPE!r}"
    if architectures is not None and architectures != [ARCHITECTURE]:
        return f"architectures is {architectures!r}, allowed is {[ARCHITECTURE]!r}"
    return ""
