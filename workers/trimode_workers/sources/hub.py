"""Models from a Hugging Face hub, or a mirror that speaks like one.

huggingface_hub finds, lists and keeps files; large ones are fetched by `transfer` into its cache first, because they
then survive an interrupted download and are checked against their SHA-256. A model that is in the cache serves
without the hub.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import RepoFile

from trimode_workers.errors import SourceError
from trimode_workers.model_kind import check_kind
from trimode_workers.sources.transfer import Blob, Silent, Transfer, git_blob_id
from trimode_workers.sources.uri import ModelSource, Progress

WANTED = (
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "chat_template*.*",
    "model*.safetensors",
    "model.safetensors.index.json",
    "sampler.safetensors",
)
"""Files of a repository that engines read; code, other formats and pictures stay where they are."""

_log = logging.getLogger(__name__)


CODE = "*.py"


@dataclass(frozen=True, slots=True)
class Parts:
    """Which files of a repository are wanted: with a draft adapter's folder, with code."""

    adapter: str | None = None
    code: bool = False

    @property
    def patterns(self) -> list[str]:
        """As huggingface_hub has them."""
        own = [*WANTED, *([CODE] if self.code else [])]
        return [*own, *([f"{self.adapter}/*.json", f"{self.adapter}/*.safetensors"] if self.adapter else [])]

    def wanted(self, path: str) -> bool:
        if "/" in path and not (self.adapter and path.startswith(f"{self.adapter}/")):
            return False
        return any(fnmatch(path, pattern) for pattern in self.patterns)


@dataclass(frozen=True, slots=True)
class Hub:
    """`endpoint`: None is huggingface.co. `token`: None is what `hf auth login` has left. `cache`: None is its own."""

    endpoint: str | None = None
    token: str | None = None
    cache: Path | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Hub:
        """By the usual variables: HF_ENDPOINT, HF_TOKEN, HF_HUB_CACHE, HF_HOME."""
        cache = environment.get("HF_HUB_CACHE") or None
        home = environment.get("HF_HOME") or None
        return cls(
            endpoint=(environment.get("HF_ENDPOINT") or "").rstrip("/") or None,
            token=environment.get("HF_TOKEN") or None,
            cache=Path(cache) if cache else Path(home, "hub") if home else None,
        )

    @property
    def address(self) -> str:
        return self.endpoint or constants.ENDPOINT

    def fetch(self, source: ModelSource, parts: Parts, progress: Progress) -> Path:
        """The snapshot's folder, complete and checked. Raises SourceError."""
        name = f"hf://{source.place}@{source.revision}"
        try:
            return self._fetch(source, parts, progress, name)
        except GatedRepoError as exc:
            raise SourceError(
                f"model {name}: {self.address} asks for access first: accept its terms there, then set HF_TOKEN"
            ) from exc
        except RepositoryNotFoundError as exc:
            token = "the token in HF_TOKEN cannot see it" if self.token else "it is private and HF_TOKEN is not set"
            raise SourceError(f"model {name}: {self.address} has no such repository, or {token}") from exc
        except RevisionNotFoundError as exc:
            raise SourceError(f"model {name}: the repository has no revision {source.revision!r}") from exc
        except EntryNotFoundError as exc:
            raise SourceError(f"model {name}: the repository lacks a file: {_line(exc)}") from exc
        except (HfHubHTTPError, httpx2.HTTPError) as exc:
            raise SourceError(f"model {name}: {self.address} does not answer as it should: {_line(exc)}") from exc
        except OSError as exc:
            raise SourceError(f"model {name}: cannot be written to the cache: {_line(exc)}") from exc

    def _fetch(self, source: ModelSource, parts: Parts, progress: Progress, name: str) -> Path:
        api = HfApi(endpoint=self.endpoint, token=self.token)
        try:
            commit = api.model_info(source.place, revision=source.revision).sha
            assert commit is not None
            files = [
                entry
                for entry in api.list_repo_tree(source.place, recursive=True, revision=commit)
                if isinstance(entry, RepoFile) and parts.wanted(entry.path)
            ]
        except (httpx2.TransportError, OfflineModeIsEnabled) as exc:
            return self._cached(source, parts, name, exc)
        except HfHubHTTPError as exc:
            if exc.response.status_code < 500:
                raise
            return self._cached(source, parts, name, exc)
        adapter = parts.adapter
        if adapter is not None and not any(file.path.startswith(f"{adapter}/") for file in files):
            raise SourceError(f"model {name}: there is no draft adapter {adapter!r} in the repository")
        common: dict[str, Any] = {"revision": commit, "cache_dir": self.cache, "tqdm_class": Silent}
        common |= {"endpoint": self.endpoint, "token": self.token}
        # A model of another kind is refused before its weights are downloaded.
        check_kind(Path(hf_hub_download(source.place, "config.json", **common)).parent, name)
        self._get_large(source, commit, files, progress, name)
        folder = Path(snapshot_download(source.place, allow_patterns=[file.path for file in files], **common))
        if source.revision != commit:
            # So that the branch or tag is known without the hub, too.
            reference = self._storage(source) / "refs" / source.revision
            reference.parent.mkdir(parents=True, exist_ok=True)
            reference.write_text(commit, encoding="utf-8")
        for file in files:
            if file.lfs is None and git_blob_id(folder / file.path) != file.blob_id:
                raise SourceError(f"model {name}: {folder / file.path} is damaged (wrong checksum); remove it")
        return folder

    def _get_large(
        self, source: ModelSource, commit: str, files: Sequence[RepoFile], progress: Progress, name: str
    ) -> None:
        """Bring large files to where huggingface_hub would have put them."""
        storage = self._storage(source)
        blobs = [Blob(file.path, file.lfs.size, file.lfs.sha256) for file in files if file.lfs is not None]
        locks = storage.parent / ".locks" / storage.name
        transfer = Transfer(self.address, self.token, source.place, commit, storage / "blobs", locks)
        missing = sum(transfer.missing(blob) for blob in blobs)
        if missing:
            storage.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(storage).free
            if missing > free:
                raise SourceError(
                    f"model {name}: {_gib(missing)} to download, {_gib(free)} free in {storage}; "
                    "make room, or set HF_HOME to another disk"
                )
        transfer.get(blobs, progress)

    def _cached(self, source: ModelSource, parts: Parts, name: str, cause: Exception) -> Path:
        """What an earlier download left, where the hub cannot be reached."""
        try:
            folder = snapshot_download(
                source.place,
                revision=source.revision,
                cache_dir=self.cache,
                local_files_only=True,
                allow_patterns=parts.patterns,
                tqdm_class=Silent,
            )
        except (LocalEntryNotFoundError, IncompleteSnapshotError, FileNotFoundError) as exc:
            raise SourceError(
                f"model {name}: {self.address} cannot be reached ({_line(cause)}), and the cache has no whole copy"
            ) from exc
        check_kind(Path(folder), name)
        _log.warning("model %s: %s cannot be reached; serving the copy in the cache", name, self.address)
        return Path(folder)

    def _storage(self, source: ModelSource) -> Path:
        cache = self.cache or Path(constants.HF_HUB_CACHE)
        return cache.expanduser().resolve() / repo_folder_name(repo_id=source.place, repo_type="model")


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"


def _line(exc: Exception) -> str:
    return " ".join(str(exc).split())[:300] or type(exc).__name__
