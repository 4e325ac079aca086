"""The `openai` package as a client, unpatched."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]


@pytest.fixture
async def client(house: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        api_key="none",
        base_url=house.router.url + "/v1",
        max_retries=0,
        http_client=openai.DefaultAsyncHttpxClient(verify=False, timeout=5),
    ) as made:
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


async def test_extra_fields(client: openai.AsyncOpenAI, house: Any) -> None:
    extra = {"trimode": {"mode": "SelfSpeculation", "blockLength": 8}, "quality": "lossless"}
    await client.chat.completions.create(
        model="tiny", messages=MESSAGES, extra_body=extra, extra_headers={"x-trimode-tier": "premium"}
    )
    assert house.replicas[0].calls[0].json["trimode"] == extra["trimode"]
    assert house.replicas[0].calls[0].headers["x-trimode-tier"] == "premium"


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
