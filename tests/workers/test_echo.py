"""The prompt before the answer, and its log-probabilities: as lm-evaluation-harness asks for them."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from trimode_api.errors import ApiError
from trimode_api.openai import CompletionRequest
from trimode_api.wire import CONTINUE_PATH
from trimode_router.request.parse import CHAT_PATH, TEXT_PATH
from trimode_router.request.parse import parse as routed
from trimode_workers.openai.parse import parse
from trimode_workers.text.tokenizer import TextModel, load_text_model


@pytest.fixture
def text(fake_model: Any) -> TextModel:
    return load_text_model(fake_model)


async def complete(http: aiohttp.ClientSession, status: int = 200, **more: Any) -> dict[str, Any]:
    async with http.post("/v1/completions", json={"model": "echo", "temperature": 0, **more}) as response:
        body = await response.json()
        assert response.status == status, body
        return body  # type: ignore[no-any-return]


async def streamed(http: aiohttp.ClientSession, **more: Any) -> list[dict[str, Any]]:
    async with http.post("/v1/completions", json={"model": "echo", "stream": True, **more}) as response:
        lines = (await response.text()).split("\n\n")
    return [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines[:-2]]


@pytest.mark.parametrize("length", [0, 1])
async def test_a_harness_reads_likelihoods_of_continuations(
    http: aiohttp.ClientSession, text: TextModel, length: int
) -> None:
    """Several prompts of ids, each a context and a continuation: sums of logprobs, and whether it is the greedy one."""
    contexts, endings = ["the cat ", "1 + 1 = "], ["sat", "2"]
    ids = [text.spell(context + ending) for context, ending in zip(contexts, endings, strict=True)]
    answer = await complete(http, prompt=ids, max_tokens=length, logprobs=1, echo=True, seed=1234)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert answer["usage"]["completion_tokens"] == 2 * length
    for choice, context, ending, tokens in zip(answer["choices"], contexts, endings, ids, strict=True):
        told, first = choice["logprobs"], len(text.spell(context))
        last = len(told["tokens"]) - length
        assert "".join(told["tokens"][:last]) == context + ending
        assert (told["token_logprobs"][0], told["top_logprobs"][0]) == (None, None)
        assert told["token_logprobs"][first:last] == [-token / 1000 for token in tokens[first:]]
        for own, top in zip(told["token_logprobs"][1:], told["top_logprobs"][1:], strict=True):
            assert max(top.values()) == own
        assert told["text_offset"] == list(range(last + length))
        assert choice["text"] == "".join(told["tokens"])
        assert choice["finish_reason"] == "length"


async def test_without_logprobs_the_text_alone_comes_back(http: aiohttp.ClientSession, text: TextModel) -> None:
    for prompt in ("ab\u00e9", text.spell("ab\u00e9")):
        answer = await complete(http, prompt=prompt, max_tokens=2, echo=True)
        assert answer["choices"][0]["text"] == "ab\u00e9ab"
        assert answer["choices"][0]["logprobs"] is None
        assert (await complete(http, prompt=prompt, max_tokens=0, echo=True))["choices"][0]["text"] == "ab\u00e9"


@pytest.mark.parametrize("logprobs", [None, 1])
async def test_a_stream_begins_with_the_prompt(http: aiohttp.ClientSession, logprobs: int | None) -> None:
    asked: dict[str, Any] = {"prompt": "abc", "max_tokens": 4, "echo": True, "logprobs": logprobs}
    choices = await streamed(http, **asked)
    whole = (await complete(http, **asked))["choices"][0]
    assert "".join(c["text"] for c in choices) == whole["text"] == "abcabca"
    if logprobs:
        parts = [c["logprobs"] for c in choices if c["logprobs"]]
        for name, value in whole["logprobs"].items():
            assert [each for part in parts for each in part[name]] == value
    choices = await streamed(http, **(asked | {"max_tokens": 0}))
    assert "".join(c["text"] for c in choices) == "abc"


async def test_a_stream_that_goes_on_elsewhere_does_not_repeat_the_prompt(
    http: aiohttp.ClientSession, text: TextModel
) -> None:
    request = {"model": "echo", "prompt": "abcd", "max_tokens": 5, "stream": True, "logprobs": 1, "echo": True}
    rest = {"path": "/v1/completions", "id": "cmpl-1", "created": 5, "emitted": text.spell("ab"), "request": request}
    async with http.post(CONTINUE_PATH, json=rest) as response:
        lines = (await response.text()).split("\n\n")
    choices = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines[:-2]]
    parts = [c["logprobs"] for c in choices if c["logprobs"]]
    assert "".join(c["text"] for c in choices) == "cda"
    assert [offset for part in parts for offset in part["text_offset"]] == [6, 7, 8]


async def test_vllms_prompt_logprobs(http: aiohttp.ClientSession, text: TextModel) -> None:
    answer = await complete(http, prompt="abc", max_tokens=1, prompt_logprobs=1)
    _, b, c = text.spell("abc")
    found = answer["choices"][0]["prompt_logprobs"]
    assert found[0] is None
    assert found[1] == {str(b): {"logprob": -b / 1000, "rank": 1, "decoded_token": "b"}}
    assert set(found[2]) == {str(c)}
    assert answer["choices"][0]["logprobs"] is None
    chat = {"model": "echo", "messages": [{"role": "user", "content": "abc"}], "max_tokens": 1, "prompt_logprobs": 0}
    async with http.post("/v1/chat/completions", json=chat) as response:
        assert [len(each or ()) for each in (await response.json())["prompt_logprobs"]] == [0, 1, 1]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"max_tokens": 0}, "max_tokens: 0 is allowed with echo or prompt_logprobs only"),
        ({"max_tokens": -1, "echo": True}, "greater than or equal to 0"),
        ({"prompt_logprobs": 2, "stream": True}, "without stream only"),
        ({"prompt_logprobs": 21}, "less than or equal to 20"),
        ({"echo": 1}, "boolean"),
    ],
)
def test_what_makes_no_sense_is_refused(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ApiError, match=words):
        parse(CompletionRequest, json.dumps({"model": "m", "prompt": "x", **more}).encode())


def test_routers_let_an_answer_of_no_tokens_through() -> None:
    body = json.dumps({"model": "m", "prompt": "x", "max_tokens": 0, "echo": True}).encode()
    assert routed(TEXT_PATH, body, ()).max_tokens == 0
    with pytest.raises(ApiError, match="at least 1"):
        routed(CHAT_PATH, json.dumps({"model": "m", "messages": [], "max_tokens": 0}).encode(), ())
