"""From a YAML file to a valid resource.

Reading the file, with YAML's plain words taken as kubectl takes them, and finding the resource in it. What the values
mean is checked by `trimode_api.resource`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from trimode_api.errors import InvalidInput
from trimode_api.resource import KIND, NemotronDeployment
from trimode_local.errors import BadInput

MAX_BYTES = 1 << 20
"""A resource is a page of text; a larger file is the wrong file."""
LISTS = ("List", f"{KIND}List")
MAX_DEPTH = 100
"""A resource nests eight deep. PyYAML composes by recursion, and Python's stack ends at some 450 levels."""
MAX_VALUES = 100_000
"""With aliases followed: nine lines of lists, each nine times the one before, are 387 million values."""


class _Loader(yaml.SafeLoader):
    """Safe YAML that takes plain words as kubectl does, and refuses a key given twice, as the API server does.

    PyYAML alone reads `1e9` as text, 2024-01-01 as a date and 12:30 as 750.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._above: list[yaml.Node] = []
        self._extents: dict[yaml.Node, tuple[int, int]] = {}
        self._level = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """With its extent kept: levels and values below it, aliases followed."""
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        alias = self.check_event(yaml.AliasEvent)
        self._level += 1
        _refuse(self._level > MAX_DEPTH, f"nested more than {MAX_DEPTH} levels deep", mark)
        node = super().compose_node(parent, index)
        self._level -= 1
        if node is None:
            return None
        _refuse(alias and node not in self._extents, "an alias within what it stands for", mark)
        if not alias:
            if isinstance(node, yaml.MappingNode):
                parts = [part for pair in node.value for part in pair]
            else:
                parts = node.value if isinstance(node, yaml.SequenceNode) else []
            extents = [self._extents[part] for part in parts]
            below = max((levels for levels, _ in extents), default=0)
            self._extents[node] = 1 + below, 1 + sum(values for _, values in extents)
        levels, values = self._extents[node]
        _refuse(levels > MAX_DEPTH, f"nested more than {MAX_DEPTH} levels deep", mark)
        _refuse(values > MAX_VALUES, f"more than {MAX_VALUES} values, aliases followed", mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                _refuse(key.value in seen, f"key {key.value!r} is given twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_PLAIN = {
    "bool": ("y|Y|yes|Yes|YES|on|On|ON|true|True|TRUE|n|N|no|No|NO|off|Off|OFF|false|False|FALSE", [*"yYoOtTnNfF"]),
    "int": (r"[-+]?(0|[1-9][0-9_]*|0o?[0-7_]+|0x[0-9a-fA-F_]+|0b[01_]+)", [*"-+0123456789"]),
    "float": (r"[-+]?((\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|\.inf)|\.nan", [*"-+0123456789."]),
    "null": ("~|null|Null|NULL|", [*"~nN", ""]),
    "merge": ("<<", ["<"]),
}
_Loader.yaml_implicit_resolvers = {}
_Loader.bool_values = {**_Loader.bool_values, "y": True, "n": False}
for _tag, (_words, _first) in _PLAIN.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_words})$"), _first)


def _refuse(wrong: bool, words: str, mark: yaml.Mark) -> None:
    if wrong:
        raise yaml.MarkedYAMLError(problem=words, problem_mark=mark)


def load(file: str) -> NemotronDeployment:
    """The one resource in `file` (`-`: standard input).

    Raises BadInput for a file that cannot be read or holds no single resource, InvalidInput for a resource with
    problems; both name the file.
    """
    if file == "-":
        return parse(sys.stdin.read(), "standard input")
    path = Path(file)
    try:
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            raise BadInput(f"{file}: {path.stat().st_size} bytes; a resource is below {MAX_BYTES}")
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise BadInput(f"{file}: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise BadInput(f"{file}: not text in UTF-8 (byte {exc.start})") from exc
    return parse(text, file)


def parse(text: str, name: str) -> NemotronDeployment:
    """The resource in `text`; `name` stands for it in messages."""
    try:
        found = [document for document in yaml.load_all(text, Loader=_Loader) if document is not None]
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark is not None else ""
        parts = (getattr(exc, "problem", None), getattr(exc, "context", None))
        problem = ", ".join(part for part in parts if part) or str(exc).splitlines()[0]
        raise BadInput(f"{name}{place}: not valid YAML: {problem}") from exc
    try:
        return NemotronDeployment.parse(_resource(found, name))
    except InvalidInput as exc:
        raise InvalidInput(exc.problems, name) from exc


def _resource(found: list[Any], name: str) -> dict[str, Any]:
    """The one resource among a file's documents; objects of other kinds, such as its Namespace, are kubectl's."""
    items = []
    for document in found:
        # A list as `kubectl get -o yaml` writes it.
        if isinstance(document, dict) and document.get("kind") in LISTS and isinstance(document.get("items"), list):
            items += [item for item in document["items"] if item is not None]
        else:
            items.append(document)
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
