"""The form of an answer as vLLM and SGLang have it: a regular expression, one of some texts, a grammar, JSON.

OpenAI's `response_format` is in `openai_parts`.
"""

from __future__ import annotations

import json
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from trimode_api.errors import shown
from trimode_api.openai_parts import MAX_SCHEMA_BYTES, RequestModel, small

MOST_CHOICES = 1024
OLD_NAMES = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "regex": "regex",
    "ebnf": "grammar",
}
"""Fields of requests that stand for one of `structured_outputs`: vLLM's former ones, and SGLang's."""
KINDS = ("definition", "regex", "choice", "grammar", "json_object")


class StructuredOutputs(RequestModel):
    """Exactly one of its fields. `grammar` is in GBNF or in llguidance's Lark."""

    definition: dict[str, Any] | None = Field(default=None, alias="json")
    regex: str | None = Field(default=None, min_length=1, max_length=MAX_SCHEMA_BYTES)
    choice: tuple[str, ...] | None = Field(default=None, strict=False, min_length=1, max_length=MOST_CHOICES)
    grammar: str | None = Field(default=None, min_length=1, max_length=MAX_SCHEMA_BYTES)
    json_object: bool | None = None

    _small_enough = field_validator("definition")(small)

    @classmethod
    def _idle(cls, name: str, value: Any) -> bool:
        return name == "json_object" and value is False

    @field_validator("definition", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        """vLLM takes a schema as text, too."""
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as exc:
            raise ValueError(f"must be a JSON schema, got {shown(value)}") from exc

    @field_validator("choice")
    @classmethod
    def _texts(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and not all(value):
            raise ValueError("must be texts that are not empty")
        return value

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name in KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("exactly one of json, regex, choice, grammar, json_object is allowed")
        return self


class StructureFields(RequestModel):
    """What chat and plain completions share of it."""

    structured_outputs: StructuredOutputs | None = None

    @model_validator(mode="before")
    @classmethod
    def _by_old_names(cls, value: Any) -> Any:
        old = [name for name in OLD_NAMES if isinstance(value, dict) and value.get(name) is not None]
        # Where there are several, they stay and are refused.
        if len(old) != 1 or value.get("structured_outputs") is not None:
            return value
        rest = {name: given for name, given in value.items() if name != old[0]}
        return rest | {"structured_outputs": {OLD_NAMES[old[0]]: value[old[0]]}}
