"""Model sources: from a URI to a folder on this machine. No torch: command line and replicas use it before any.

    hf://OWNER/NAME[@REVISION]   downloaded into the Hugging Face cache: resumed, checked, with progress
    file:///PATH                 a folder of this machine, or of the image
    tiny://                      the model in this package
    pvc://CLAIM/PATH             a cluster mounts it and writes file:///PATH instead; refused here

Belongs here: parsing, downloading, and the refusal of what no engine here decodes.
"""

from __future__ import annotations

from pathlib import Path

from trimode_workers.errors import SourceError
from trimode_workers.model_kind import check_kind
from trimode_workers.sources.hub import Hub, Parts
from trimode_workers.sources.uri import ModelSource, Progress, Scheme, silent

__all__ = ["Hub", "ModelSource", "Progress", "SourceError", "fetch", "silent"]


def fetch(
    source: ModelSource,
    hub: Hub,
    adapter: str | None = None,
    progress: Progress = silent,
    *,
    code: bool = False,
) -> Path:
    """The folder of the model, downloaded where it is not here yet.

    `adapter` is the folder of a draft adapter inside the source. `code`: a repository's Python files, too. Raises
    SourceError in plain words: no such folder, repository or revision; no access; no connection and nothing
    cached; damaged; a model of another kind.
    """
    if source.scheme is Scheme.HUB:
        return hub.fetch(source, Parts(adapter, code), progress)
    if source.scheme is Scheme.TINY:
        import trimode_workers.tiny

        folder = Path(trimode_workers.tiny.__path__[0])
    else:
        folder = Path(source.place)
    if not folder.is_dir():
        raise SourceError(f"model: there is no folder {folder} here")
    check_kind(folder, str(folder))
    if adapter is not None and not (folder / adapter).is_dir():
        raise SourceError(f"model {folder}: there is no draft adapter {adapter!r} in it")
    return folder
