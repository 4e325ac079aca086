"""What a rule over several fields is.

A predicate gets the raw mapping with defaults filled in; where the mapping is malformed it may raise, and the rule is
passed over, because the schema's own findings already say what is wrong there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

Path = tuple[str | int, ...]
Breach = tuple[Path, str]
"""What is blamed, from the rule's scope, and what is allowed instead."""


@dataclass(frozen=True, slots=True)
class Words:
    """A message that depends on the resource: as CEL for the API server, and the same here.

    In CEL by `format`: the estimated cost of joining texts of unknown length is over the budget.
    """

    cel: str
    here: Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class Rule:
    """`scope`: where the rule sits in the spec, `*` for each item of a list. `field`: what it blames, from there.

    `words` say more than `message`, which the API server falls back to.
    """

    scope: Path
    field: Path
    message: str
    cel: str
    holds: Callable[[Any], bool]
    words: Words | None = None

    @property
    def blamed(self) -> Path:
        """The field that it blames, from the spec."""
        return (*self.scope, *self.field)

    def breaches(self, value: Any) -> Iterator[Breach]:
        """What in `value`, the mapping at the scope, breaks the rule."""
        if not self.holds(value):
            yield self.field, self.words.here(value) if self.words else self.message

    def validation(self) -> dict[str, str]:
        """The rule as an item of x-kubernetes-validations."""
        expression = {"messageExpression": self.words.cel} if self.words else {}
        return {"rule": self.cel, "message": self.message, **expression, "fieldPath": field_path(self.field)}


@dataclass(frozen=True, slots=True)
class PoolRule:
    """A rule for each pool that reads other parts of the spec too; `cel` knows the spec as self and the pool as p.

    CEL cannot look out of a list's item, so the rule sits on the spec; a fieldPath cannot name an item of a list, so
    the API server's message does.
    """

    scope: ClassVar[Path] = ()

    field: Path
    message: str
    cel: str
    holds: Callable[[Any, Any], bool]

    @property
    def blamed(self) -> Path:
        """The field that it blames, from the spec."""
        return ("pools", "*", *self.field)

    def breaches(self, spec: Any) -> Iterator[Breach]:
        """The pools that break the rule."""
        for index, pool in enumerate(spec["pools"]):
            if not self.holds(spec, pool):
                yield ("pools", index, *self.field), self.message

    def validation(self) -> dict[str, str]:
        """The rule as an item of x-kubernetes-validations; its message names the first such pool."""
        words = json.dumps(f"spec.pools[%d]{field_path(self.field)}: {self.message}")
        return {
            "rule": f"self.pools.all(p, {self.cel})",
            "message": self.message,
            "messageExpression": f"{words}.format([self.pools.map(p, {self.cel}).indexOf(false)])",
            "fieldPath": ".pools",
        }


@dataclass(frozen=True, slots=True)
class Distinct:
    """No item of the list at `scope` is there twice; `key` tells mappings apart.

    Not CEL's: the API server checks it by x-kubernetes-list-type, and blames the second of two.
    """

    scope: Path
    key: str | None = None

    @property
    def blamed(self) -> Path:
        """The list, from the spec."""
        return self.scope

    @property
    def message(self) -> str:
        """The rule in words."""
        return f"must not have one {self.key or 'item'} twice"

    def breaches(self, items: Any) -> Iterator[Breach]:
        """The items that were there before; what is malformed is left to the schema's own findings."""
        seen: list[Any] = []
        for index, item in enumerate(items if isinstance(items, list) else ()):
            value = item if self.key is None else item.get(self.key) if isinstance(item, dict) else None
            if value is not None and value in seen:
                yield (index,), f"{self.key or 'item'} {value!r} is there twice"
            seen.append(value)

    def validation(self) -> None:
        """None: the schema itself says it."""


AnyRule = Rule | PoolRule | Distinct


def field_path(field: Path) -> str:
    """A field below a rule as the API server writes it."""
    return "".join(f".{part}" for part in field)


def modes_of(spec: Any) -> set[str]:
    """Modes of all pools."""
    return {mode for pool in spec["pools"] for mode in pool["modes"]}
