"""What every part of the spec is made of."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Strict, model_validator
from pydantic.alias_generators import to_camel

Int = Annotated[
    int,
    Strict(),
    BeforeValidator(lambda value: int(value) if isinstance(value, float) and value.is_integer() else value),
]
"""A whole number; `8.0` is one, as kubectl makes `8` of it. Text that looks like a number is refused."""

Bool = Annotated[bool, Strict()]
"""A switch as YAML writes it; text and numbers are refused."""


class SpecModel(BaseModel):
    """A part of the resource: frozen, camelCase, unknown fields refused, `null` the same as left out."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, validate_by_alias=True)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_nulls(cls, data: Any) -> Any:
        """The API server drops nulls before it fills in defaults; unknown fields it refuses even so."""
        if not isinstance(data, dict):
            return data
        known = {field.alias for field in cls.model_fields.values()}
        return {key: value for key, value in data.items() if value is not None or key not in known}
