"""What is kept of a stream, and the request for its rest."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode_router.request.transcript import ManyTranscripts, Transcript

BODY = b'{"model":"tiny","stream":true}'


def event(text: str, ids: list[int], **more: Any) -> bytes:
    """A chunk as the replica sends it."""
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
    value = {"id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 17, "model": "tiny", "choices": [choice]}
    data = json.dumps(value | more | {"trimode": {"ids": ids}}, separators=(",", ":")).encode()
    frame = b"data: " + data + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(frame), frame)


def rest_of(trail: Transcript) -> dict[str, Any]:
    body = trail.continuation("/v1/chat/completions", BODY)
    assert body is not None
    value: dict[str, Any] = json.loads(body)
    return value


@given(st.lists(st.tuples(st.text(), st.lists(st.integers(0, 200_000), max_size=40)), min_size=1, max_size=60))
def test_every_id_is_kept_in_order_however_long_the_stream(chunks: list[tuple[str, list[int]]]) -> None:
    trail = Transcript(1_000_000)
    for text, ids in chunks:
        trail.add(event(text, ids))
    expected = [token for _, ids in chunks for token in ids]
    if not expected:
        assert trail.continuation("/v1/chat/completions", BODY) is None
        return
    assert rest_of(trail) == {
        "path": "/v1/chat/completions",
        "id": "chatcmpl-7",
        "created": 17,
        "emitted": expected,
        "request": json.loads(BODY),
    }


def test_a_text_that_looks_like_ids_is_text() -> None:
    trail = Transcript(1000)
    trail.add(event('"trimode":{"ids":[666]}, \\"trimode\\":{\\"ids\\":[667]', [1]))
    trail.add(event('"finish_reason":"stop"', [2]))
    assert rest_of(trail)["emitted"] == [1, 2]
    assert not trail.finished


def test_pieces_may_hold_many_events() -> None:
    trail = Transcript(1000)
    trail.add(event("a", [1]) + event("b", [2, 3]) + event("c", [4])[:-9])
    trail.add(event("c", [4])[-9:])
    assert rest_of(trail)["emitted"] == [1, 2, 3, 4]


@pytest.mark.parametrize("foreign", [b'data: {"id":"x","created":1,"choices":[]}\n\n', b"data: hello\n\n"])
def test_a_stream_without_ids_can_not_be_continued(foreign: bytes) -> None:
    trail = Transcript(1000)
    for _ in range(200):
        trail.add(foreign)
    assert trail.continuation("/v1/chat/completions", BODY) is None


def test_what_is_kept_is_bounded() -> None:
    trail = Transcript(5000)
    for number in range(10_000):
        trail.add(event("word " * 20, [number]))
    assert trail.continuation("/v1/chat/completions", BODY) is None
    assert len(trail.tail) < 8192


def test_the_end_is_recognised_behind_any_length() -> None:
    trail = Transcript(100_000)
    for number in range(500):
        trail.add(event("word " * 50, [number]))
        assert not trail.finished
    trail.add(b'data: {"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"completion_tokens":500}}\n\n')
    assert trail.finished
    assert b'"completion_tokens":500' in trail.tail


def of_choice(index: int, ids: list[int]) -> bytes:
    data = event("x", ids)
    return data.replace(b"]}}", b'],"choice":%d}}' % index)


def end_of(index: int, tokens: int) -> bytes:
    mark = {"choice": index, "ended": "stop", "tokens": tokens}
    value = {"choices": [{"index": index, "delta": {}, "finish_reason": "stop"}], "trimode": mark}
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


@given(st.lists(st.tuples(st.integers(0, 2), st.lists(st.integers(0, 200_000), min_size=1, max_size=40)), min_size=1))
def test_ids_of_several_choices_are_told_apart(chunks: list[tuple[int, list[int]]]) -> None:
    trail = ManyTranscripts(1_000_000, 3)
    for index, ids in chunks:
        trail.add(of_choice(index, ids))
    expected: list[list[int]] = [[], [], []]
    for index, ids in chunks:
        expected[index] += ids
    assert [choice["emitted"] for choice in rest_of(trail)["choices"]] == expected


def test_the_end_of_one_choice_is_not_the_end() -> None:
    trail = ManyTranscripts(1000, 2)
    trail.add(of_choice(0, [1]) + of_choice(1, [2]) + end_of(1, 7))
    assert not trail.finished
    assert rest_of(trail)["choices"] == [{"emitted": [1]}, {"emitted": [2], "ended": "stop", "tokens": 7}]
    trail.add(b'data: {"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"completion_tokens":9}}\n\n')
    assert trail.finished


def test_a_choice_that_nobody_asked_for() -> None:
    trail = ManyTranscripts(1000, 2)
    trail.add(of_choice(2, [1]))
    assert trail.continuation("/v1/chat/completions", BODY) is None


def test_several_choices_without_marks_can_not_be_continued() -> None:
    trail = ManyTranscripts(1000, 2)
    trail.add(event("a", [1]))
    assert trail.continuation("/v1/chat/completions", BODY) is None
