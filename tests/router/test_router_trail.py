"""What is kept of a stream, and the request for its rest."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode_router.trail import Trail

BODY = b'{"model":"tiny","stream":true}'


def event(text: str, ids: list[int], **more: Any) -> bytes:
    """A chunk as the replica sends it."""
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
    value = {"id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 17, "model": "tiny", "choices": [choice]}
    data = json.dumps(value | more | {"trimode": {"ids": ids}}, separators=(",", ":")).encode()
    frame = b"data: " + data + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(frame), frame)


def rest_of(trail: Trail) -> dict[str, Any]:
    body = trail.continuation("/v1/chat/completions", BODY)
    assert body is not None
    value: dict[str, Any] = json.loads(body)
    return value


@given(st.lists(st.tuples(st.text(), st.lists(st.integers(0, 200_000), max_size=40)), min_size=1, max_size=60))
def test_every_id_is_kept_in_order_however_long_the_stream(chunks: list[tuple[str, list[int]]]) -> None:
    trail = Trail(1_000_000)
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
    trail = Trail(1000)
    trail.add(event('"trimode":{"ids":[666]}, \\"trimode\\":{\\"ids\\":[667]', [1]))
    trail.add(event('"finish_reason":"stop"', [2]))
    assert rest_of(trail)["emitted"] == [1, 2]
    assert not trail.finished


def test_pieces_may_hold_many_events() -> None:
    trail = Trail(1000)
    trail.add(event("a", [1]) + event("b", [2, 3]) + event("c", [4])[:-9])
    trail.add(event("c", [4])[-9:])
    assert rest_of(trail)["emitted"] == [1, 2, 3, 4]


@pytest.mark.parametrize("foreign", [b'data: {"id":"x","created":1,"choices":[]}\n\n', b"data: hello\n\n"])
def test_a_stream_without_ids_can_not_be_continued(foreign: bytes) -> None:
    trail = Trail(1000)
    for _ in range(200):
        trail.add(foreign)
    assert trail.continuation("/v1/chat/completions", BODY) is None


def test_what_is_kept_is_bounded() -> None:
    trail = Trail(5000)
    for number in range(10_000):
        trail.add(event("word " * 20, [number]))
    assert trail.continuation("/v1/chat/completions", BODY) is None
    assert len(trail.tail) < 8192


def test_the_end_is_recognised_behind_any_length() -> None:
    trail = Trail(100_000)
    for number in range(500):
        trail.add(event("word " * 50, [number]))
        assert not trail.finished
    trail.add(b'data: {"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"completion_tokens":500}}\n\n')
    assert trail.finished
    assert b'"completion_tokens":500' in trail.tail
