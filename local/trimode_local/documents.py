"""From YAML text to plain values, as kubectl reads it.

Belongs here: how plain words are taken, and what no file needs: keys twice, nesting without end. Which document is the
resource is `load`'s.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

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
            self._extents[node] = self._extent(node)
        levels, values = self._extents[node]
        _refuse(levels > MAX_DEPTH, f"nested more than {MAX_DEPTH} levels deep", mark)
        _refuse(values > MAX_VALUES, f"more than {MAX_VALUES} values, aliases followed", mark)
        return node

    def _extent(self, node: yaml.Node) -> tuple[int, int]:
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        else:
            parts = node.value if isinstance(node, yaml.SequenceNode) else []
        extents = [self._extents[part] for part in parts]
        return 1 + max((levels for levels, _ in extents), default=0), 1 + sum(values for _, values in extents)

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


def documents(text: str) -> list[Any]:
    """The documents of `text` that are not empty. Raises yaml.YAMLError, with a place where there is one."""
    return [document for document in yaml.load_all(text, Loader=_Loader) if document is not None]


def place(error: yaml.YAMLError) -> str:
    """Where it went wrong, as `:line:column`; empty where that is not known."""
    mark = getattr(error, "problem_mark", None)
    return f":{mark.line + 1}:{mark.column + 1}" if mark is not None else ""


def problem(error: yaml.YAMLError) -> str:
    """What went wrong, on one line."""
    words = [getattr(error, "problem", None), getattr(error, "context", None)]
    return ", ".join(word for word in words if word) or str(error).splitlines()[0]


def _refuse(wrong: bool, words: str, mark: yaml.Mark) -> None:
    if wrong:
        raise yaml.MarkedYAMLError(problem=words, problem_mark=mark)
