"""Tools of a chat request: functions that the model may ask the client to call, and how free it is to.

Belongs here: their models and rules. How a model writes calls, and reads tools, is a replica's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from trimode_api.errors import shown
from trimode_api.openai_parts import RequestModel, small

MAX_TOOLS = 128
FUNCTION_NAME = r"^[a-zA-Z0-9_.-]{1,128}$"
"""OpenAI allows 64 characters and no dot; clients of vLLM and of MCP servers send both."""
NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


class FunctionDefinition(RequestModel):
    """`parameters`: the JSON schema of the arguments' object. `strict`: arguments always follow it, as far as its
    keywords can be enforced; one that cannot is refused."""

    name: str = Field(pattern=FUNCTION_NAME)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    _small_enough = field_validator("parameters")(small)

    @field_validator("parameters")
    @classmethod
    def _an_object(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None and value.get("type", "object") != "object":
            raise ValueError(f"must describe an object, got type {shown(value['type'])}")
        return value

    @property
    def schema_of_arguments(self) -> dict[str, Any]:
        """`parameters` as the schema of an object; of a function without any, of one that is empty."""
        return {"type": "object", **self.parameters} if self.parameters is not None else NO_PARAMETERS


class Tool(RequestModel):
    """A tool that the model may call."""

    type: Literal["function"] = "function"
    function: FunctionDefinition

    def for_template(self) -> dict[str, Any]:
        """What a chat template is given, as transformers gives it: what the client said, `parameters` always."""
        asked = self.function
        described = {} if asked.description is None else {"description": asked.description}
        function = {"name": asked.name, **described, "parameters": asked.schema_of_arguments}
        return {"type": self.type, "function": function}


class NamedFunction(RequestModel):
    """The function that must be called."""

    name: str


class NamedChoice(RequestModel):
    """OpenAI's way to name the one tool that must be called."""

    type: Literal["function"] = "function"
    function: NamedFunction


ToolChoice = Literal["auto", "none", "required"] | NamedChoice
CHOICES = "'auto', 'none', 'required' or {'type': 'function', 'function': {'name': ...}}"


class ToolFields(RequestModel):
    """The fields of a chat request that are about tools."""

    tools: tuple[Tool, ...] = Field(default=(), max_length=MAX_TOOLS, strict=False)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool = Field(default=True, description="whether one answer may ask for several calls")

    @field_validator("tools")
    @classmethod
    def _names_differ(cls, value: tuple[Tool, ...]) -> tuple[Tool, ...]:
        seen: set[str] = set()
        for index, tool in enumerate(value):
            if tool.function.name in seen:
                raise ValueError(f"[{index}].function.name: {shown(tool.function.name)} is there twice")
            seen.add(tool.function.name)
        return value

    @field_validator("tool_choice", mode="before")
    @classmethod
    def _known_choice(cls, value: Any) -> Any:
        """One message instead of one for each form that it is not."""
        named = isinstance(value, dict) and value.get("type", "function") == "function" and "function" in value
        if value not in ("auto", "none", "required") and not named:
            raise ValueError(f"must be {CHOICES}, got {shown(value)}")
        return value

    @field_validator("tool_choice")
    @classmethod
    def _choice_is_offered(cls, value: ToolChoice | None, info: ValidationInfo) -> ToolChoice | None:
        if value in (None, "auto", "none") or "tools" not in info.data:  # tools that are wrong are told as such
            return value
        names = [tool.function.name for tool in info.data["tools"]]
        if isinstance(value, NamedChoice) and value.function.name not in names:
            raise ValueError(f"{shown(value.function.name)} is not among tools, which are: {_few(names)}")
        if not names:
            raise ValueError("'required' needs tools, and there are none")
        return value

    @property
    def usable_tools(self) -> tuple[Tool, ...]:
        """Those that this answer may call; none where the choice is 'none'."""
        return () if self.tool_choice == "none" else self.tools

    @property
    def callable_names(self) -> frozenset[str]:
        """The functions that this answer may call: with one that is named, only that."""
        return frozenset(tool.function.name for tool in self.forced or self.usable_tools)

    @property
    def forced(self) -> tuple[Tool, ...]:
        """Those of which one must be called; empty where the model is free to answer in words."""
        if isinstance(self.tool_choice, NamedChoice):
            return tuple(t for t in self.tools if t.function.name == self.tool_choice.function.name)
        return self.tools if self.tool_choice == "required" else ()


_SHOWN = 8


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "none") + more
