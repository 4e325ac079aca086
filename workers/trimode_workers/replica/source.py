"""From a model's URI to the folder it is in, on the node of a replica."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from trimode_workers.process.pending import EngineFailed
from trimode_workers.sources import Hub, ModelSource, SourceError, fetch

LOG_EVERY_S = 10.0
"""Seconds between two log lines about a download."""

_log = logging.getLogger(__name__)


def check_source(uri: str) -> None:
    """EngineFailed where no worker can load from `uri`, independent of what is in its file system."""
    try:
        ModelSource.parse(uri)
    except SourceError as exc:
        raise EngineFailed(str(exc)) from exc


def model_folder(uri: str, draft_adapter: str | None = None, hub: Hub | None = None, *, code: bool = False) -> Path:
    """The folder behind `uri` (or a plain path) in this process's file system; downloads `hf://` first.

    Blocks while it downloads. `hub` None is the one that the environment names. `code`: with the
    Python files of the repository, which other engines run. EngineFailed where it cannot be had.
    """
    try:
        source = ModelSource.parse(uri)
        return fetch(source, hub or Hub.from_environment(os.environ), draft_adapter, _LoggedProgress(uri), code=code)
    except SourceError as exc:
        raise EngineFailed(str(exc)) from exc


class _LoggedProgress:
    """Progress as a log line every `LOG_EVERY_S` seconds."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._next = time.monotonic() + LOG_EVERY_S

    def __call__(self, file: str, done: int, total: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LOG_EVERY_S
            _log.info("model %s: %d of %d MiB (%s)", self._uri, done >> 20, total >> 20, file)
