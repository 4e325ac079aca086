"""`POST /v1/responses`, OpenAI's other form of a chat: the request's models and rules.

Nothing is stored, so what builds on an earlier response is refused; tools that a server runs by itself are, too. Fields
that are not here are a chat completion's (`seed`, `stop`, `trimode`) and judged as such.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from trimode_api.errors import shown
from trimode_api.openai_parts import RequestModel

_STATELESS = "is not supported: nothing is stored here; send the conversation in `input`"
REFUSED = {
    "previous_response_id": _STATELESS,
    "conversation": _STATELESS,
    "prompt": "is not supported: no prompts are stored here",
    "messages": "is a field of /v1/chat/completions; send `input`",
    "response_format": "is a field of /v1/chat/completions; send `text.format`",
    "max_tokens": "is a field of /v1/chat/completions; send `max_output_tokens`",
    "max_completion_tokens": "is a field of /v1/chat/completions; send `max_output_tokens`",
}
"""Fields that are refused at any value, and why."""
INCLUDABLE = frozenset(
    {
        "reasoning.encrypted_content", "message.output_text.logprobs", "message.input_image.image_url",
        "file_search_call.results", "web_search_call.results", "web_search_call.action.sources",
        "computer_call_output.output.image_url", "code_interpreter_call.outputs",
    }
)  # fmt: skip
"""What `include` may name. All but the log-probabilities tell of tools and encryption that are not in use here."""


class ItemModel(RequestModel):
    """An item or a part of one. What answers have beside its content is taken back with it."""

    @classmethod
    def _idle(cls, name: str, value: Any) -> bool:
        return name in ("id", "status", "phase", "annotations", "logprobs")


class Part(ItemModel):
    """A piece of content."""

    type: Literal["input_text", "output_text", "text", "refusal", "reasoning_text", "summary_text", "input_image"]
    text: str = ""
    refusal: str = ""
    image_url: str | None = None
    detail: str | None = None


Content = Annotated[
    tuple[Part, ...],
    Field(strict=False),
    BeforeValidator(lambda value: [{"type": "text", "text": value}] if isinstance(value, str) else value),
]
"""A text is the one part that it stands for."""


class MessageItem(ItemModel):
    """One turn. The type may be left out."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Content


class CallItem(ItemModel):
    """A function that the model asked for; `arguments` is JSON text."""

    type: Literal["function_call"]
    call_id: str = Field(min_length=1)
    name: str = Field(min_length=1)
    arguments: str


class OutputItem(ItemModel):
    """What the function gave."""

    type: Literal["function_call_output"]
    call_id: str = Field(min_length=1)
    output: Content


class ReasoningItem(ItemModel):
    """What the model thought aloud. Only plain `content` can be shown to it again; summaries are dropped."""

    type: Literal["reasoning"]
    content: tuple[Part, ...] = Field(default=(), strict=False)
    summary: tuple[Part, ...] = Field(default=(), strict=False)
    encrypted_content: str | None = None


Item = MessageItem | CallItem | OutputItem | ReasoningItem
ITEMS: dict[str, type[Item]] = {
    "message": MessageItem,
    "function_call": CallItem,
    "function_call_output": OutputItem,
    "reasoning": ReasoningItem,
}


class FunctionTool(RequestModel):
    """A function that the client runs."""

    type: Literal["function"]
    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _ours_to_call(cls, value: Any) -> Any:
        kind = value.get("type") if isinstance(value, dict) else None
        if kind is not None and kind != "function":
            raise ValueError(f"type: only tools of type 'function' are supported, got {shown(kind)}")
        return value


class NamedTool(RequestModel):
    """`{"type": "function", "name": ...}`."""

    type: Literal["function"]
    name: str = Field(min_length=1)


class AllowedTools(RequestModel):
    """Those of `tools` that may be called this time."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: tuple[NamedTool, ...] = Field(min_length=1, strict=False)


class TextFormat(RequestModel):
    """The form of the answer; the fields of `json_schema` stand beside its type."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    definition: dict[str, Any] | None = Field(default=None, alias="schema")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.type == "json_schema" and (self.name is None or self.definition is None):
            raise ValueError("name and schema are required with type 'json_schema'")
        return self


class TextOptions(RequestModel):
    """`text`."""

    format: TextFormat | None = None
    verbosity: str | None = None


class Reasoning(RequestModel):
    """`reasoning`. There are no summaries to choose from."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class ResponsesRequest(RequestModel):
    """What `/v1/responses` takes. `store` is taken at any value, and nothing is stored. Items and tools are checked
    one by one by `ITEMS` and the tools' own models, so that each is refused under its own path."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(min_length=1)
    input: Any
    instructions: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    max_tool_calls: int | None = Field(default=None, ge=1, description="of tools that a server runs; there are none")
    text: TextOptions | None = None
    tools: tuple[FunctionTool, ...] = Field(default=(), strict=False)
    tool_choice: Any = None
    reasoning: Reasoning | None = None
    include: tuple[str, ...] = Field(default=(), strict=False)
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    store: bool | None = None
    background: Literal[False] = False
    truncation: Literal["disabled"] = "disabled"

    @field_validator("include")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in INCLUDABLE:
                raise ValueError(f"{shown(name)} cannot be included; allowed: {', '.join(sorted(INCLUDABLE))}")
        return value

    @field_validator("input")
    @classmethod
    def _something(cls, value: Any) -> Any:
        if not value or not isinstance(value, str | list):
            raise ValueError(f"must be a text or a list of items, got {shown(value)}")
        return value

    @field_validator("tool_choice")
    @classmethod
    def _choice(cls, value: Any) -> Any:
        if value not in ("none", "auto", "required") and not isinstance(value, dict):
            raise ValueError(f"must be none, auto, required or an object, got {shown(value)}")
        return value
