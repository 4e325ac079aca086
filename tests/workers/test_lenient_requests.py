"""What changes nothing is taken: null at every level, labels, fields at values that ask for what is done anyway."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trimode_api.errors import ApiError
from trimode_api.openai import ChatRequest, CompletionRequest
from trimode_api.openai_messages import ChatMessage
from trimode_api.openai_neutral import LABELS, NEUTRAL, WITHOUT_TOOLS
from trimode_workers.openai.parse import parse


def chat(**more: Any) -> ChatRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **more}
    return parse(ChatRequest, json.dumps(body).encode())


def said(**message: Any) -> dict[str, Any]:
    """What the template is given of one message."""
    return ChatMessage.model_validate_json(json.dumps(message)).for_template()


def refused(**more: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        chat(**more)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize("name", NEUTRAL)
def test_every_value_of_the_table_is_taken_on_both_paths(name: str) -> None:
    for value in (None, *NEUTRAL[name]):
        assert chat(**{name: value}) == chat()
        text = json.dumps({"model": "m", "prompt": "p", name: value}).encode()
        assert parse(CompletionRequest, text) == parse(CompletionRequest, b'{"model": "m", "prompt": "p"}')


@pytest.mark.parametrize("name", NEUTRAL)
def test_any_other_value_is_refused_by_name(name: str) -> None:
    error = refused(**{name: "something else"})
    assert error.param == name
    assert "is not supported here; leave it out or send" in error.message
    assert error.message.endswith("got 'something else'")


@pytest.mark.parametrize("name", WITHOUT_TOOLS)
def test_plain_completions_take_fields_of_tools_that_name_none(name: str) -> None:
    for value in (None, *WITHOUT_TOOLS[name]):
        text = json.dumps({"model": "m", "prompt": "p", name: value}).encode()
        assert parse(CompletionRequest, text) == parse(CompletionRequest, b'{"model": "m", "prompt": "p"}')
    with pytest.raises(ApiError, match=f"{name}: is not supported here; leave it out or send"):
        parse(CompletionRequest, json.dumps({"model": "m", "prompt": "p", name: "else"}).encode())


@pytest.mark.parametrize("name", sorted(LABELS))
def test_labels_are_taken_whatever_they_say(name: str) -> None:
    for value in ("a", True, {"trace": None, "run": "7"}):
        assert chat(**{name: value}) == chat()


def test_null_is_absent_within_objects() -> None:
    nothing = {
        "stream_options": {"include_usage": None},
        "trimode": {"mode": "SelfSpeculation", "blockLength": None, "threshold": None, "workload": None},
        "response_format": {"type": "text", "json_schema": None},
    }
    plain = {"stream_options": {}, "trimode": {"mode": "SelfSpeculation"}, "response_format": {"type": "text"}}
    assert chat(stream=True, **nothing) == chat(stream=True, **plain)


def test_null_in_a_schema_is_part_of_the_schema() -> None:
    schema = {"enum": ["a", None], "default": None}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    request = chat(response_format=form)
    assert request.response_format is not None
    assert request.response_format.json_schema is not None
    assert request.response_format.json_schema.definition == schema


class TestMessages:
    """Agents send back what they got, from us or from others."""

    def test_an_answers_fields_without_content_are_idle(self) -> None:
        idle = dict.fromkeys(["refusal", "annotations", "audio", "function_call", "tool_calls", "reasoning_content"])
        assert said(role="assistant", content="a", **idle) == {"role": "assistant", "content": "a"}
        empty = {"refusal": "", "annotations": [], "tool_calls": [], "reasoning": "", "parsed": {"a": 1}}
        assert said(role="assistant", content="a", **empty) == {"role": "assistant", "content": "a"}

    @pytest.mark.parametrize("content", [{}, {"content": None}])
    def test_an_assistant_may_have_said_nothing(self, content: dict[str, None]) -> None:
        assert said(role="assistant", **content) == {"role": "assistant", "content": ""}

    @pytest.mark.parametrize("role", ["user", "system", "developer", "tool"])
    def test_others_say_something(self, role: str) -> None:
        error = refused(messages=[{"role": role, "content": None}])
        assert "content: is required" in error.message

    def test_names_calls_and_reasoning_reach_the_template(self) -> None:
        call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}
        given = said(role="assistant", content=None, tool_calls=[call | {"index": 0}], reasoning_content="hm", name="A")
        assert given == {
            "role": "assistant",
            "content": "",
            "name": "A",
            "reasoning_content": "hm",
            "tool_calls": [call | {"function": {"name": "weather", "arguments": {"city": "Ulm"}}}],
        }
        assert said(role="tool", tool_call_id="c1", content="9 C")["tool_call_id"] == "c1"

    def test_arguments_that_are_no_object_stay_as_they_were_said(self) -> None:
        for arguments in ("", "{", "[1]", "[" * 5000):
            call = {"function": {"name": "f", "arguments": arguments}}
            (shown,) = said(role="assistant", tool_calls=[call])["tool_calls"]
            assert shown["function"]["arguments"] == arguments

    @pytest.mark.parametrize(
        ("message", "param"),
        [
            ({"role": "user", "content": "a", "tool_calls": [{"function": {"name": "f"}}]}, "messages[0]"),
            ({"role": "assistant", "refusal": "no"}, "messages[0].refusal"),
            ({"role": "assistant", "tool_calls": [{"type": "custom"}]}, "messages[0].tool_calls[0].type"),
            ({"role": "user", "content": "a", "colour": "red"}, "messages[0].colour"),
        ],
    )
    def test_what_would_be_lost_is_refused(self, message: dict[str, Any], param: str) -> None:
        assert refused(messages=[message]).param == param


class TestLength:
    """No message repeats more than a few hundred characters of what was sent."""

    @pytest.mark.parametrize(
        "more",
        [
            {"tools": [{"type": "function", "function": {"name": "f" * 100_000, "description": "x" * 100_000}}]},
            {"logit_bias": {str(token): 1 for token in range(20_000)}},
            {"stop": ["x" * 50_000, ""]},
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x" * 100_000}}]}]},
            {"messages": [{"role": "x" * 100_000, "content": "a"}]},
            {"trimode": {"workload": "x" * 100_000}},
            {"trimode": {"mode": "x" * 100_000}},
            {"x" * 100_000: 1},
            {"max_tokens": "x" * 100_000},
            {"response_format": {"type": "x" * 100_000}},
            {f"field{number}": 1 for number in range(5_000)},
        ],
    )
    def test_of_a_field(self, more: dict[str, Any]) -> None:
        error = refused(**more)
        assert len(error.message) < 1100
        assert len(error.param or "") < 200
        assert len(json.dumps(error.body())) < 1500

    @pytest.mark.parametrize("digits", [100, 4299, 4400, 100_000])
    def test_of_a_number_that_python_does_not_print(self, digits: int) -> None:
        body = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}], "top_k": 1%b}' % (b"0" * digits)
        with pytest.raises(ApiError) as caught:
            parse(ChatRequest, body)
        assert len(caught.value.message) < 400
