"""What a model's URI says. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote

from trimode_workers.errors import SourceError

Progress = Callable[[str, int, int], None]
"""(file, bytes there, bytes in all) over everything that is downloaded; called for each piece that arrives."""


def silent(file: str, done: int, total: int) -> None:
    """Progress that is not shown."""


ALLOWED = "hf://OWNER/NAME, hf://OWNER/NAME@REVISION, file:///PATH or tiny://"
_REPOSITORY = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


class Scheme(StrEnum):
    """Where the model lies."""

    HUB = "hf"
    FILE = "file"
    TINY = "tiny"


@dataclass(frozen=True, slots=True)
class ModelSource:
    """`place`: OWNER/NAME, an absolute path, or nothing. `revision`: branch, tag or commit of a hub's repository."""

    scheme: Scheme
    place: str = ""
    revision: str = "main"

    @classmethod
    def parse(cls, uri: str, revision: str = "main") -> ModelSource:
        """`revision` is what holds where the URI names none. A URI without a scheme is a path. Raises SourceError."""
        scheme, separator, rest = uri.partition("://")
        if not separator:
            return cls(Scheme.FILE, uri)
        if scheme == "hf" and (match := _REPOSITORY.fullmatch(rest)) is not None:
            return cls(Scheme.HUB, match["repository"], match["revision"] or revision)
        if scheme == "file" and rest.startswith("/"):
            return cls(Scheme.FILE, unquote(rest))
        if uri == "tiny://":
            return cls(Scheme.TINY)
        if scheme == "pvc":
            raise SourceError(
                f"model {uri}: pvc:// is a volume of a cluster, where the operator mounts it; here write file:///PATH"
            )
        raise SourceError(f"model {uri}: allowed are {ALLOWED}")
