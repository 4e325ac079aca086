"""Tool calls over HTTP: what the openai package makes of them, whole, streamed, and resumed in mid-call."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import openai
import pytest

import trimode_workers
from trimode_api.wire import CONTINUE_PATH, PolicyConfig
from trimode_workers.replica.replica import Replica
from trimode_workers.replica.settings import EngineOptions, ReplicaSettings

TINY = Path(trimode_workers.__path__[0], "tiny")
TOKEN = "fleet-secret"
CHAT = "/v1/chat/completions"
TOOLS_TEMPLATE = (
    "{# tools, <tool_call> #}{% for m in messages %}{{ m['content'] | replace('[stop]', '<stop>') }}{% endfor %}"
)
"""The fake engine repeats the prompt, and so says what it is told to."""
NUMBER = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
TOOLS: list[Any] = [{"type": "function", "function": {"name": "f", "description": "a sum", "parameters": NUMBER}}]
SAID = (
    'Well: <tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>\n'
    '<tool_call>\n{"name": "f", "arguments": {"a": 23}}\n</tool_call>'
)
CALLS = [("f", '{"a": 1}'), ("f", '{"a": 23}')]


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


@pytest.fixture
def fake_model(fake_model: Path) -> Path:
    (fake_model / "tokenizer_config.json").write_text(json.dumps({"chat_template": TOOLS_TEMPLATE}))
    return fake_model


@pytest.fixture
def settings(settings: ReplicaSettings) -> ReplicaSettings:
    engine = settings.engine.model_copy(update={"max_context_tokens": 2048})
    return settings.model_copy(update={"engine": engine})


@pytest.fixture
async def client(replica: Replica) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{replica.url}/v1", api_key=TOKEN, max_retries=0) as client:
        yield client


def ask(said: str = SAID, **more: Any) -> dict[str, Any]:
    return {"model": "echo", "messages": user(f"[stop]{said}"), "tools": TOOLS, **more}


def calls_of(choice: Any) -> list[tuple[str, str]]:
    return [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or []]


class TestWhole:
    async def test_calls_are_no_text(self, client: openai.AsyncOpenAI) -> None:
        choice = (await client.chat.completions.create(**ask())).choices[0]
        assert (choice.message.content, choice.finish_reason, calls_of(choice)) == ("Well: ", "tool_calls", CALLS)
        ids = [call.id for call in choice.message.tool_calls or []]
        assert len(set(ids)) == 2
        assert all(len(id) == 9 and id.isalnum() for id in ids)

    async def test_an_answer_of_calls_alone_has_no_content(self, client: openai.AsyncOpenAI) -> None:
        choice = (await client.chat.completions.create(**ask(SAID.removeprefix("Well: ")))).choices[0]
        assert choice.message.content is None
        assert calls_of(choice) == CALLS

    async def test_one_call_at_a_time(self, client: openai.AsyncOpenAI) -> None:
        """However many tokens a cycle brings, it ends with the token that ends the call."""
        counted = set()
        for pin in ({"mode": "AR"}, {"mode": "SelfSpeculation", "blockLength": 8}):
            more: Any = {"parallel_tool_calls": False, "extra_body": {"trimode": pin}}
            answer = await client.chat.completions.create(**ask(**more))
            assert answer.usage is not None
            counted.add(answer.usage.completion_tokens)
            assert (calls_of(answer.choices[0]), answer.choices[0].finish_reason) == (CALLS[:1], "tool_calls")
        assert counted == {len('!Well: <tool_call>{"name": "f", "arguments": {"a": 1}}')}

    async def test_what_is_cut_off_is_not_called_whole(self, client: openai.AsyncOpenAI) -> None:
        answer = await client.chat.completions.create(**ask(max_tokens=50))
        assert answer.choices[0].finish_reason == "length"
        assert calls_of(answer.choices[0]) == [("f", '{"a":')]

    async def test_without_tools_it_is_text(self, client: openai.AsyncOpenAI) -> None:
        for more in ({"tool_choice": "none"}, {"tools": []}):
            choice = (await client.chat.completions.create(**ask() | more)).choices[0]
            assert (choice.message.content, choice.finish_reason) == (SAID, "stop")

    async def test_a_stop_string_within_a_call(self, client: openai.AsyncOpenAI) -> None:
        choice = (await client.chat.completions.create(**ask(stop=["arguments"]))).choices[0]
        assert (choice.message.content, choice.finish_reason) == ('Well: <tool_call>{"name": "f", "', "stop")

    async def test_calls_and_results_go_into_the_next_request(self, client: openai.AsyncOpenAI) -> None:
        """The client's own object, as agents append it; a result without a matching call harms nothing."""
        asked = ask()
        message: Any = (await client.chat.completions.create(**asked)).choices[0].message
        for again in (message, message.model_dump(), message.to_dict()):
            result = {"role": "tool", "tool_call_id": "nobody", "content": "42"}
            messages = [*asked["messages"], again, result, *user(" end[stop]")]
            answer = await client.chat.completions.create(**asked | {"messages": messages, "max_tokens": 400})
            assert "42 end" in (answer.choices[0].message.content or "")

    async def test_a_pool_without_grammars_refuses_what_needs_one(self, client: openai.AsyncOpenAI) -> None:
        for choice in ("required", {"type": "function", "function": {"name": "f"}}):
            with pytest.raises(openai.BadRequestError, match="tool_choice: is not possible in this pool") as refused:
                await client.chat.completions.create(**ask(tool_choice=choice))
            assert (refused.value.param, refused.value.code) == ("tool_choice", "not_supported")


async def chunks_of(response: aiohttp.ClientResponse) -> list[dict[str, Any]]:
    assert response.status == 200, await response.text()
    lines = (await response.text()).split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


class Told:
    """What a client makes of a stream's chunks, by choice."""

    def __init__(self, chunks: list[dict[str, Any]], choice: int = 0) -> None:
        self.text, self.finish = "", None
        self.calls: list[dict[str, Any]] = []
        for chunk in chunks:
            for part in [part for part in chunk["choices"] if part["index"] == choice]:
                self.text += part.get("delta", {}).get("content") or ""
                self.finish = part["finish_reason"] or self.finish
                for call in part.get("delta", {}).get("tool_calls", ()):
                    if call["index"] == len(self.calls):
                        assert set(call) == {"index", "id", "type", "function"}
                        self.calls.append({**call, "function": dict(call["function"])})
                    else:
                        assert set(call) == {"index", "function"}
                        self.calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        return [(call["function"]["name"], call["function"]["arguments"]) for call in self.calls]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Told) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


class TestStreams:
    async def test_arguments_come_piece_by_piece(self, client: openai.AsyncOpenAI) -> None:
        for pin in ({"mode": "AR"}, {"mode": "SelfSpeculation", "blockLength": 8}):
            stream = await client.chat.completions.create(**ask(stream=True), extra_body={"trimode": pin})
            told = Told([chunk.to_dict() async for chunk in stream])
            assert (told.text, told.pairs, told.finish) == ("Well: ", CALLS, "tool_calls")

    async def test_of_several_choices(self, http: aiohttp.ClientSession) -> None:
        async with http.post(CHAT, json=ask(stream=True, n=2)) as response:
            chunks = await chunks_of(response)
        for index in range(2):
            told = Told(chunks, index)
            assert (told.text, told.pairs, told.finish) == ("Well: ", CALLS, "tool_calls")
        assert len({call["id"] for index in range(2) for call in Told(chunks, index).calls}) == 4

    @pytest.mark.parametrize("pin", [{"mode": "AR"}, {"mode": "SelfSpeculation", "blockLength": 8}])
    async def test_goes_on_elsewhere_wherever_it_breaks_off(
        self, http: aiohttp.ClientSession, pin: dict[str, Any]
    ) -> None:
        """After each chunk, also in the middle of arguments: the seam cannot be seen, ids of calls included."""
        body = ask(stream=True, trimode=pin)
        async with http.post(CHAT, json=body) as response:
            chunks = await chunks_of(response)
        whole, head = Told(chunks), chunks[0]
        assert whole.pairs == CALLS
        for cut in range(1, len(chunks) - 1):
            emitted = [id for chunk in chunks[:cut] for id in chunk.get("trimode", {}).get("ids", ())]
            again = {"path": CHAT, "id": head["id"], "created": head["created"], "request": body, "emitted": emitted}
            if not emitted:
                continue
            async with http.post(CONTINUE_PATH, json=again) as response:
                rest = await chunks_of(response)
            assert Told(chunks[:cut] + rest) == whole, cut


needs_model = pytest.mark.skipif(not (TINY / "model.safetensors").is_file(), reason=f"NO PACKAGED MODEL in {TINY}")
CITY = {"type": "object", "properties": {"city": {"enum": ["rome", "paris"]}}, "required": ["city"],
        "additionalProperties": False}  # fmt: skip
REAL: list[Any] = [
    {"type": "function", "function": {"name": "weather", "description": "the weather in a city", "parameters": CITY}},
    {"type": "function", "function": {"name": "add", "parameters": NUMBER, "strict": True}},
]


@needs_model
@pytest.mark.slow
async def test_calls_are_held_by_the_grammar_in_every_lossless_mode(policy: PolicyConfig) -> None:
    """With the real engine and the packaged model; greedy answers are the same in all of them."""
    points = ("AR", "S8", "S16", "S32", "D32@0.9")
    pools = (policy.pools[0].model_copy(update={"points": points}),)
    options = EngineOptions(model=str(TINY), max_context_tokens=512, max_running_requests=8, threads=1)
    replica = await Replica.start(
        ReplicaSettings(
            pool="flex", served_name="tiny", engine=options, policy=policy.model_copy(update={"pools": pools})
        ),
        TOKEN,
    )
    named: Any = {"type": "function", "function": {"name": "add"}}
    try:
        async with openai.AsyncOpenAI(base_url=f"{replica.url}/v1", api_key=TOKEN, max_retries=0) as client:
            for choice in ("required", named):
                said = set()
                modes: list[Any] = [{"mode": "AR"}]
                modes += [{"mode": "SelfSpeculation", "blockLength": n} for n in (8, 16, 32)]
                for extra in (*({"trimode": mode} for mode in modes), {}, {"quality": "lossy-ok"}):
                    answer = await client.chat.completions.create(
                        model="tiny", messages=user("what is the weather in rome?"), tools=REAL, tool_choice=choice,
                        parallel_tool_calls=False, temperature=0, max_tokens=120, extra_body=extra,
                    )  # fmt: skip
                    (call,) = calls_of(answer.choices[0])
                    jsonschema.validate(json.loads(call[1]), CITY if call[0] == "weather" else NUMBER)
                    assert answer.choices[0].finish_reason == "tool_calls"
                    assert not any(p.startswith("D") for p in answer.model_extra["trimode"]["cycles"])  # type: ignore[index]
                    said.add(call)
                assert len(said) == 1, said
                assert choice == "required" or said.pop()[0] == "add"
            # Strict, and free to answer in words: whatever it does, arguments of a call are right.
            for seed in range(4):
                free = await client.chat.completions.create(
                    model="tiny",
                    messages=user("add 3 and 4"),
                    tools=REAL[1:],
                    temperature=1.0,
                    seed=seed,
                    max_tokens=60,
                )
                for _, arguments in calls_of(free.choices[0]) if free.choices[0].finish_reason == "tool_calls" else ():
                    jsonschema.validate(json.loads(arguments), NUMBER)
    finally:
        await replica.stop()
