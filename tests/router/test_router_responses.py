"""`/v1/responses` at a running router, by the `openai` package and byte by byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from trimode_api.wire import CONTINUE_PATH
from trimode_lab.doubles.replica.replica import Call, FakeReplica, chat_chunk
from trimode_lab.doubles.replica.script import ids_of, storyteller, text_of

PATH = "/v1/responses"
WHOLE = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "tiny"}
USAGE = {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}


def client_of(house: Any) -> openai.AsyncOpenAI:
    http = openai.DefaultAsyncHttpxClient(timeout=5)
    return openai.AsyncOpenAI(api_key="none", base_url=house.router.url + "/v1", http_client=http, max_retries=0)


@pytest.fixture
async def client(house: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(house) as made:
        yield made


def saying(message: dict[str, Any], finish: str = "stop") -> Any:
    """A script: that message, whole or in a stream."""

    async def answer(call: Call) -> None:
        if not call.json.get("stream"):
            choice = {"index": 0, "message": message, "finish_reason": finish}
            await call.answer(WHOLE | {"choices": [choice], "usage": USAGE})
            return
        await call.begin()
        calls = [one | {"index": index} for index, one in enumerate(message.get("tool_calls", ()))]
        await call.event(chat_chunk(message | ({"tool_calls": calls} if calls else {})))  # type: ignore[arg-type]
        await call.event(chat_chunk({}, finish) | {"usage": USAGE})
        await call.event("[DONE]")
        await call.raw(b"0\r\n\r\n")

    return answer


CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
TOOL: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}


async def test_an_answer(client: openai.AsyncOpenAI, house: Any) -> None:
    answer = await client.responses.create(model="tiny", input="hi", instructions="be brief", max_output_tokens=9)
    assert answer.output_text == "t0 t1 t2 "
    assert answer.status == "completed"
    assert answer.instructions == "be brief"
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (1, 3, 4)
    sent = (await house.replicas[0].next_call()).json
    assert sent == {
        "model": "tiny",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
        "max_completion_tokens": 9,
    }


async def test_a_stream(client: openai.AsyncOpenAI) -> None:
    stream = await client.responses.create(model="tiny", input="hi", stream=True)
    events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "t0 t1 t2 "
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "t0 t1 t2 "
    assert last.response.usage is not None
    assert last.response.usage.output_tokens == 3


async def test_the_streaming_helper(client: openai.AsyncOpenAI) -> None:
    async with client.responses.stream(model="tiny", input="hi") as stream:
        texts = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert "".join(texts) == final.output_text == "t0 t1 t2 "


class City(BaseModel):
    name: str
    people: int


@pytest.mark.parametrize("streamed", [False, True])
async def test_structured_output(open_house: Any, streamed: bool) -> None:
    house = await open_house(script=saying({"role": "assistant", "content": '{"name": "Bern", "people": 5}'}))
    async with client_of(house) as client:
        if streamed:
            async with client.responses.stream(model="tiny", input="?", text_format=City) as stream:
                answer = await stream.get_final_response()
        else:
            answer = await client.responses.parse(model="tiny", input="?", text_format=City)
    assert answer.output_parsed == City(name="Bern", people=5)
    asked = (await house.replicas[0].next_call()).json["response_format"]
    assert (asked["type"], asked["json_schema"]["name"], asked["json_schema"]["strict"]) == (
        "json_schema",
        "City",
        True,
    )


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_call_and_its_result(open_house: Any, streamed: bool) -> None:
    house = await open_house(script=saying({"role": "assistant", "content": None, "tool_calls": [CALL]}, "tool_calls"))
    async with client_of(house) as client:
        if streamed:
            async with client.responses.stream(model="tiny", input="?", tools=[TOOL]) as stream:
                answer: Any = await stream.get_final_response()
        else:
            answer = await client.responses.create(model="tiny", input="?", tools=[TOOL])
        (asked,) = answer.output
        assert (asked.type, asked.name, asked.arguments) == ("function_call", "weather", '{"city": "Paris"}')
        await house.replicas[0].next_call()
        # As agents do it: all of the output goes back as it came.
        more: Any = [{"role": "user", "content": "?"}, *answer.output]
        more.append({"type": "function_call_output", "call_id": asked.call_id, "output": "rain"})
        await client.responses.create(model="tiny", input=more, tools=[TOOL])
    sent = (await house.replicas[0].next_call()).json["messages"]
    assert sent[1] == {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert sent[2] == {"role": "tool", "tool_call_id": "c1", "content": "rain"}


async def test_cut_short(open_house: Any) -> None:
    house = await open_house(script=saying({"role": "assistant", "content": "a"}, "length"))
    async with client_of(house) as client:
        whole = await client.responses.create(model="tiny", input="hi")
        events = [event async for event in await client.responses.create(model="tiny", input="hi", stream=True)]
    assert whole.status == "incomplete"
    assert whole.incomplete_details is not None
    assert whole.incomplete_details.reason == "max_output_tokens"
    assert events[-1].type == "response.incomplete"


@pytest.mark.parametrize("streamed", [False, True])
async def test_refusals_are_those_of_the_replica_in_the_clients_words(open_house: Any, streamed: bool) -> None:
    async def refuse(call: Call) -> None:
        said = "messages[1].content: only parts of text are allowed"
        error = {"message": said, "type": "invalid_request_error", "param": "messages[1].content", "code": "x"}
        await call.answer({"error": error}, 400)

    house = await open_house(script=refuse)
    async with client_of(house) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(model="tiny", input="hi", instructions="i", stream=streamed)
    assert refused.value.param == "input.content"
    assert refused.value.body["message"] == "input.content: only parts of text are allowed"  # type: ignore[index]


async def test_what_is_refused_at_once(house: Any) -> None:
    stored = await house.http.post(PATH, json={"model": "tiny", "input": "hi", "previous_response_id": "resp_1"})
    assert stored.status_code == 400
    assert stored.json()["error"]["param"] == "previous_response_id"
    unknown = await house.http.post(PATH, json={"model": "other", "input": "hi"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    assert (await house.http.get(PATH)).status_code == 405
    gone = await house.http.get(PATH + "/resp_1")
    assert gone.status_code == 404
    assert "not stored" in gone.json()["error"]["message"]
    assert not house.replicas[0].calls


async def test_busy_says_when_to_come_again(open_house: Any, make_policy: Any) -> None:
    house = await open_house(replicas=0)
    answer = await house.http.post(PATH, json={"model": "tiny", "input": "hi", "stream": True})
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert answer.headers["x-request-id"]


async def test_a_replica_that_dies_is_replaced_unseen(open_house: Any) -> None:
    async def die(call: Call) -> None:
        await call.begin()
        asked = call.json
        count = len(asked["emitted"]) if call.path == CONTINUE_PATH else 0
        assert not count
        for index in range(3):
            ids = {"trimode": {"ids": ids_of("hi", index, index + 1)}}
            value = chat_chunk({"content": text_of("hi", index, index + 1)}) | ids
            await call.event(json.dumps(value, separators=(",", ":")))
        await call.go.wait()
        call.reset()

    house = await open_house(script=die)
    async with FakeReplica(replica_id="r2", script=storyteller(0)) as other, client_of(house) as client:
        stream = await client.responses.create(model="tiny", input="hi", stream=True)
        call = await house.replicas[0].next_call()
        await house.add(other)
        call.go.set()
        async with asyncio.timeout(5):
            events = [event async for event in stream]
        continued = await other.next_call()
    assert continued.path == CONTINUE_PATH
    assert continued.json["path"] == "/v1/chat/completions"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == text_of("hi", 0, 10)


async def test_a_stream_that_cannot_go_on_has_failed(open_house: Any) -> None:
    async def die(call: Call) -> None:
        await call.begin()
        await call.event(chat_chunk({"content": "a"}))
        call.reset()

    house = await open_house(script=die)
    async with client_of(house) as client:
        events = [event async for event in await client.responses.create(model="tiny", input="hi", stream=True)]
    assert events[-1].type == "response.failed"
    assert events[-1].response.error is not None
    assert "in mid-stream" in events[-1].response.error.message
    assert events[-1].response.output[0].status == "incomplete"  # type: ignore[union-attr]


async def test_it_is_counted_and_the_connection_is_kept(house: Any) -> None:
    for _ in range(2):
        answer = await house.http.post(PATH, json={"model": "tiny", "input": "hi"})
        assert answer.status_code == 200
        async with house.http.stream("POST", PATH, json={"model": "tiny", "input": "hi", "stream": True}) as stream:
            assert stream.headers["content-type"] == "text/event-stream"
            assert stream.headers["x-accel-buffering"] == "no"
            await stream.aread()
    assert 'trimode_router_requests_total{status="200",tier="standard"} 4' in (await house.http.get("/metrics")).text
    view = (await house.http.get("/fleet")).json()
    assert view["router"]["inFlight"] == 0


async def test_http_1_0(house: Any) -> None:
    body = b'{"model": "tiny", "input": "hi", "stream": true}'
    said = await house.exchange(b"POST %b HTTP/1.0\r\ncontent-length: %d\r\n\r\n%b" % (PATH.encode(), len(body), body))
    head, _, rest = said.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert rest.startswith(b"event: response.created\ndata: {")
    assert b"event: response.completed\n" in rest


async def test_a_client_that_leaves_frees_its_replica(open_house: Any) -> None:
    async def long(call: Call) -> None:
        await call.begin()
        await call.event(chat_chunk({"content": "a"}))
        await call.go.wait()

    house = await open_house(script=long)
    async with house.http.stream("POST", PATH, json={"model": "tiny", "input": "hi", "stream": True}) as stream:
        async for line in stream.aiter_lines():
            if line.startswith("event: response.output_text.delta"):
                break
    call = await house.replicas[0].next_call()
    async with asyncio.timeout(5):
        await call.gone.wait()


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_server_that_answers_nonsense(open_house: Any, streamed: bool) -> None:
    async def nonsense(call: Call) -> None:
        if streamed:
            await call.begin()
            await call.event("{")
            await call.raw(b"0\r\n\r\n")
        else:
            await call.answer(["no"])

    house = await open_house(script=nonsense)
    answer = await house.http.post(PATH, json={"model": "tiny", "input": "hi", "stream": streamed})
    assert answer.status_code == (200 if streamed else 502)
    assert "the server sent what is no chat completion" in answer.text or "what is no chunk of a chat" in answer.text


async def test_lines_may_come_torn_and_with_carriage_returns(open_house: Any) -> None:
    """Others' servers write events in their own way."""

    async def odd(call: Call) -> None:
        await call.begin()
        data = b": ping\r\n\r\ndata:" + json.dumps(chat_chunk({"content": "a"}, "stop")).encode() + b"\r\n\r\n"
        for at in range(len(data)):
            await call.raw(b"1\r\n" + data[at : at + 1] + b"\r\n")
        await call.raw(b"0\r\n\r\n")

    house = await open_house(script=odd)
    async with client_of(house) as client:
        events = [event async for event in await client.responses.create(model="tiny", input="hi", stream=True)]
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == "a"
