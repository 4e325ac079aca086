"""From the body of `/v1/responses` to the chat completion that answers it. [pure]

Fields that a response has no word for go along as they are: what serves the chat obeys or refuses them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError

from trimode_api.errors import ApiError, problems_of, shown
from trimode_api.openai_responses import (
    ITEMS,
    REFUSED,
    AllowedTools,
    CallItem,
    FunctionTool,
    Item,
    MessageItem,
    NamedTool,
    OutputItem,
    Part,
    ResponsesRequest,
    TextFormat,
    TextOptions,
)

_Model = TypeVar("_Model", bound=BaseModel)
RESPONSES_PATH = "/v1/responses"
_LOGPROBS = "message.output_text.logprobs"
_SAID_BACK: Mapping[str, Any] = {
    "instructions": None, "max_output_tokens": None, "max_tool_calls": None, "metadata": {},
    "parallel_tool_calls": True, "prompt_cache_key": None, "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None, "service_tier": "default", "temperature": 1.0, "text": {"format": {"type": "text"}},
    "tool_choice": "auto", "tools": [], "top_logprobs": 0, "top_p": 1.0, "truncation": "disabled", "user": None,
}  # fmt: skip
"""Fields of a request that its response repeats, with what OpenAI's says where they were left out."""


@dataclass(frozen=True, slots=True)
class Asked:
    """`chat`: the body of the chat completion. `said_back`: the fields of a response that repeat the request.
    `origins`: for each of the chat's messages where it stands in the request (`input[3]`)."""

    chat: bytes
    stream: bool
    said_back: Mapping[str, Any]
    origins: tuple[str, ...]


def translate(body: bytes) -> Asked:
    """Raises ApiError (400) that names the field, the value and what is allowed."""
    given = _decoded(body)
    for name, words in REFUSED.items():
        if given.get(name) is not None:
            raise _bad(name, words)
    request = _checked(ResponsesRequest, given, "")
    turns = _Turns()
    if request.instructions is not None:
        turns.say("instructions", {"role": "system", "content": request.instructions})
    for path, item in _items(request.input):
        turns.take(path, item)
    tools, choice = _tools(request)
    effort = request.reasoning.effort if request.reasoning is not None else None
    text = request.text or TextOptions()
    logprobs = _LOGPROBS in request.include or bool(request.top_logprobs)
    chat: dict[str, Any] = {
        "model": request.model,
        "messages": turns.messages,
        "max_completion_tokens": request.max_output_tokens,
        "response_format": _format(text.format),
        "verbosity": text.verbosity,
        "reasoning_effort": effort,
        "tools": tools or None,
        "tool_choice": choice if tools else None,
        "logprobs": logprobs or None,
        "top_logprobs": request.top_logprobs if logprobs else None,
        "stream": request.stream or None,
        # Its own options (`include_obfuscation`) are of no use here; usage is part of every response.
        "stream_options": {"include_usage": True} if request.stream else None,
        **(request.model_extra or {}),
    }
    if chat.get("n") not in (None, 1):
        raise _bad("n", f"a response is one answer, got {shown(chat['n'])}")
    sent = {name: value for name, value in chat.items() if value is not None}
    said_back = {name: default if given.get(name) is None else given[name] for name, default in _SAID_BACK.items()}
    return Asked(msgspec.json.encode(sent), request.stream, said_back, tuple(turns.origins))


def param_here(name: str, origins: tuple[str, ...]) -> str:
    """A field of the chat completion (`messages[1].content`) as this request calls it."""
    for chats, ours in _RENAMED:
        if name.startswith(chats):
            return ours + name.removeprefix(chats)
    if not name.startswith("messages["):
        return "input" if name == "messages" else name
    index, _, rest = name.removeprefix("messages[").partition("]")
    known = index.isdecimal() and int(index) < len(origins)
    return origins[int(index)] + rest if known else "input"


_RENAMED = (
    ("response_format.json_schema", "text.format"),
    ("response_format", "text.format"),
    ("max_completion_tokens", "max_output_tokens"),
    ("reasoning_effort", "reasoning.effort"),
    ("verbosity", "text.verbosity"),
)


@dataclass(slots=True)
class _Turns:
    """Items come one by one; a chat's turn has what an assistant said and the calls that it made together."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    origins: list[str] = field(default_factory=list)
    thought: str = ""
    """Reasoning that belongs to the assistant's turn that comes next."""

    def say(self, path: str, message: dict[str, Any]) -> None:
        if message["role"] == "assistant" and self.thought:
            message["reasoning_content"], self.thought = self.thought, ""
        self.messages.append(message)
        self.origins.append(path)

    def take(self, path: str, item: Item) -> None:
        if isinstance(item, MessageItem):
            said = _plain(item.content) if item.role == "assistant" else _content(item.content)
            self.say(path, {"role": item.role, "content": said})
        elif isinstance(item, CallItem):
            if self.thought or not self.messages or self.messages[-1]["role"] != "assistant":
                self.say(path, {"role": "assistant", "content": None})
            function = {"name": item.name, "arguments": item.arguments}
            call = {"id": item.call_id, "type": "function", "function": function}
            self.messages[-1].setdefault("tool_calls", []).append(call)
        elif isinstance(item, OutputItem):
            self.say(path, {"role": "tool", "tool_call_id": item.call_id, "content": _plain(item.output)})
        else:
            self.thought = "".join(part.text for part in item.content)


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        given = msgspec.json.decode(body)
    except RecursionError as error:  # nested 1,200 deep it was a 500 and a traceback in the log
        raise ApiError(400, "the request body is nested too deeply", code="invalid_json") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, f"the request body is not valid JSON: {error}", code="invalid_json") from error
    if not isinstance(given, dict):
        raise ApiError(400, f"the request body must be an object, got {shown(given)}", code="invalid_value")
    return given


def _checked(model: type[_Model], value: Any, path: str) -> _Model:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems = problems_of(error, path)
        message = "; ".join(map(str, problems))
        raise ApiError(400, message, code="invalid_value", param=problems[0].path or None) from error


def _items(given: str | list[Any]) -> list[tuple[str, Item]]:
    if isinstance(given, str):
        return [("input", MessageItem.model_validate({"role": "user", "content": given}))]
    found = []
    for index, value in enumerate(given):
        path = f"input[{index}]"
        if not isinstance(value, dict):
            raise _bad(path, f"must be an item, got {shown(value)}")
        kind = value.get("type") or "message"
        if kind not in ITEMS:
            raise _bad(f"{path}.type", f"{shown(kind)} is not supported; allowed: {', '.join(ITEMS)}")
        found.append((path, _checked(ITEMS[kind], value, path)))
    return found


def _content(parts: tuple[Part, ...]) -> str | list[dict[str, Any]]:
    """Parts as a chat has them. Pictures go along: whether they are understood is the server's to say."""
    if len(parts) == 1 and parts[0].type != "input_image":
        return _plain(parts)
    found: list[dict[str, Any]] = []
    for part in parts:
        if part.type == "input_image":
            url = {"url": part.image_url} | ({"detail": part.detail} if part.detail else {})
            found.append({"type": "image_url", "image_url": url})
        else:
            found.append({"type": "text", "text": part.text or part.refusal})
    return found


def _plain(parts: tuple[Part, ...]) -> str:
    return "".join(part.text or part.refusal for part in parts)


def _tools(request: ResponsesRequest) -> tuple[list[dict[str, Any]], Any]:
    """Tools and choice of the chat."""
    tools, choice = request.tools, request.tool_choice
    if isinstance(choice, dict):
        kind = choice.get("type")
        if kind == "allowed_tools":
            allowed = _checked(AllowedTools, choice, "tool_choice")
            names = {tool.name for tool in allowed.tools}
            _known(names, tools)
            tools = tuple(tool for tool in tools if tool.name in names)
            choice = allowed.mode
        elif kind == "function":
            named = _checked(NamedTool, choice, "tool_choice")
            _known({named.name}, tools)
            choice = {"type": "function", "function": {"name": named.name}}
        else:
            raise _bad("tool_choice.type", f"must be function or allowed_tools, got {shown(kind)}")
    if choice == "required" and not tools:
        raise _bad("tool_choice", "'required' needs tools, got none")
    functions = []
    for tool in tools:
        given = {"description": tool.description, "parameters": tool.parameters, "strict": tool.strict}
        functions.append({"name": tool.name, **{name: value for name, value in given.items() if value is not None}})
    return [{"type": "function", "function": function} for function in functions], choice


def _known(names: set[str], tools: tuple[FunctionTool, ...]) -> None:
    if unknown := names - {tool.name for tool in tools}:
        raise _bad("tool_choice", f"names {shown(min(unknown))}, which is not among the tools")


def _format(asked: TextFormat | None) -> dict[str, Any] | None:
    if asked is None or asked.type == "text":
        return None
    if asked.type == "json_object":
        return {"type": "json_object"}
    given = {"description": asked.description, "strict": asked.strict}
    schema = {"name": asked.name, "schema": asked.definition}
    return {"type": "json_schema", "json_schema": schema | {key: v for key, v in given.items() if v is not None}}


def _bad(param: str, message: str) -> ApiError:
    return ApiError(400, f"{param}: {message}", code="invalid_value", param=param)
