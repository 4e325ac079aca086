"""From a model's URI to the folder it is in.

Belongs here: what a worker can load, and plain words for what it cannot.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from trimode_workers.process.client import EngineFailed


def check_source(uri: str) -> None:
    """EngineFailed where no worker can load from `uri`, whatever is in its file system."""
    if uri.startswith("hf://"):
        raise EngineFailed(
            f"model {uri}: workers cannot download models yet; put its folder on a volume and write "
            "pvc://CLAIM/PATH, or into the image and write file:///PATH"
        )
    if "://" in uri and not uri.startswith(("tiny://", "file:///")):
        raise EngineFailed(f"model {uri}: workers load tiny:// or file:///PATH")


def model_folder(uri: str) -> Path:
    """The folder behind `uri` (or a plain path), in this process's file system. EngineFailed where there is none."""
    check_source(uri)
    if uri == "tiny://":
        import trimode_workers.tiny

        return Path(trimode_workers.tiny.__path__[0])
    folder = Path(unquote(uri.removeprefix("file://")))
    if not folder.is_dir():
        raise EngineFailed(f"model {uri}: there is no folder {folder} in the worker")
    return folder
