"""What every part of the spec is made of.

Belongs here: the base of the models, and numbers as YAML writes them.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Strict
from pydantic.alias_generators import to_camel

Int = Annotated[int, Strict()]
Bool = Annotated[bool, Strict()]
"""Numbers and switches as YAML writes them: text that looks like one is refused, as the API server does."""


class SpecModel(BaseModel):
    """A part of the resource: frozen, camelCase, unknown fields refused, numbers never guessed from text."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
    )
