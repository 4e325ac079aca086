"""The replica's own port, asked by the openai package and by hand; real process, real HTTP."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from trimode_api.errors import ApiError
from trimode_api.stamp import RULES_HEADER, Stamp
from trimode_api.wire import CONTINUE_PATH
from trimode_workers.engine.messages import Finish, Grammar, Submit, TokenEvent
from trimode_workers.replica.generation import Generation
from trimode_workers.replica.replica import Replica
from trimode_workers.replica.settings import ReplicaSettings
from trimode_workers.text.answer import AnswerText

Body = Callable[..., dict[str, Any]]
Eventually = Callable[..., Awaitable[None]]
StartReplica = Callable[[ReplicaSettings], Awaitable[Replica]]
AUTHORIZED = {"Authorization": "Bearer fleet-secret"}
CHAT = "/v1/chat/completions"


@pytest.fixture
async def client(replica: Replica) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{replica.url}/v1", api_key="fleet-secret", max_retries=0) as client:
        yield client


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


class TestOpenAiPackage:
    """What OpenAI's own client makes of our answers."""

    async def test_a_chat(self, client: openai.AsyncOpenAI) -> None:
        answer = await client.chat.completions.create(model="echo", messages=user("héllo"), max_tokens=12)
        assert answer.choices[0].message.content == "héllohéllo"
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (6, 12)
        assert answer.id.startswith("chatcmpl-")
        assert answer.to_dict()["trimode"] == {
            "cycles": {"AR": 12},
            "tokens": {"AR": 12},
            "acceptanceLength": 1.0,
        }

    async def test_a_stream_is_the_same_answer_in_pieces(self, client: openai.AsyncOpenAI) -> None:
        stream = await client.chat.completions.create(
            model="echo",
            messages=user("[stop]héllo"),
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"trimode": {"mode": "SelfSpeculation", "blockLength": 8}},
        )
        chunks = [chunk async for chunk in stream]
        assert chunks[0].choices[0].delta.role == "assistant"
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "héllo"
        assert chunks[-2].choices[0].finish_reason == "stop"
        assert chunks[-1].choices == []
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 7
        assert chunks[-1].to_dict()["trimode"] == {
            "cycles": {"S8": 3},
            "tokens": {"S8": 7},
            "acceptanceLength": 2.333,
        }

    async def test_plain_completions(self, client: openai.AsyncOpenAI) -> None:
        answer = await client.completions.create(model="echo", prompt="abc", max_tokens=4)
        assert answer.choices[0].text == "abca"
        stream = await client.completions.create(model="echo", prompt=[70, 71], max_tokens=3, stream=True)
        whole = await client.completions.create(model="echo", prompt=[70, 71], max_tokens=3)
        assert "".join([c.choices[0].text async for c in stream]) == whole.choices[0].text

    async def test_a_stop_string_over_the_border_of_cycles(self, client: openai.AsyncOpenAI) -> None:
        for pin in ({"mode": "AR"}, {"mode": "SelfSpeculation"}):
            answer = await client.chat.completions.create(
                model="echo", messages=user("one two three"), stop=["two t"], extra_body={"trimode": pin}
            )
            assert answer.choices[0].message.content == "one "
            assert answer.choices[0].finish_reason == "stop"
            assert answer.usage is not None
            assert answer.usage.completion_tokens == len("one two t")

    async def test_several_choices(self, client: openai.AsyncOpenAI) -> None:
        answer = await client.chat.completions.create(model="echo", messages=user("abc"), n=3, max_tokens=5)
        assert [(c.index, c.message.content, c.finish_reason) for c in answer.choices] == [
            (index, "abcab", "length") for index in range(3)
        ]
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 15)
        stream = await client.chat.completions.create(
            model="echo", messages=user("abc"), n=3, max_tokens=5, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        for index in range(3):
            own = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == index]
            assert own[0].delta.role == "assistant"
            assert "".join(choice.delta.content or "" for choice in own) == "abcab"
            assert [choice.finish_reason for choice in own].count("length") == 1
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 15

    async def test_several_prompts(self, client: openai.AsyncOpenAI) -> None:
        answer = await client.completions.create(model="echo", prompt=["abc", "de"], n=2, max_tokens=4)
        assert [(c.index, c.text) for c in answer.choices] == [(0, "abca"), (1, "abca"), (2, "dede"), (3, "dede")]
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 16)
        stream = await client.completions.create(
            model="echo", prompt=["abc", "de"], max_tokens=4, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        for index, text in enumerate(("abca", "dede")):
            assert "".join(c.choices[0].text for c in chunks if c.choices and c.choices[0].index == index) == text
        assert chunks[-1].usage is not None
        assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (5, 8)

    async def test_several_prompts_go_on_where_another_replica_broke_off(
        self, http: aiohttp.ClientSession, client: openai.AsyncOpenAI
    ) -> None:
        """The first choice had its end there; usage is of both, and each prompt counts once."""
        asked = {"model": "echo", "prompt": ["abc", "de"], "max_tokens": 4, "stream": True}
        past = [{"emitted": [], "ended": "length", "tokens": 4}, {"emitted": []}]
        body = {"path": "/v1/completions", "id": "cmpl-1", "created": 1, "request": asked, "choices": past}
        async with http.post(CONTINUE_PATH, json=body) as response:
            *chunks, done = await events(response)
        assert done == "[DONE]"
        parsed = [json.loads(chunk) for chunk in chunks]
        assert {chunk["choices"][0]["index"] for chunk in parsed} == {1}
        assert "".join(chunk["choices"][0]["text"] for chunk in parsed) == "dede"
        usage = parsed[-1]["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (5, 8)

    async def test_an_answer_goes_into_the_next_request_as_it_is(self, client: openai.AsyncOpenAI) -> None:
        """As agents do it: the client's own object, or its `model_dump()` with every field that is null."""
        said = user("abc")
        answer = await client.chat.completions.create(model="echo", messages=said, max_tokens=3)
        message: Any = answer.choices[0].message
        for again in (message, message.model_dump(), message.to_dict()):
            more = await client.chat.completions.create(model="echo", messages=[*said, again, *user("d")], max_tokens=7)
            assert more.choices[0].message.content == "abcabcd"

    async def test_usage_that_is_asked_for_all_along_comes_at_the_end(self, client: openai.AsyncOpenAI) -> None:
        options: Any = {"include_usage": True, "continuous_usage_stats": True}
        stream = await client.chat.completions.create(
            model="echo", messages=user("abc"), max_tokens=3, stream=True, stream_options=options
        )
        chunks = [chunk async for chunk in stream]
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 3

    async def test_models(self, client: openai.AsyncOpenAI) -> None:
        assert [model.id async for model in client.models.list()] == ["echo"]

    async def test_a_wrong_token(self, replica: Replica) -> None:
        async with openai.AsyncOpenAI(base_url=f"{replica.url}/v1", api_key="guess", max_retries=0) as stranger:
            with pytest.raises(openai.AuthenticationError):
                await stranger.models.list()

    async def test_sixty_streams_at_once(self, client: openai.AsyncOpenAI) -> None:
        async def one(number: int) -> str:
            stream = await client.chat.completions.create(
                model="echo", messages=user(f"{number:02d}."), max_tokens=9, stream=True
            )
            return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

        answers = await asyncio.gather(*map(one, range(60)))
        assert answers == [f"{number:02d}." * 3 for number in range(60)]


class TestRefusals:
    """Bad input over HTTP; the fields one by one are in test_openai_requests."""

    async def test_the_context_has_its_own_code(self, http: aiohttp.ClientSession, body: Body) -> None:
        async with http.post(CHAT, json=body("x" * 256)) as response:
            error = (await response.json())["error"]
        assert error["code"] == "context_length_exceeded"
        # The words by which LiteLLM falls back to a larger model; LangChain looks for the code in them.
        assert "this model's maximum context length is 256 tokens" in error["message"].lower()
        assert "context_length_exceeded" in error["message"]
        async with http.post(CHAT, json=body("x" * 255)) as response:
            assert (await response.json())["usage"]["total_tokens"] == 256

    async def test_no_json_object(self, http: aiohttp.ClientSession) -> None:
        for data in (b"{", b"[1]", b"", b'"x"', b"\xff"):
            async with http.post(CHAT, data=data) as response:
                assert response.status == 400
                assert "JSON" in (await response.json())["error"]["message"]

    async def test_an_unknown_tier_that_a_client_names_itself(self, http: aiohttp.ClientSession, body: Body) -> None:
        async with http.post(CHAT, json=body("hi"), headers={"x-trimode-tier": "gold"}) as response:
            assert response.status == 400
            assert "['premium', 'standard']" in (await response.json())["error"]["message"]

    async def test_an_unknown_tier_that_a_router_has_stamped_is_served(
        self, http: aiohttp.ClientSession, body: Body
    ) -> None:
        """Routers know of a new tier first; a replica that refused it lost a second's requests."""
        headers = {"x-trimode-tier": "gold", RULES_HEADER: Stamp(7, 0.012).header}
        async with http.post(CHAT, json=body("hi", max_tokens=3), headers=headers) as response:
            assert response.status == 200

    async def test_a_mode_that_is_not_offered_is_a_routers_cue_to_ask_elsewhere(
        self, http: aiohttp.ClientSession, body: Body
    ) -> None:
        asked = body("hi", trimode={"mode": "SelfSpeculation", "blockLength": 64})
        for headers, status in (({}, 400), ({RULES_HEADER: Stamp(0, 0.025).header}, 503)):
            async with http.post(CHAT, json=asked, headers=headers) as response:
                assert (response.status, "Retry-After" in response.headers) == (status, status == 503)
                assert (await response.json())["error"]["code"] == "mode_not_allowed"

    async def test_an_engine_that_is_a_policy_behind_is_no_fault_of_the_request(
        self, replica: Replica, http: aiohttp.ClientSession, body: Body
    ) -> None:
        refused = TokenEvent("x", [], Finish.ERROR, "pinned to S64", code="mode_not_allowed", field="trimode.mode")
        generation = Generation(replica.engine, Submit("x", [5], 4), AnswerText(replica.text.detokenizer(), ()))
        generation._on_event(refused)
        with pytest.raises(ApiError) as caught:
            await generation.whole()
        assert (caught.value.status, caught.value.retry_after_s) == (503, 1)

    async def test_a_schema_that_fails_in_mid_answer_names_its_field(self, replica: Replica) -> None:
        for field in ("response_format", "tools"):
            words = f"{field}: the model's vocabulary cannot spell what the schema asks for"
            asked = Submit("x", [5], 4, grammar=Grammar("{}", field=field))
            generation = Generation(replica.engine, asked, AnswerText(replica.text.detokenizer(), ()))
            generation._on_event(TokenEvent("x", [], Finish.ERROR, words))
            with pytest.raises(ApiError) as caught:
                await generation.whole()
            assert (caught.value.status, caught.value.param, caught.value.message) == (400, field, words)

    async def test_an_image_is_refused_in_a_few_words(self, http: aiohttp.ClientSession, body: Body) -> None:
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 300_000}}
        asked = body("") | {"messages": [{"role": "user", "content": [{"type": "text", "text": "?"}, image]}]}
        async with http.post(CHAT, json=asked) as response:
            assert response.status == 400
            assert len(await response.read()) < 600

    async def test_a_body_nested_too_deeply(self, http: aiohttp.ClientSession) -> None:
        for deep in (b"[" * 2000 + b"]" * 2000, b'{"a":' * 2000 + b"1" + b"}" * 2000):
            for field in (b"messages", b"metadata", b"unknown"):
                asked = b'{"model": "echo", "messages": [], "%b": %b}' % (field, deep)
                async with http.post(CHAT, data=asked) as response:
                    assert response.status == 400
                    assert len(await response.read()) < 600

    async def test_an_unknown_path_and_method(self, http: aiohttp.ClientSession) -> None:
        async with http.get("/v1/nothing") as response:
            assert (response.status, (await response.json())["error"]["code"]) == (404, "http_error")
        async with http.get(CHAT) as response:
            assert response.status == 405

    async def test_several_problems_are_told_together(self, http: aiohttp.ClientSession, body: Body) -> None:
        async with http.post(CHAT, json=body("hi", max_tokens=0, top_p=2, foo=1)) as response:
            message = (await response.json())["error"]["message"]
            assert all(field in message for field in ("max_tokens", "top_p", "foo"))


async def events(response: aiohttp.ClientResponse) -> list[Any]:
    lines = (await response.text()).splitlines()
    return [line.removeprefix("data: ") for line in lines if line]


class TestStreamsByHand:
    async def test_every_event_is_one_line_of_json_and_the_last_is_done(
        self, http: aiohttp.ClientSession, body: Body
    ) -> None:
        headers = {"x-request-id": "r-1"}
        async with http.post(CHAT, json=body("a\nb", stream=True, max_tokens=3), headers=headers) as response:
            assert response.headers["Content-Type"] == "text/event-stream"
            assert response.headers["x-request-id"] == "r-1"
            *chunks, done = await events(response)
        assert done == "[DONE]"
        parsed = [json.loads(chunk) for chunk in chunks]
        assert {chunk["object"] for chunk in parsed} == {"chat.completion.chunk"}
        assert len({chunk["id"] for chunk in parsed}) == 1
        first, *pieces, last = [c["choices"][0]["delta"].get("content") for c in parsed]
        # Tokens that arrive before the handler listens make one piece: on a busy machine the first two did.
        assert (first, "".join(pieces), last) == ("", "a\nb", None)
        assert all(pieces)
        assert parsed[-1]["usage"]["completion_tokens"] == 3
        assert parsed[-1]["trimode"]["cycles"] == {"AR": 3}

    async def test_a_kept_connection_carries_the_next_request(self, http: aiohttp.ClientSession, body: Body) -> None:
        for _ in range(3):
            async with http.post(CHAT, json=body("abc", stream=True, max_tokens=2)) as response:
                assert (await events(response))[-1] == "[DONE]"
        assert len(http.connector._conns) == 1  # type: ignore[union-attr]


class TestLeaving:
    """A client that leaves frees its row within a cycle."""

    @pytest.mark.parametrize("stream", [True, False])
    async def test_the_engine_forgets_the_request(
        self, replica: Replica, http: aiohttp.ClientSession, body: Body, eventually: Eventually, stream: bool
    ) -> None:
        request = asyncio.create_task(http.post(CHAT, json=body("[hang]", stream=stream)))
        await eventually(lambda: replica.engine.in_flight == 1)
        assert replica.load()["in_flight"] == 1
        assert 0 < replica.load()["occupancy"] <= 1
        request.cancel()
        await eventually(lambda: replica.engine.in_flight == 0)
        await eventually(lambda: replica.report().running == 0)
        assert replica.load() == {"in_flight": 0.0, "occupancy": 0.0}

    async def test_in_mid_stream(
        self, start_replica: StartReplica, settings: ReplicaSettings, body: Body, eventually: Eventually
    ) -> None:
        slow = Path(settings.engine.model, "fake.json")
        slow.write_text('{"cycle_ms": 40}')  # noqa: ASYNC240 - nothing else runs yet
        replica = await start_replica(settings)
        async with aiohttp.ClientSession(replica.url, headers=AUTHORIZED) as http:
            response = await http.post(CHAT, json=body("abc", stream=True, max_tokens=250))
            await response.content.readline()
            assert replica.engine.in_flight == 1
            response.close()
            # Ten seconds of text are still to come.
            await eventually(lambda: replica.engine.in_flight == 0, within_s=3)


async def read_on(response: aiohttp.ClientResponse) -> tuple[bytes, bool]:
    """All that comes, and whether the body came to its proper end."""
    received = b""
    try:
        async for piece in response.content.iter_any():
            received += piece
    except aiohttp.ClientPayloadError:
        return received, False
    return received, True


class TestEngineDeath:
    async def test_before_the_first_token_it_is_a_status(
        self, replica: Replica, http: aiohttp.ClientSession, body: Body, eventually: Eventually
    ) -> None:
        request = asyncio.create_task(http.post(CHAT, json=body("[hang]", stream=True)))
        await eventually(lambda: replica.engine.in_flight == 1)
        replica.engine.process.kill()
        response = await request
        assert response.status == 503
        assert response.headers["Retry-After"] == "1"
        assert "signal 9" in (await response.json())["error"]["message"]

    async def test_in_mid_stream_it_is_a_broken_body_and_no_word_to_the_client(
        self, http: aiohttp.ClientSession, body: Body
    ) -> None:
        """The router goes on elsewhere; an error event would already be the end for a client."""
        async with http.post(CHAT, json=body("[crash]xy", stream=True)) as response:
            received, whole = await read_on(response)
        assert not whole
        assert b"error" not in received
        assert b"[DONE]" not in received

    async def test_afterwards_the_replica_is_unready_and_says_so(
        self, replica: Replica, http: aiohttp.ClientSession, body: Body
    ) -> None:
        replica.check()
        async with http.post(CHAT, json=body("[crash]x", max_tokens=9)) as response:
            assert response.status == 503
        with pytest.raises(Exception, match="exit code 7"):
            replica.check()
        assert not replica.report().ready
        async with http.post(CHAT, json=body("x")) as response:
            assert response.status == 503
        async with http.get("/health") as response:
            assert response.status == 503


class TestDrain:
    async def test_running_streams_finish_and_new_requests_are_refused(
        self, replica: Replica, http: aiohttp.ClientSession, body: Body
    ) -> None:
        response = await http.post(CHAT, json=body("abc", stream=True, max_tokens=120))
        await response.content.readline()
        stopping = asyncio.create_task(replica.stop())
        await asyncio.sleep(0)
        async with http.post(CHAT, json=body("abc")) as refused:
            assert refused.status == 503
            assert refused.headers["Retry-After"] == "1"
            assert (await refused.json())["error"]["code"] == "draining"
        received = await events(response)
        assert received[-1] == "[DONE]"
        assert json.loads(received[-2])["usage"]["completion_tokens"] == 120
        await stopping
        assert replica.engine.process.wait(0) == 0

    async def test_a_drain_has_an_end(
        self, start_replica: StartReplica, settings: ReplicaSettings, body: Body, eventually: Eventually
    ) -> None:
        policy = settings.policy.model_copy(update={"drain_timeout_seconds": 0})
        replica = await start_replica(settings.model_copy(update={"policy": policy}))
        async with aiohttp.ClientSession(replica.url, headers=AUTHORIZED) as http:
            request = asyncio.create_task(http.post(CHAT, json=body("[hang]")))
            await eventually(lambda: replica.engine.in_flight == 1)
            await replica.stop()
            response = await request
            assert response.status == 503
            assert "shutting down" in (await response.json())["error"]["message"]
        replica.engine.process.wait(0)


def test_the_shell_carries_neither_torch_nor_ray() -> None:
    """A replica's actor stays small: only the engine's process pays for torch."""
    code = (
        "import sys, trimode_workers.replica.replica\n"
        "print([name for name in ('torch', 'ray', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
