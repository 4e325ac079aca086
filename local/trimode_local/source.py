"""`--model URI`: the folder behind it, downloaded first where it is on the hub.

Belongs here: what the commands that start an engine of their own share.
"""

from __future__ import annotations

import os
from pathlib import Path

from trimode_local import console, download
from trimode_local.errors import BadInput


def model_folder(uri: str, draft_adapter: str | None = None) -> Path:
    """Raises BadInput naming `--model`."""
    from trimode_workers.sources import Hub, ModelSource, SourceError, fetch

    with download.shown(console.err) as told:
        try:
            return fetch(ModelSource.parse(uri), Hub.from_environment(os.environ), draft_adapter, told)
        except SourceError as exc:
            raise BadInput(f"--model: {exc}") from exc
