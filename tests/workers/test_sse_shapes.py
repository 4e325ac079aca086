"""The bytes of answers and chunks, checked against the openai package's own models."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from trimode_workers.openai.render import DONE, Answer, Chunks, Head, Kind, Outcome, whole
from trimode_workers.replica.stream import HOLD_ABOVE_BYTES, EventStream
from trimode_workers.text.answer import Delta

OUTCOME = Outcome("stop", 3, 5, {"AR": 1, "S8": 2}, {"AR": 1, "S8": 4})
CHAT = Head(Kind.CHAT, "chatcmpl-1", 1700000000, 'ti"ny')
TEXT = Head(Kind.TEXT, "cmpl-1", 1700000000, "tiny")


def events(data: bytes) -> list[Any]:
    parts = data.split(b"\n\n")
    assert parts[-1] == b""
    assert all(part.startswith(b"data: ") and b"\n" not in part for part in parts[:-1])
    return [part.removeprefix(b"data: ") for part in parts[:-1]]


@given(st.text(min_size=1))
def test_any_text_is_one_event_and_comes_back(text: str) -> None:
    for head in (CHAT, TEXT):
        (event,) = events(Chunks(head, usage_chunk=False).text(text, [7]))
        choice = json.loads(event)["choices"][0]
        assert (choice["delta"]["content"] if head is CHAT else choice["text"]) == text
        assert choice["finish_reason"] is None


@pytest.mark.parametrize("usage_chunk", [True, False])
def test_chat_chunks_are_openais(usage_chunk: bool) -> None:
    chunks = Chunks(CHAT, usage_chunk=usage_chunk)
    data = chunks.first() + chunks.text("a", [7, 8]) + chunks.last(OUTCOME)
    *body, done = events(data)
    assert b"data: " + done + b"\n\n" == DONE
    parsed = [ChatCompletionChunk.model_validate_json(each, strict=True) for each in body]
    assert parsed[0].choices[0].delta.role == "assistant"
    assert parsed[1].to_dict()["trimode"] == {"ids": [7, 8]}
    assert [c.choices[0].finish_reason for c in parsed if c.choices] == [None, None, "stop"]
    assert parsed[-1].choices == [] if usage_chunk else parsed[-1].choices
    assert [c.usage is not None for c in parsed] == [False] * (len(parsed) - 1) + [True]
    assert parsed[-1].to_dict()["trimode"] == {
        "cycles": {"AR": 1, "S8": 2},
        "tokens": {"AR": 1, "S8": 4},
        "acceptanceLength": 1.667,
    }


def test_text_chunks_are_openais() -> None:
    chunks = Chunks(TEXT, usage_chunk=False)
    assert chunks.first() == b""
    *body, _ = events(chunks.text("a", [7, 8]) + chunks.last(OUTCOME))
    parsed = [json.loads(each) for each in body]
    assert [each["choices"][0]["text"] for each in parsed] == ["a", ""]
    assert {each["object"] for each in parsed} == {"text_completion"}


def test_whole_answers_are_openais() -> None:
    chat = ChatCompletion.model_validate_json(whole(CHAT, [Answer(Delta("hé"), None, OUTCOME)]), strict=True)
    assert (chat.choices[0].message.content, chat.model) == ("hé", 'ti"ny')
    text = Completion.model_validate_json(whole(TEXT, [Answer(Delta("hé"), None, OUTCOME)]), strict=True)
    assert text.choices[0].text == "hé"
    assert text.usage is not None
    assert text.usage.total_tokens == 8


def test_an_answer_without_cycles_has_no_acceptance() -> None:
    assert Outcome("stop", 3, 0).trimode() == {"cycles": {}, "tokens": {}, "acceptanceLength": 0.0}


class Socket:
    """A transport whose client reads as fast as the test says."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.waiting = 0
        self.closing = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def is_closing(self) -> bool:
        return self.closing

    def contents(self) -> list[str]:
        """The texts sent, read back from HTTP chunks and events."""
        texts: list[str] = []
        for frame in self.written:
            size, _, rest = frame.partition(b"\r\n")
            assert int(size, 16) == len(rest) - 2
            for event in rest[:-2].split(b"\n\n")[:-1]:
                payload = event.removeprefix(b"data: ")
                if payload != b"[DONE]":
                    texts += [c["delta"].get("content", "") for c in json.loads(payload)["choices"]]
        return texts


class TestSlowClients:
    """Arrears are bounded, nothing is lost."""

    @pytest.fixture
    def socket(self) -> Socket:
        return Socket()

    @pytest.fixture
    def stream(self, socket: Socket) -> EventStream:
        transport: Any = socket
        return EventStream(transport, Chunks(CHAT, usage_chunk=False))

    def test_a_quick_client_gets_every_piece(self, socket: Socket, stream: EventStream) -> None:
        for text in "abc":
            stream.show(Delta(text), [ord(text)])
        assert socket.contents() == ["", "a", "b", "c"]
        assert len(socket.written) == 3

    def test_a_slow_one_gets_them_together_later(self, socket: Socket, stream: EventStream) -> None:
        stream.show(Delta("a"), [1])
        socket.waiting = HOLD_ABOVE_BYTES + 1
        stream.show(Delta("b"), [2])
        stream.show(Delta("c"), [3])
        assert socket.contents() == ["", "a"]
        socket.waiting = 0
        stream.show(Delta("d"), [4])
        assert socket.contents() == ["", "a", "bcd"]
        assert b'"trimode":{"ids":[2,3,4]}' in socket.written[-1]

    def test_what_is_held_goes_before_the_end(self, socket: Socket, stream: EventStream) -> None:
        stream.show(Delta("a"), [1])
        socket.waiting = HOLD_ABOVE_BYTES + 1
        stream.show(Delta("b"), [2])
        stream.end(replace(OUTCOME, rest=Delta("c")), OUTCOME)
        assert socket.contents() == ["", "a", "bc", ""]
        assert len(socket.written) == 2

    def test_a_continued_stream_does_not_open_again(self, socket: Socket) -> None:
        transport: Any = socket
        stream = EventStream(transport, Chunks(CHAT, usage_chunk=False), begun=True)
        stream.show(Delta("a"), [1])
        assert socket.contents() == ["a"]

    def test_nothing_is_written_to_a_closed_socket(self, socket: Socket, stream: EventStream) -> None:
        socket.closing = True
        stream.show(Delta("a"), [1])
        assert socket.written == []
