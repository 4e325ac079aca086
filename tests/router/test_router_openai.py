"""The `openai` package as a client, unpatched."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import openai
import pytest

MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]


def client_of(house: Any, key: str = "none", **options: Any) -> openai.AsyncOpenAI:
    hooks = {"response": options.pop("on_response", [])}
    http = openai.DefaultAsyncHttpxClient(verify=False, timeout=5, event_hooks=hooks)
    values: dict[str, Any] = {"max_retries": 0} | options
    return openai.AsyncOpenAI(api_key=key, base_url=house.router.url + "/v1", http_client=http, **values)


@pytest.fixture
async def client(house: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(house) as made:
        yield made


async def test_chat(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=2)
    assert answer.choices[0].message.content == "t0 t1 "
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2


async def test_stream(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="tiny", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "t0 t1 t2 "
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3


async def test_text(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model="tiny", prompt="hi", max_tokens=1)
    assert answer.choices[0].text == "t0 "


async def test_models(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["tiny"]
    assert (await client.models.retrieve("tiny")).owned_by == "trimode"


async def test_the_streaming_helper(client: openai.AsyncOpenAI) -> None:
    async with client.chat.completions.stream(model="tiny", messages=MESSAGES) as stream:
        texts = [event.delta async for event in stream if event.type == "content.delta"]
        final = await stream.get_final_completion()
    assert "".join(texts) == final.choices[0].message.content == "t0 t1 t2 "


FIELDS: dict[str, Any] = {
    "n": 2,
    "seed": 7,
    "stop": ["END", "\n\n"],
    "logprobs": True,
    "top_logprobs": 3,
    "temperature": 0.5,
    "top_p": 0.9,
    "presence_penalty": 0.1,
    "logit_bias": {"50": -100},
    "response_format": {"type": "json_object"},
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    "tool_choice": "auto",
    "max_completion_tokens": 5,
    "user": "u1",
}


@pytest.mark.parametrize("stream", [False, True])
async def test_every_field_reaches_the_replica_as_it_was_sent(
    client: openai.AsyncOpenAI, house: Any, stream: bool
) -> None:
    answer: Any = await client.chat.completions.create(model="tiny", messages=MESSAGES, stream=stream, **FIELDS)
    if stream:
        assert [chunk async for chunk in answer]
    seen = house.replicas[0].calls[0].json
    assert {name: seen[name] for name in FIELDS} == FIELDS


async def test_several_choices_with_their_logprobs_and_finish_reasons(client: openai.AsyncOpenAI, house: Any) -> None:
    logprobs = {"content": [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}]}
    choices = [
        {"index": index, "message": {"role": "assistant", "content": "a"}, "logprobs": logprobs, "finish_reason": end}
        for index, end in enumerate(("length", "stop"))
    ]

    async def script(call: Any) -> None:
        usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
        await call.answer(
            {"id": "c", "object": "chat.completion", "created": 1, "model": "tiny", "choices": choices, "usage": usage}
        )

    house.replicas[0].script = script
    answer = await client.chat.completions.create(model="tiny", messages=MESSAGES, n=2, logprobs=True)
    assert [(choice.index, choice.finish_reason) for choice in answer.choices] == [(0, "length"), (1, "stop")]
    assert answer.choices[1].logprobs is not None
    assert answer.choices[1].logprobs.content is not None
    assert answer.choices[1].logprobs.content[0].logprob == -0.5


async def test_requests_have_ids(client: openai.AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(model="tiny", messages=MESSAGES)
    answer = raw.parse()
    assert answer._request_id
    assert answer._request_id == raw.headers["x-request-id"]
    own = await client.chat.completions.create(
        model="tiny", messages=MESSAGES, extra_headers={"x-request-id": "mine-1"}
    )
    assert own._request_id == "mine-1"
    with pytest.raises(openai.NotFoundError) as missing:
        await client.models.retrieve("gpt")
    assert missing.value.request_id


async def test_extra_fields(client: openai.AsyncOpenAI, house: Any) -> None:
    extra = {"trimode": {"mode": "SelfSpeculation", "blockLength": 8}, "quality": "lossless"}
    await client.chat.completions.create(
        model="tiny", messages=MESSAGES, extra_body=extra, extra_headers={"x-trimode-tier": "premium"}
    )
    assert house.replicas[0].calls[0].json["trimode"] == extra["trimode"]
    assert house.replicas[0].calls[0].headers["x-trimode-tier"] == "premium"
    assert house.replicas[0].calls[0].headers["x-trimode-tier-rules"] == "priority=10;tpot=8"


async def test_errors_have_openais_types(client: openai.AsyncOpenAI, house: Any) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(model="gpt", messages=MESSAGES)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        await client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=-1)
    assert bad.value.param == "max_tokens"
    house.pass_time(11)
    with pytest.raises(openai.InternalServerError) as nobody:
        await client.chat.completions.create(model="tiny", messages=MESSAGES)
    assert nobody.value.status_code == 503


async def test_a_broken_stream_raises(client: openai.AsyncOpenAI, house: Any) -> None:
    async def script(call: Any) -> None:
        await call.begin()
        await call.say("one")
        await call.go.wait()
        call.reset()

    house.replicas[0].script = script
    stream = await client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
    assert (await anext(stream)).choices[0].delta.content == "one"
    house.replicas[0].calls[0].go.set()
    with pytest.raises(openai.APIError, match="mid-stream"):
        await anext(stream)


async def test_what_is_no_path_here_is_not_found(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        await client.embeddings.create(model="tiny", input="x")


KEYS = {
    "tenants": [{"name": "acme", "tiers": ["standard"], "requestsPerMinute": 60}],
    "keys": [{"tenant": "acme", "sha256": sha256(b"tm-acme").hexdigest()}],
}


@pytest.fixture
async def guarded(open_house: Any, tmp_path: Path) -> Any:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(KEYS))
    return await open_house(config={"keys_file": str(file)})


async def test_refusals_of_a_key_have_openais_types(guarded: Any) -> None:
    async with client_of(guarded, "tm-guess") as stranger:
        with pytest.raises(openai.AuthenticationError) as unknown:
            await stranger.chat.completions.create(model="tiny", messages=MESSAGES)
    assert unknown.value.code == "invalid_api_key"
    async with client_of(guarded, "tm-acme") as client:
        with pytest.raises(openai.PermissionDeniedError) as tier:
            await client.chat.completions.create(
                model="tiny", messages=MESSAGES, extra_headers={"x-trimode-tier": "premium"}
            )
        assert tier.value.code == "tier_not_allowed"
        for _ in range(60):
            await client.chat.completions.create(model="tiny", messages=MESSAGES)
        with pytest.raises(openai.RateLimitError) as spent:
            await client.chat.completions.create(model="tiny", messages=MESSAGES)
    assert spent.value.code == "rate_limit_exceeded"
    assert spent.value.response.headers["retry-after"] == "1"


async def test_a_client_that_retries_waits_as_long_as_it_is_told_and_succeeds(guarded: Any) -> None:
    statuses = []

    async def later(response: Any) -> None:
        statuses.append(response.status_code)
        if response.status_code == 429:
            guarded.clock.value += int(response.headers["retry-after"])

    async with client_of(guarded, "tm-acme", max_retries=2, on_response=[later]) as client:
        for _ in range(61):
            await client.chat.completions.create(model="tiny", messages=MESSAGES)
    assert statuses == [200] * 60 + [429, 200]


async def test_a_client_that_loses_patience_frees_its_replica(client: openai.AsyncOpenAI, house: Any) -> None:
    async def silent(call: Any) -> None:
        await call.gone.wait()

    house.replicas[0].script = silent
    with pytest.raises(openai.APITimeoutError):
        await client.chat.completions.create(model="tiny", messages=MESSAGES, timeout=0.2)
    await house.until(house.replicas[0].calls[0].gone.is_set)


async def test_nobody_listens(house: Any) -> None:
    async with client_of(house) as client:
        await house.router.stop(0.1)
        with pytest.raises(openai.APIConnectionError):
            await client.models.list()
