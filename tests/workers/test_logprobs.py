"""Log-probabilities in OpenAI's shapes, over real HTTP, read by the openai package; and across a break."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import openai
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion

from trimode_api.errors import ApiError
from trimode_api.openai import ChatRequest, CompletionRequest
from trimode_api.wire import CONTINUE_PATH
from trimode_workers.openai.parse import parse
from trimode_workers.replica.replica import Replica
from trimode_workers.text.tokenizer import TextModel, load_text_model

FIRST = 4
"""Special tokens come before the bytes."""
MODES = [{"mode": "AR"}, {"mode": "SelfSpeculation"}]


@pytest.fixture
def text(fake_model: Any) -> TextModel:
    return load_text_model(fake_model)


def client(replica: Replica) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{replica.url}/v1", api_key="fleet-secret", max_retries=0)


def told(text: TextModel, words: str) -> list[tuple[str, float]]:
    """Token and logprob of each byte, as the double says them."""
    return [(text.piece(token)[0], -token / 1000) for token in text.spell(words)]


@pytest.mark.parametrize("pin", MODES)
async def test_chats_tell_each_token_once_whole_or_streamed(replica: Replica, text: TextModel, pin: Any) -> None:
    async with client(replica) as api:
        asked: dict[str, Any] = {
            "model": "echo",
            "messages": [{"role": "user", "content": "h\u00e9llo there"}],
            "max_tokens": 17,
            "logprobs": True,
            "top_logprobs": 2,
            "extra_body": {"trimode": pin},
        }
        whole = await api.chat.completions.create(**asked)
        ChatCompletion.model_validate_json(whole.model_dump_json(), strict=True)
        content = whole.choices[0].logprobs and whole.choices[0].logprobs.content
        assert content is not None
        assert [(t.token, t.logprob) for t in content] == told(text, "h\u00e9llo thereh\u00e9llo")[:17]
        assert bytes(byte for t in content for byte in t.bytes or ()) == "h\u00e9llo thereh\u00e9ll".encode()
        for token in content:
            assert len(token.top_logprobs) == 2
            assert token.top_logprobs[0].logprob == token.logprob
            assert token.top_logprobs[0].bytes == token.bytes
        streamed = []
        async for chunk in await api.chat.completions.create(**asked, stream=True):
            if (found := chunk.choices[0].logprobs) is not None and found.content is not None:
                streamed += found.content
        assert [t.model_dump() for t in streamed] == [t.model_dump() for t in content]


@pytest.mark.parametrize("pin", MODES)
async def test_completions_tell_them_in_their_own_shape(replica: Replica, text: TextModel, pin: Any) -> None:
    async with client(replica) as api:
        asked: dict[str, Any] = {"model": "echo", "prompt": "abc", "max_tokens": 5, "extra_body": {"trimode": pin}}
        whole = await api.completions.create(**asked, logprobs=2)
        Completion.model_validate_json(whole.model_dump_json(), strict=True)
        found = whole.choices[0].logprobs
        assert found is not None
        assert found.tokens == list("abcab")
        assert found.token_logprobs == [logprob for _, logprob in told(text, "abcab")]
        assert found.text_offset == [0, 1, 2, 3, 4]
        assert found.top_logprobs is not None
        assert found.top_logprobs[0] == dict(told(text, "ab"))
        offsets: list[int] = []
        async for chunk in await api.completions.create(**asked, logprobs=0, stream=True):
            if (part := chunk.choices[0].logprobs) is not None:
                offsets += part.text_offset or []
                assert part.top_logprobs is not None
                assert all(len(top) == 1 for top in part.top_logprobs)
        assert offsets == [0, 1, 2, 3, 4]


async def test_only_tokens_that_count_are_told(replica: Replica) -> None:
    """Up to the end of a stop string, which may end in mid-cycle, and those whose text was held back."""
    async with client(replica) as api:
        for pin in MODES:
            answer = await api.chat.completions.create(
                model="echo",
                messages=[{"role": "user", "content": "one two three"}],
                stop=["two t"],
                logprobs=True,
                extra_body={"trimode": pin},
            )
            assert answer.usage is not None
            content = answer.choices[0].logprobs and answer.choices[0].logprobs.content
            assert content is not None
            assert "".join(t.token for t in content) == "one two t"
            assert len(content) == answer.usage.completion_tokens
            held = await api.completions.create(
                model="echo", prompt="abc", max_tokens=5, stop=["abx"], logprobs=1, extra_body={"trimode": pin}
            )
            assert held.choices[0].text == "abcab"
            assert held.choices[0].logprobs is not None
            assert held.choices[0].logprobs.tokens == list("abcab")


async def test_a_stream_that_goes_on_elsewhere_tells_no_token_twice(
    http: aiohttp.ClientSession, text: TextModel
) -> None:
    request = {"model": "echo", "prompt": "abcdef", "max_tokens": 9, "stream": True, "logprobs": 1}
    rest = {
        "path": "/v1/completions",
        "id": "cmpl-1",
        "created": 5,
        "emitted": text.spell("abcd"),
        "request": request,
    }
    async with http.post(CONTINUE_PATH, json=rest) as response:
        lines = (await response.text()).split("\n\n")
    found = [json.loads(line.removeprefix("data: "))["choices"][0]["logprobs"] for line in lines[:-2]]
    parts = [each for each in found if each is not None]
    assert [token for part in parts for token in part["tokens"]] == list("efabc")
    assert [offset for part in parts for offset in part["text_offset"]] == [4, 5, 6, 7, 8]


def test_pieces_of_any_vocabulary(text: TextModel) -> None:
    assert text.piece(0) == ("<end>", b"<end>")
    assert text.piece(text.spell("\u00e9")[0]) == ("\ufffd", b"\xc3")
    assert text.piece(10_000) == ("", b"")


CHAT = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


@pytest.mark.parametrize(
    ("more", "scores"),
    [
        ({}, None),
        ({"logprobs": False}, None),
        ({"logprobs": None, "top_logprobs": None}, None),
        ({"logprobs": False, "top_logprobs": 0}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
    ],
)
def test_how_many_a_chat_wants(more: dict[str, Any], scores: int | None) -> None:
    assert parse(ChatRequest, json.dumps(CHAT | more).encode()).scores == scores


@pytest.mark.parametrize(("value", "scores"), [(None, None), (False, None), (0, 0), (5, 5)])
def test_how_many_a_completion_wants(value: Any, scores: int | None) -> None:
    body = {"model": "m", "prompt": "x", "logprobs": value}
    assert parse(CompletionRequest, json.dumps(body).encode()).scores == scores


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": 3}, "logprobs"),
    ],
)
def test_what_a_chat_cannot_want(more: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(ChatRequest, json.dumps(CHAT | more).encode())
    assert caught.value.param == param


async def test_diffusion_refuses_them_by_name(replica: Replica) -> None:
    async with client(replica) as api:
        with pytest.raises(openai.BadRequestError) as caught:
            await api.chat.completions.create(
                model="echo",
                messages=[{"role": "user", "content": "x"}],
                logprobs=True,
                extra_body={"trimode": {"mode": "Diffusion"}},
            )
    assert caught.value.param == "logprobs"
