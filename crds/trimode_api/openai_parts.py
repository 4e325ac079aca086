"""Parts of OpenAI requests: streaming, our extension, the form of the answer.

The requests themselves are in `openai`.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic.alias_generators import to_camel

from trimode_api.modes import BLOCK_LENGTHS, Mode, Wish

Quality = Literal["lossless", "lossy-ok"]

WORKLOAD = r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$"
"""How a workload's name is written."""
MAX_SCHEMA_BYTES = 128 * 1024
MAX_SCHEMA_DEPTH = 64
SCHEMA_PATH = "response_format.json_schema.schema"


class RequestModel(BaseModel):
    """A request or a part of one: frozen, numbers never guessed from text, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_idle_fields(cls, value: Any) -> Any:
        """Null is absent, at every level as OpenAI has it: clients send null for what they leave alone."""
        if not isinstance(value, dict):
            return value
        return {name: given for name, given in value.items() if given is not None and not cls._idle(name, given)}

    @classmethod
    def _idle(cls, name: str, value: Any) -> bool:
        """Whether a field that is not null changes nothing at its value."""
        return False


class StreamOptions(RequestModel):
    """`include_usage` adds a last chunk without choices that carries the usage. With `continuous_usage_stats` vLLM
    tells it in every chunk, too; here it comes with the last, which the clients that ask for it read as well."""

    include_usage: bool = False
    include_obfuscation: bool = False
    continuous_usage_stats: bool = False


class TrimodeOptions(RequestModel):
    """The extension `"trimode": {...}`: pins the mode of one request, admits lossy points, or names its workload (such
    as `coding` or `chat`), whose acceptance is learned apart."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=False, validate_by_alias=True)

    mode: Annotated[Mode, Field(strict=False)] | None = None
    block_length: int | None = Field(default=None, description="tokens; one of the pool's block lengths")
    threshold: float | None = Field(default=None, gt=0, le=1)
    quality: Quality | None = None
    workload: str | None = Field(default=None, pattern=WORKLOAD)

    @field_validator("block_length")
    @classmethod
    def _length_fits_mode(cls, value: int | None, info: ValidationInfo) -> int | None:
        mode = info.data.get("mode")
        if mode in (None, Mode.AR):
            raise ValueError(
                f"needs mode SelfSpeculation, QuadraticSpeculation or Diffusion, got {value} with mode {mode}"
            )
        if value not in BLOCK_LENGTHS:
            raise ValueError(f"must be one of {list(BLOCK_LENGTHS)}, got {value}")
        return value

    @field_validator("threshold")
    @classmethod
    def _threshold_fits_mode(cls, value: float | None, info: ValidationInfo) -> float | None:
        mode = info.data.get("mode")
        if mode not in (Mode.SELF_SPECULATION, Mode.DIFFUSION):
            raise ValueError(f"needs mode SelfSpeculation or Diffusion, got {value} with mode {mode}")
        return value

    @property
    def wish(self) -> Wish | None:
        """The mode insisted on, None where any will do."""
        return None if self.mode is None else Wish(self.mode, self.block_length, self.threshold)


def small(value: dict[str, Any] | None) -> dict[str, Any] | None:
    """A JSON schema that is no larger, and nested no deeper, than a grammar may be; ValueError otherwise."""
    if value is None:
        return None
    # Level by level: by recursion a schema nested thousands deep would end Python's stack before it is refused.
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    if depth > MAX_SCHEMA_DEPTH:
        raise ValueError(f"must be nested at most {MAX_SCHEMA_DEPTH} deep, got {depth}")
    size = len(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())
    if size > MAX_SCHEMA_BYTES:
        raise ValueError(f"must have at most {MAX_SCHEMA_BYTES} bytes as JSON, got {size}")
    return value


class JsonSchema(RequestModel):
    """`strict`: keywords that cannot be enforced are refused; else they are left out. `name` and `description` are
    labels: what the model is to know of the schema belongs into the messages."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    definition: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None

    _small_enough = field_validator("definition")(small)


class ResponseFormat(RequestModel):
    """The form of the answer: free text, any JSON object, or JSON that follows a schema.

    `schema` beside `json_object` is how llama.cpp and Together write a `json_schema` that is not strict.
    """

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    definition: dict[str, Any] | None = Field(default=None, alias="schema")

    _small_enough = field_validator("definition")(small)

    @model_validator(mode="after")
    def _schema_where_it_belongs(self) -> Self:
        if self.definition is not None and self.type != "json_object":
            raise ValueError(f"schema is allowed with type 'json_object' only, got {self.type!r}")
        if (self.type == "json_schema") != (self.json_schema is not None):
            words = f"is allowed with type 'json_schema' only, got {self.type!r}"
            if self.json_schema is None:
                words = "is required with type 'json_schema'"
            raise ValueError(f"json_schema {words}")
        return self

    @property
    def schema_asked(self) -> tuple[dict[str, Any], bool, str] | None:
        """The schema, whether it is strict, and its path in the request; None for any JSON."""
        if self.json_schema is not None:
            return self.json_schema.definition, bool(self.json_schema.strict), SCHEMA_PATH
        return None if self.definition is None else (self.definition, False, "response_format.schema")
