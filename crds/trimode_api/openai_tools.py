"""Tools of a chat request: functions that the model may ask the client to call, and how free it is to.

Belongs here: their models and rules. How a model writes calls, and reads tools, is a replica's business.
"""

from __future__ import annotations

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
    """A function by its name."""

    name: str


class NamedTool(RequestModel):
    """A tool by its function's name."""

    type: Literal["function"] = "function"
    function: NamedFunction


class AllowedTools(RequestModel):
    """Those of `tools` that count this time, as if the others were not there."""

    mode: Literal["auto", "required"]
    tools: tuple[NamedTool, ...] = Field(min_length=1, strict=False)


WORDS = ("auto", "none", "required")
CHOICES = (
    "'auto', 'none', 'required', {'type': 'function', 'function': {'name': ...}} or "
    "{'type': 'allowed_tools', 'allowed_tools': {'mode': ..., 'tools': [...]}}"
)


class ToolChoice(RequestModel):
    """How free the model is to call tools: a word as the type, or what OpenAI has beside the type of that name."""

    # One model and not one for each form: what is wrong in one is told once, and not for every form that it is not.
    type: Literal["auto", "none", "required", "function", "allowed_tools"]
    function: NamedFunction | None = None
    allowed_tools: AllowedTools | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The functions that it names; none where it is a word."""
        if self.function is not None:
            return (self.function.name,)
        return () if self.allowed_tools is None else tuple(tool.function.name for tool in self.allowed_tools.tools)

    @property
    def forces(self) -> bool:
        """Whether there must be a call."""
        mode = self.type if self.allowed_tools is None else self.allowed_tools.mode
        return mode in ("required", "function")


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
        if value in WORDS:
            return {"type": value}
        given = {name for name, each in value.items() if each is not None} if isinstance(value, dict) else set()
        kind = value.get("type") or "function" if given else ""
        if kind not in ("function", "allowed_tools") or given - {"type"} != {kind}:
            raise ValueError(f"must be {CHOICES}, got {shown(value)}")
        return value | {"type": kind}

    @field_validator("tool_choice")
    @classmethod
    def _choice_is_offered(cls, value: ToolChoice | None, info: ValidationInfo) -> ToolChoice | None:
        if value is None or "tools" not in info.data:  # tools that are wrong are told as such
            return value
        names = [tool.function.name for tool in info.data["tools"]]
        for name in value.names:
            if name not in names:
                more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
                offered = ", ".join(names[:_SHOWN]) or "none"
                raise ValueError(f"{shown(name)} is not among tools, which are: {offered}{more}")
        if value.forces and not names:
            raise ValueError("'required' needs tools, and there are none")
        return value

    @property
    def usable_tools(self) -> tuple[Tool, ...]:
        """Those that the model is told of: none where the choice is 'none', of `allowed_tools` only these."""
        choice = self.tool_choice
        if choice is not None and choice.allowed_tools is not None:
            return self._named(choice)
        return () if choice is not None and choice.type == "none" else self.tools

    @property
    def callable_names(self) -> frozenset[str]:
        """The functions that this answer may call: with one that is named, only that."""
        return frozenset(tool.function.name for tool in self.forced or self.usable_tools)

    @property
    def forced(self) -> tuple[Tool, ...]:
        """Those of which one must be called; empty where the model is free to answer in words."""
        choice = self.tool_choice
        if choice is None or not choice.forces:
            return ()
        return self.tools if choice.type == "required" else self._named(choice)

    def _named(self, choice: ToolChoice) -> tuple[Tool, ...]:
        return tuple(tool for tool in self.tools if tool.function.name in choice.names)


_SHOWN = 8
