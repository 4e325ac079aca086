"""From a YAML file to a valid resource.

Reading the file and finding the resource in it. YAML itself is read by `documents`; what the values mean is checked by
`trimode_api.resource`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from trimode_api.errors import InvalidInput
from trimode_api.resource import KIND, NemotronDeployment
from trimode_local.documents import documents, place, problem
from trimode_local.errors import BadInput

MAX_BYTES = 1 << 20
"""A resource is a page of text; a larger file is the wrong file."""
LISTS = ("List", f"{KIND}List")


def load(file: str) -> NemotronDeployment:
    """The one resource in `file` (`-`: standard input).

    Raises BadInput for a file that cannot be read or holds no single resource, InvalidInput for a resource with
    problems; both name the file.
    """
    return parse(_read(file), "standard input" if file == "-" else file)


def parse(text: str, name: str) -> NemotronDeployment:
    """The resource in `text`; `name` stands for it in messages."""
    try:
        found = documents(text)
    except yaml.YAMLError as exc:
        raise BadInput(f"{name}{place(exc)}: not valid YAML: {problem(exc)}") from exc
    try:
        return NemotronDeployment.parse(_resource(found, name))
    except InvalidInput as exc:
        raise InvalidInput(exc.problems, name) from exc


def _resource(found: list[Any], name: str) -> dict[str, Any]:
    """The one resource among a file's documents; objects of other kinds, such as its Namespace, are kubectl's."""
    items = [item for document in found for item in _items(document)]
    if not items:
        raise BadInput(f"{name}: empty; expected one {KIND}", "See examples/tiny.yaml for a small one.")
    for item in items:
        if not isinstance(item, dict):
            kinds = {list: "list", str: "text", bool: "boolean", int: "number", float: "number"}
            kind = kinds.get(type(item), "value")
            raise BadInput(f"{name}: a {kind}; expected a mapping with apiVersion, kind, metadata, spec")
    ours: list[dict[str, Any]] = items if len(items) == 1 else [item for item in items if item.get("kind") == KIND]
    if not ours:
        found_kinds = ", ".join(str(item.get("kind", "no kind"))[:63] for item in items[:5])
        raise BadInput(f"{name}: {len(items)} objects and no {KIND} among them ({found_kinds})")
    if len(ours) > 1:
        raise BadInput(f"{name}: {len(ours)} times {KIND}; expected one per file")
    return ours[0]


def _items(document: Any) -> list[Any]:
    """The items of a list as `kubectl get -o yaml` writes it, or else the document alone."""
    if isinstance(document, dict) and document.get("kind") in LISTS and isinstance(document.get("items"), list):
        return [item for item in document["items"] if item is not None]
    return [document]


def _read(file: str) -> str:
    if file == "-":
        return sys.stdin.read()
    path = Path(file)
    try:
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            raise BadInput(f"{file}: {path.stat().st_size} bytes; a resource is below {MAX_BYTES}")
        return path.read_text(encoding="utf-8")
    except OSError as exc:
        raise BadInput(f"{file}: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise BadInput(f"{file}: not text in UTF-8 (byte {exc.start})") from exc
