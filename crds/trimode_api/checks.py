"""Obeying the rules here: on a raw spec, with defaults filled in as the API server does.

The rules themselves are in `rules`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import UnionType
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined, to_jsonable_python

from trimode_api.rule import AnyRule, Path
from trimode_api.rules import RULES


def broken(spec: Any, rules: Sequence[AnyRule] = RULES) -> Iterator[tuple[Path, str, Any]]:
    """(path from the spec, message, value) of each rule that the raw spec (defaults filled in) does not keep."""
    for rule in rules:
        for path, scope in _scopes(spec, rule.scope):
            try:
                for field, message in rule.breaches(scope):
                    value = scope
                    for part in field:
                        listed, mapped = isinstance(part, int), isinstance(value, dict)
                        value = value[part] if listed else value.get(part) if mapped else None
                    yield (*path, *field), message, value
            except (TypeError, KeyError, AttributeError, ValueError):
                continue  # malformed there: the schema's own findings say so


def _scopes(value: Any, scope: Path, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if not scope:
        yield path, value
    elif scope[0] == "*":
        for index, item in enumerate(value if isinstance(value, (list, tuple)) else ()):
            yield from _scopes(item, scope[1:], (*path, index))
    elif isinstance(value, dict) and scope[0] in value:
        yield from _scopes(value[scope[0]], scope[1:], (*path, scope[0]))


def defaulted(model: type[BaseModel], raw: Any) -> Any:
    """`raw` with the model's defaults filled in where fields are missing or null, as the API server would."""
    if not isinstance(raw, dict):
        return raw
    filled = {key: value for key, value in raw.items() if value is not None}
    for name, field in model.model_fields.items():
        key = field.alias or name
        if key not in filled:
            if field.default not in (PydanticUndefined, None):
                filled[key] = to_jsonable_python(field.default, by_alias=True, exclude_none=True)
        elif (inner := _model_in(field.annotation)) is not None:
            value = filled[key]
            filled[key] = [defaulted(inner, v) for v in value] if isinstance(value, list) else defaulted(inner, value)
    return filled


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, alone, optional or in a tuple."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (tuple, UnionType):
        return next((m for a in get_args(annotation) if (m := _model_in(a)) is not None), None)
    return None
