"""The client's reading of a stream, and what chat says of an answer."""

import json
from collections.abc import Iterator

import httpx
import pytest

from trimode_cli.chat import Meter, options
from trimode_local.client import Account, Endpoint, events
from trimode_local.errors import BadInput, CliError


def event(**body: object) -> str:
    return "data: " + json.dumps(body)


def stream() -> list[str]:
    return [
        event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]),
        "",
        event(choices=[{"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}]),
        ": a comment",
        event(
            choices=[{"index": 0, "delta": {}, "finish_reason": "length"}],
            usage={"completion_tokens": 9},
            trimode={"cycles": {"S8": 2}, "tokens": {"S8": 9}, "acceptanceLength": 4.5},
        ),
        "data: [DONE]",
    ]


def test_pieces_and_then_the_account() -> None:
    assert list(events(iter(stream()))) == ["Hello", Account(9, {"S8": 2}, {"S8": 9}, 4.5, "length")]


def test_an_error_in_the_middle_of_a_stream_is_raised() -> None:
    pieces: Iterator[str | Account] = events(iter([*stream()[:3], event(error={"message": "the engine died"})]))
    assert next(pieces) == "Hello"
    with pytest.raises(CliError, match="the engine died"):
        next(pieces)


def test_an_answer_that_is_an_error_is_told_in_its_words() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        return httpx.Response(429, json={"error": {"message": "busy"}})

    endpoint = Endpoint("http://tiny/v1/", httpx.MockTransport(refuse))
    assert endpoint.url == "http://tiny"
    with pytest.raises(CliError, match="429: busy"):
        endpoint.model()
    with pytest.raises(CliError, match="429: busy"):
        list(endpoint.chat("tiny", [], {}))


def test_the_line_below_an_answer() -> None:
    times = iter([10.0, 10.1, 11.0])
    meter = Meter(lambda: next(times))
    meter.piece()
    meter.piece()
    line = meter.line(Account(50, {}, {"AR": 10, "S8": 40}, 6.25, "length"))
    assert line == "50 tokens, 50 tok/s, first after 100 ms, 6.2 per cycle, S8 80 % AR 20 %, cut at the limit"


def test_an_empty_answer_has_a_line_too() -> None:
    assert Meter(lambda: 1.0).line(Account()) == "0 tokens, first after 0 ms"


def test_a_mode_is_pinned() -> None:
    assert options(None, None) == {}
    assert options("Diffusion", None) == {"trimode": {"mode": "Diffusion"}}
    assert options("SelfSpeculation", 8) == {"trimode": {"mode": "SelfSpeculation", "blockLength": 8}}
    with pytest.raises(BadInput):
        options("speculation", None)
