"""What a rule over several fields is.

Belongs here: its form, and the little that predicates share. A predicate gets the raw mapping with defaults filled in;
where the mapping is malformed it may raise, and the rule is passed over, because the schema's own findings already say
what is wrong there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """`scope`: where the rule sits in the spec, `*` for each item of a list. `field`: what it blames, from there."""

    scope: Path
    field: Path
    message: str
    cel: str
    holds: Callable[[Any], bool]


def unique(items: list[Any]) -> bool:
    """Whether none is there twice."""
    return len(set(items)) == len(items)


def modes_of(spec: Any) -> set[str]:
    """Modes of all pools."""
    return {mode for pool in spec["pools"] for mode in pool["modes"]}
