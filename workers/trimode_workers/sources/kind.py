"""Refusal of a folder whose model no engine here decodes."""

from __future__ import annotations

import json
from pathlib import Path

from trimode_workers.errors import SourceError
from trimode_workers.model_kind import foreign


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
