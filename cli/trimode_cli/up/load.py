"""From a YAML file to a valid resource.

Belongs here: reading and parsing with positions in every message. What the values mean is `trimode_api.resource`'s.
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
from trimode_cli.errors import BadInput

MAX_BYTES = 1 << 20
"""A resource is a page of text; a larger file is the wrong file."""


class _Loader(yaml.SafeLoader):
    """Safe YAML that takes plain words as kubectl does, and refuses a key given twice, as the API server does.

    PyYAML alone reads `1e9` as text, 2024-01-01 as a date and 12:30 as 750.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"key {key.value!r} is given twice", problem_mark=key.start_mark)
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


def load(file: str) -> NemotronDeployment:
    """The one resource in `file` (`-`: standard input).

    Raises BadInput for a file that cannot be read or is no single YAML mapping, InvalidInput for a resource with
    problems; both name the file.
    """
    return parse(_read(file), "standard input" if file == "-" else file)


def parse(text: str, name: str) -> NemotronDeployment:
    """The resource in `text`; `name` stands for it in messages."""
    try:
        documents = [document for document in yaml.load_all(text, Loader=_Loader) if document is not None]
    except yaml.YAMLError as exc:
        raise BadInput(f"{name}{_position(exc)}: not valid YAML: {_problem(exc)}") from exc
    if not documents:
        raise BadInput(f"{name}: empty; expected one {KIND}", "See examples/tiny.yaml for a small one.")
    if len(documents) > 1:
        raise BadInput(f"{name}: {len(documents)} documents; expected one {KIND} per file")
    if not isinstance(documents[0], dict):
        raise BadInput(f"{name}: a {_kind_of(documents[0])}; expected a mapping with apiVersion, kind, metadata, spec")
    try:
        return NemotronDeployment.parse(documents[0])
    except InvalidInput as exc:
        raise InvalidInput(exc.problems, name) from exc


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


def _position(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f":{mark.line + 1}:{mark.column + 1}" if mark is not None else ""


def _problem(error: yaml.YAMLError) -> str:
    words = [getattr(error, "problem", None), getattr(error, "context", None)]
    return ", ".join(word for word in words if word) or str(error).splitlines()[0]


def _kind_of(value: Any) -> str:
    return {list: "list", str: "text", bool: "boolean", int: "number", float: "number"}.get(type(value), "value")
