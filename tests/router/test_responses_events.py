"""What the chunks of a chat become as events of a response, and what the response says in the end."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response

from trimode_router.responses_api.asked import translate
from trimode_router.responses_api.events import Event, Translation, chunk_of

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "prompt_tokens_details": {"cached_tokens": 1}}


def begun() -> Translation:
    return Translation(translate(b'{"model": "tiny", "input": "hi"}').said_back, "fallback", 7)


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "chatcmpl-1a", "created": 5, "model": "tiny", "choices": [choice], **more}


def run(*chunks: dict[str, Any]) -> tuple[Translation, list[Event]]:
    translation = begun()
    events = [event for each in chunks for event in translation.take(each)]
    return translation, events + translation.end()


def piece(index: int, arguments: str = "", **more: Any) -> dict[str, Any]:
    function = {"arguments": arguments} | ({"name": more.pop("name")} if "name" in more else {})
    return {"tool_calls": [{"index": index, "function": function, **more}]}


TEXT = (chunk({"role": "assistant", "content": ""}), chunk({"content": "a"}), chunk({"content": "b"}, "stop"))
CALLS = (
    chunk(piece(0, "", id="c1", name="f")),
    chunk(piece(0, '{"x":')),
    chunk(piece(1, "{}", id="c2", name="g")),
    chunk(piece(0, "1}"), "tool_calls"),
)
OPENING = ["response.created", "response.in_progress"]


@pytest.mark.parametrize(
    ("chunks", "kinds"),
    [
        (
            TEXT,
            [
                "response.output_item.added", "response.content_part.added", "response.output_text.delta",
                "response.output_text.delta", "response.output_text.done", "response.content_part.done",
                "response.output_item.done", "response.completed",
            ],
        ),
        (
            CALLS,
            [
                "response.output_item.added", "response.function_call_arguments.delta", "response.output_item.added",
                "response.function_call_arguments.delta", "response.function_call_arguments.delta",
                "response.function_call_arguments.done", "response.output_item.done",
                "response.function_call_arguments.done", "response.output_item.done", "response.completed",
            ],
        ),
        (
            (chunk({"reasoning_content": "hm", "reasoning": "hm"}), chunk({"content": "a"}, "stop")),
            [
                "response.output_item.added", "response.content_part.added", "response.reasoning_text.delta",
                "response.reasoning_text.done", "response.content_part.done", "response.output_item.done",
                "response.output_item.added", "response.content_part.added", "response.output_text.delta",
                "response.output_text.done", "response.content_part.done", "response.output_item.done",
                "response.completed",
            ],
        ),
        (
            (chunk({"role": "assistant"}), chunk({}, "stop")),
            [
                "response.output_item.added", "response.content_part.added", "response.output_text.done",
                "response.content_part.done", "response.output_item.done", "response.completed",
            ],
        ),
        ((chunk({}, "length"),), [*["response.output_item.added", "response.content_part.added",
            "response.output_text.done", "response.content_part.done", "response.output_item.done"],
            "response.incomplete"]),
        (({"error": {"message": "no"}},), ["response.failed"]),
    ],
)  # fmt: skip
def test_events_in_order(chunks: tuple[dict[str, Any], ...], kinds: list[str]) -> None:
    _, events = run(*chunks)
    assert [event["type"] for event in events] == OPENING + kinds
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


@pytest.mark.parametrize(
    ("chunks", "output"),
    [
        (TEXT, [("message", "completed", "ab")]),
        (
            CALLS,
            [("function_call", "completed", ("c1", "f", '{"x":1}')), ("function_call", "completed", ("c2", "g", "{}"))],
        ),
        (
            (chunk({"content": "let me look"}), *CALLS[2:3], chunk({}, "tool_calls")),
            [("message", "completed", "let me look"), ("function_call", "completed", ("c2", "g", "{}"))],
        ),
        ((chunk({"content": "a"}, "length"),), [("message", "incomplete", "a")]),
        ((chunk({"content": "a"}), {"error": "gone"}), [("message", "incomplete", "a")]),
        ((chunk({"refusal": "no"}, "stop"),), [("message", "completed", "no")]),
    ],
)  # fmt: skip
def test_output(chunks: tuple[dict[str, Any], ...], output: list[Any]) -> None:
    translation, events = run(*chunks)
    response = translation.response()
    Response.model_validate(response)

    def told(item: dict[str, Any]) -> Any:
        if item["type"] == "function_call":
            return item["call_id"], item["name"], item["arguments"]
        return "".join(part.get("text", part.get("refusal")) for part in item["content"])

    assert [(item["type"], item["status"], told(item)) for item in response["output"]] == output
    assert [event["item"] for event in events if event["type"].endswith("item.done")] == response["output"]
    assert events[-1]["response"] == response


@pytest.mark.parametrize(
    ("finish", "status", "details"),
    [
        ("stop", "completed", None),
        ("tool_calls", "completed", None),
        ("length", "incomplete", {"reason": "max_output_tokens"}),
        ("content_filter", "incomplete", {"reason": "content_filter"}),
        (None, "failed", None),
    ],
)
def test_how_it_ended(finish: str | None, status: str, details: dict[str, str] | None) -> None:
    translation, _ = run(chunk({"content": "a"}, finish, usage=USAGE))
    response = translation.response()
    assert response["status"] == status
    assert response["incomplete_details"] == details
    assert (response["error"] is not None) == (status == "failed")
    assert response["usage"]["input_tokens"] == 3
    assert response["usage"]["input_tokens_details"] == {"cached_tokens": 1}
    assert response["usage"]["output_tokens"] == 2
    assert (response["id"], response["created_at"]) == ("resp_1a", 5)


def test_a_server_that_names_nothing_gets_names() -> None:
    translation, _ = run({"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]})
    response = translation.response()
    assert (response["id"], response["created_at"]) == ("resp_fallback", 7)


def test_the_account_of_trimode_is_told_and_token_ids_are_not() -> None:
    account = {"cycles": {"S8": 1}}
    translation, _ = run(chunk({"content": "a"}, trimode={"ids": [1]}), chunk({}, "stop", trimode=account))
    assert translation.response()["trimode"] == account


SHAPES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text("a", max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["choices", "delta", "content", "tool_calls", "function", "arguments", "index", "logprobs", "usage",
                 "finish_reason", "prompt_tokens_details", "id", "created", "error", "trimode", "name"]
            ),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=30,
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["choice", "chunk"]), SHAPES), max_size=3))
def test_whatever_a_server_sends_can_be_ended(sent: list[tuple[str, Any]]) -> None:
    """As `ResponsesReply` does it: what has no proper shape is an AttributeError or a TypeError, and nothing else."""
    translation = begun()
    translation.take(TEXT[1])
    for kind, value in sent:
        try:
            translation.take({"choices": [value]} if kind == "choice" else value)
        except (AttributeError, TypeError):
            translation.problem = "no chunk"
    assert translation.end()[-1]["type"] in ("response.completed", "response.incomplete", "response.failed")
    msgspec.json.encode(translation.response())


WORDS = st.text('ab{}"\\é', min_size=1, max_size=5)
DELTAS = st.one_of(
    WORDS.map(lambda text: {"content": text}),
    WORDS.map(lambda text: {"reasoning_content": text}),
    st.tuples(st.integers(0, 2), WORDS).map(lambda pair: piece(pair[0], pair[1], id=f"c{pair[0]}", name="f")),
)


@settings(deadline=None)
@given(st.lists(DELTAS, max_size=12), st.sampled_from(["stop", "length", None]))
def test_deltas_add_up_to_what_is_done(deltas: list[dict[str, Any]], finish: str | None) -> None:
    """Of every item: its deltas joined are its text at the end, and nothing is told of it before it was added."""
    translation, events = run(*[chunk(delta) for delta in deltas], chunk({}, finish))
    heard: dict[str, str] = {}
    for event in events:
        if event["type"] == "response.output_item.added":
            assert event["output_index"] == len(heard)
            heard[event["item"]["id"]] = ""
        elif event["type"].endswith(".delta"):
            heard[event["item_id"]] += event["delta"]
    output = translation.response()["output"]
    whole = {
        item["id"]: item.get("arguments") or "".join(p["text"] for p in item.get("content", ())) for item in output
    }
    assert whole == heard
    Response.model_validate(translation.response())


@settings(deadline=None)
@given(st.lists(DELTAS, min_size=1, max_size=6))
def test_a_whole_completion_says_what_its_stream_would(deltas: list[dict[str, Any]]) -> None:
    message: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": []}
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        if "content" in delta:
            message["content"] = (message["content"] or "") + delta["content"]
        for call in delta.get("tool_calls", ()):
            known = calls.setdefault(call["index"], {"id": call["id"], "function": {"name": "f", "arguments": ""}})
            known["function"]["arguments"] += call["function"]["arguments"]
    message["tool_calls"] = [calls[index] for index in sorted(calls)]
    whole = begun()
    whole.take(chunk_of({"id": "chatcmpl-1a", "choices": [{"message": message, "finish_reason": "stop"}]}))
    whole.end()
    streamed, _ = run(*[chunk(delta) for delta in deltas if "reasoning_content" not in delta], chunk({}, "stop"))

    def texts(translation: Translation) -> str:
        return "".join(p["text"] for item in translation.response()["output"] for p in item.get("content", ()))

    def arguments(translation: Translation) -> list[Any]:
        items = translation.response()["output"]
        return sorted((i["call_id"], i["arguments"]) for i in items if i["type"] == "function_call")

    assert texts(whole) == texts(streamed)
    assert arguments(whole) == arguments(streamed)
