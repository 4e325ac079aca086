"""Messages of a chat request, and what else it tells the model's chat template.

Which fields a template knows is the text layer's to say. All that an answer of ours, or of the servers that clients
come from, contains is taken back as a message: agents append the answer as it is and send it with the next turn.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from trimode_api.errors import shown
from trimode_api.openai_parts import RequestModel, small

_LABELS = frozenset({"annotations", "parsed"})
"""What clients keep beside an answer's text and send back with it: sources, and the text read as an object."""
_EMPTY = frozenset({"tool_calls", "refusal", "audio", "function_call", "reasoning", "reasoning_content"})
"""Fields of answers that say "none" by an empty value as well as by null."""


class FunctionCall(RequestModel):
    """`arguments`: a JSON text, or the object itself."""

    name: str
    arguments: str | dict[str, Any] = ""


class ToolCall(RequestModel):
    """One call that the assistant asked for."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall

    @classmethod
    def _idle(cls, name: str, value: Any) -> bool:
        return name == "index"  # of a stream's delta


class ChatMessage(RequestModel):
    """One turn. Content given in parts is joined: only text can be served."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str = ""
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = Field(default=(), strict=False)
    tool_call_id: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None

    @classmethod
    def _idle(cls, name: str, value: Any) -> bool:
        return name in _LABELS or (name in _EMPTY and value in ("", [], {}))

    @field_validator("content", mode="before")
    @classmethod
    def _joined(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        for part in value:
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise ValueError(
                    f"only parts of the form {{'type': 'text', 'text': ...}} are allowed, got {shown(part)}"
                )
        return "".join(part["text"] for part in value)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        """An assistant's turn may consist of calls alone; every other one says something."""
        if self.role != "assistant":
            if "content" not in self.model_fields_set:
                raise ValueError("content: is required")
            if self.tool_calls:
                raise ValueError(f"tool_calls: is allowed with role 'assistant' only, got {self.role!r}")
        return self

    def for_template(self) -> dict[str, Any]:
        """What a chat template is given: `role`, `content`, and what else was said. A call's arguments are an object
        where they are one, as published templates write them with `tojson`."""
        given: dict[str, Any] = {"role": self.role, "content": self.content}
        calls: list[dict[str, Any]] = []
        for call in self.tool_calls:
            arguments: Any = call.function.arguments
            if isinstance(arguments, str):
                with contextlib.suppress(ValueError, RecursionError):
                    found = json.loads(arguments)
                    arguments = found if isinstance(found, dict) else arguments
            shown_id = {} if call.id is None else {"id": call.id}
            function = {"name": call.function.name, "arguments": arguments}
            calls.append(shown_id | {"type": call.type, "function": function})
        more = {
            "name": self.name,
            "tool_call_id": self.tool_call_id,
            "reasoning": self.reasoning,
            "reasoning_content": self.reasoning_content,
            "tool_calls": calls or None,
        }
        return given | {name: value for name, value in more.items() if value is not None}


OURS = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
"""Names that a template is given anyway."""


class TemplateFields(RequestModel):
    """`chat_template_kwargs` as vLLM and SGLang have it. `separate_reasoning: false` leaves reasoning in the content,
    `include_reasoning: false` leaves it out."""

    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = Field(default=None, max_length=32)
    separate_reasoning: bool | None = None
    include_reasoning: bool | None = None

    _small_enough = field_validator("chat_template_kwargs")(small)

    @field_validator("chat_template_kwargs")
    @classmethod
    def _not_ours(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if taken := sorted(OURS & (value or {}).keys()):
            raise ValueError(f"{taken[0]} is not among what may be set")
        return value

    @property
    def switches(self) -> dict[str, Any]:
        """What the template is told, by name."""
        effort = {} if self.reasoning_effort is None else {"reasoning_effort": self.reasoning_effort}
        return effort | (self.chat_template_kwargs or {})
