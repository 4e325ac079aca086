"""Bounds of numbers that the grammar's library cannot follow, left out of schemas that are not strict. Pure.

Belongs here: the rewriting. The library writes a bound as a pattern of digits and gives up beyond 64-bit integers;
pydantic writes `le=1e308` for "any number".
"""

from __future__ import annotations

from typing import Any

MOST = 10**18
"""Bounds up to this size are followed, as tried with llguidance on numbers and integers."""
_BOUNDS = frozenset({"maximum", "minimum", "exclusiveMaximum", "exclusiveMinimum"})
_VALUES = frozenset({"const", "enum", "default", "examples"})


def without_large_bounds(schema: Any) -> Any:
    """`schema` without bounds beyond `MOST`; values that it quotes stay as they are."""
    if isinstance(schema, list):
        return [without_large_bounds(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: value if name in _VALUES else without_large_bounds(value)
        for name, value in schema.items()
        if name not in _BOUNDS or not isinstance(value, int | float) or abs(value) <= MOST
    }
