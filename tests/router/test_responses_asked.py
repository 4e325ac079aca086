"""What a request to `/v1/responses` becomes as a chat completion, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trimode_api.errors import ApiError
from trimode_router.responses_api.asked import param_here, translate

TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}
CHAT_TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}, "strict": True}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def chat(**given: Any) -> dict[str, Any]:
    body = {"model": "tiny", "input": "hi"} | given
    made: dict[str, Any] = json.loads(translate(json.dumps(body).encode()).chat)
    return made


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


CALL = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "weather", "arguments": "{}"}
CALLED = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("given", "messages"),
    [
        ({"input": "hi"}, [user("hi")]),
        ({"input": "hi", "instructions": "be brief"}, [{"role": "system", "content": "be brief"}, user("hi")]),
        ({"input": [user("a")]}, [user("a")]),
        (
            {"input": [{"type": "message", "role": "developer", "content": "d"}]},
            [{"role": "developer", "content": "d"}],
        ),
        ({"input": [user([{"type": "input_text", "text": "a"}])]}, [user("a")]),
        (
            {"input": [user([{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}])]},
            [user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])],
        ),
        (
            {"input": [user([{"type": "input_image", "image_url": "data:x", "detail": "low"}])]},
            [user([{"type": "image_url", "image_url": {"url": "data:x", "detail": "low"}}])],
        ),
        (
            {"input": [CALL, {"type": "function_call_output", "call_id": "c1", "output": "rain"}]},
            [
                {"role": "assistant", "content": None, "tool_calls": [CALLED]},
                {"role": "tool", "tool_call_id": "c1", "content": "rain"},
            ],
        ),
        (  # what was said and what was called in one turn, two calls together
            {"input": [{"role": "assistant", "content": "let me look"}, CALL, CALL | {"call_id": "c2"}]},
            [{"role": "assistant", "content": "let me look", "tool_calls": [CALLED, CALLED | {"id": "c2"}]}],
        ),
        (
            {
                "input": [
                    {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
                    {
                        "type": "message",
                        "id": "msg_1",
                        "status": "completed",
                        "role": "assistant",
                        "content": [{"type": "output_text", "text": "A", "annotations": [], "logprobs": []}],
                    },
                ]
            },
            [{"role": "assistant", "content": "A"}],
        ),
        (
            {
                "input": [
                    {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
                    CALL,
                ]
            },
            [{"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [CALLED]}],
        ),
        (
            {
                "input": [
                    {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "x"}]}
                ]
            },
            [{"role": "tool", "tool_call_id": "c", "content": "x"}],
        ),
    ],
)
def test_turns(given: dict[str, Any], messages: list[Any]) -> None:
    assert chat(**given)["messages"] == messages


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        ({"max_output_tokens": 5}, {"max_completion_tokens": 5}),
        ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
        ({"seed": 1, "trimode": {"mode": "AR"}, "top_k": 4}, {"seed": 1, "trimode": {"mode": "AR"}, "top_k": 4}),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
        (
            {"stream": True, "stream_options": {"include_obfuscation": False}},
            {"stream_options": {"include_usage": True}},
        ),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        (
            {"text": {"format": {"type": "json_schema", "name": "p", "schema": SCHEMA, "strict": True}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "p", "schema": SCHEMA, "strict": True},
                }
            },
        ),
        ({"tools": [TOOL]}, {"tools": [CHAT_TOOL]}),
        ({"tools": [TOOL], "tool_choice": "required"}, {"tool_choice": "required"}),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "name": "weather"}},
            {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
        ),
        (
            {
                "tools": [TOOL, TOOL | {"name": "other"}],
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "required",
                    "tools": [{"type": "function", "name": "weather"}],
                },
            },
            {"tools": [CHAT_TOOL], "tool_choice": "required"},
        ),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, {"reasoning_effort": "low"}),
        ({"include": ["message.output_text.logprobs"]}, {"logprobs": True}),
        ({"top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
    ],
)
def test_fields(given: dict[str, Any], fields: dict[str, Any]) -> None:
    made = chat(**given)
    assert {name: made[name] for name in fields} == fields


@pytest.mark.parametrize(
    "harmless",
    [
        {"store": True},
        {"store": False},
        {"text": {"format": {"type": "text"}}},
        {"tools": [], "tool_choice": "auto"},
        {"previous_response_id": None, "conversation": None, "background": False, "truncation": "disabled"},
        {"include": ["reasoning.encrypted_content"], "reasoning": {"summary": "auto"}, "max_tool_calls": 3},
        {"top_logprobs": 0},
    ],
)
def test_what_changes_nothing_is_not_sent_on(harmless: dict[str, Any]) -> None:
    assert chat(**harmless) == chat()


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "nothing is stored here"),
        ({"conversation": "conv_1"}, "conversation", "nothing is stored here"),
        ({"prompt": {"id": "p"}}, "prompt", "no prompts are stored"),
        ({"messages": []}, "messages", "send `input`"),
        ({"max_tokens": 4}, "max_tokens", "max_output_tokens"),
        ({"background": True}, "background", "False"),
        ({"truncation": "auto"}, "truncation", "disabled"),
        ({"input": ""}, "input", "got ''"),
        ({"input": []}, "input", "got []"),
        ({"input": 5}, "input", "got 5"),
        ({"input": ["a"]}, "input[0]", "must be an item"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type", "'item_reference' is not supported"),
        ({"input": [{"role": "bot", "content": "x"}]}, "input[0].role", "'user'"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id", "is required"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]", "got 'web_search'"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice", "names 'x'"),
        ({"tools": [TOOL], "tool_choice": {"type": "web_search"}}, "tool_choice.type", "got 'web_search'"),
        ({"tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"text": {"format": {"type": "json_schema", "name": "p"}}}, "text.format", "name and schema are required"),
        ({"include": ["everything"]}, "include", "'everything' cannot be included"),
        ({"max_output_tokens": 0}, "max_output_tokens", "greater than or equal to 1"),
        ({"n": 2}, "n", "one answer"),
        ({"model": None}, "model", "is required"),
    ],
)
def test_refused_by_name(given: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(ApiError) as refused:
        chat(**given)
    assert refused.value.status == 400
    assert refused.value.param == param
    assert words in refused.value.message
    assert param in refused.value.message


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"a":' * 3000])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        translate(body)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("name", "here"),
    [
        ("messages[0].content", "instructions.content"),
        ("messages[2].role", "input[1].role"),
        ("messages[9]", "input"),
        ("messages", "input"),
        ("response_format.json_schema.schema", "text.format.schema"),
        ("max_completion_tokens", "max_output_tokens"),
        ("reasoning_effort", "reasoning.effort"),
        ("temperature", "temperature"),
    ],
)
def test_a_field_of_the_chat_is_called_as_the_client_wrote_it(name: str, here: str) -> None:
    assert param_here(name, ("instructions", "input[0]", "input[1]")) == here


def test_a_response_says_back_what_was_asked() -> None:
    asked = translate(json.dumps({"model": "m", "input": "hi", "temperature": 0, "metadata": {"a": "b"}}).encode())
    assert asked.said_back["temperature"] == 0
    assert asked.said_back["metadata"] == {"a": "b"}
    assert asked.said_back["top_p"] == 1.0
