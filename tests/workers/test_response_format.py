"""`response_format` over HTTP: the openai package against a replica with the real engine and the packaged model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import jsonschema
import openai
import pytest
from pydantic import BaseModel, ConfigDict, Field

import trimode_workers
from trimode_api.errors import ApiError
from trimode_api.modes import AR, diffusion, speculation
from trimode_api.openai import ChatRequest
from trimode_api.openai_parts import SCHEMA_PATH
from trimode_api.wire import PolicyConfig
from trimode_workers.engine.messages import Grammar, Submit
from trimode_workers.openai.continuation import resumed_from
from trimode_workers.openai.defaults import SamplingDefaults
from trimode_workers.openai.parse import parse
from trimode_workers.openai.prepare import Capabilities, Identity, prepare
from trimode_workers.replica.replica import Replica
from trimode_workers.replica.settings import EngineOptions, ReplicaSettings
from trimode_workers.text.tokenizer import load_text_model

TINY = Path(trimode_workers.__path__[0], "tiny")
TOKEN = "fleet-secret"
POINTS = ["AR", "S4", "S8", "S16", "S32", "D32@0.9"]

needs_model = pytest.mark.skipif(not (TINY / "model.safetensors").is_file(), reason=f"NO PACKAGED MODEL in {TINY}")

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 10},
        "age": {"type": "integer", "maximum": 99, "minimum": 0},
    },
    "required": ["city", "age"],
    "additionalProperties": False,
}


class Person(BaseModel):
    model_config = ConfigDict(extra="forbid")

    age: int = Field(ge=0, le=99)
    city: Literal["rome", "paris", "riga"]
    moods: list[Literal["calm", "merry"]] = Field(max_length=2)


def form(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, **more}}


@pytest.fixture
async def tiny(policy: PolicyConfig) -> AsyncIterator[Replica]:
    pools = (policy.pools[0].model_copy(update={"points": tuple(POINTS)}),)
    options = EngineOptions(model=str(TINY), max_context_tokens=512, max_running_requests=8, threads=1)
    settings = ReplicaSettings(
        pool="flex", served_name="tiny", engine=options, policy=policy.model_copy(update={"pools": pools})
    )
    replica = await Replica.start(settings, TOKEN)
    yield replica
    await replica.stop()


@pytest.fixture
async def client(tiny: Replica) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{tiny.url}/v1", api_key=TOKEN, max_retries=0) as client:
        yield client


def ask(words: str = "write as json: city=paris age=4", **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": words}]
    return {"model": "tiny", "messages": messages, "temperature": 0, "max_tokens": 120, **more}


@needs_model
@pytest.mark.slow
async def test_json_by_schema(tiny: Replica, client: openai.AsyncOpenAI) -> None:
    """Every mode and the policy's own choice, whole and streamed, alone and beside free requests."""
    said = set()
    for mode in ({"mode": "AR"}, *({"mode": "SelfSpeculation", "blockLength": n} for n in (4, 8, 16, 32)), None):
        extra = {} if mode is None else {"trimode": mode}
        answer = await client.chat.completions.create(**ask("hello", response_format=form(SCHEMA)), extra_body=extra)
        choice = answer.choices[0]
        assert choice.finish_reason == "stop"
        jsonschema.validate(json.loads(choice.message.content or ""), SCHEMA)
        said.add(choice.message.content)
        stream = await client.chat.completions.create(
            **ask("hello", response_format=form(SCHEMA), stream=True), extra_body=extra
        )
        said.add("".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]))
    assert len(said) == 1, said
    free, bound = await asyncio.gather(
        client.chat.completions.create(**ask("hello")),
        client.chat.completions.create(**ask("hello", response_format=form(SCHEMA))),
    )
    assert bound.choices[0].message.content in said
    assert free.choices[0].message.content not in said
    lossy = await client.chat.completions.create(
        **ask("hello", response_format=form(SCHEMA)), extra_body={"quality": "lossy-ok"}
    )
    assert lossy.choices[0].message.content in said
    assert not any(point.startswith("D") for point in lossy.model_extra["trimode"]["cycles"])  # type: ignore[index]

    parsed = await client.chat.completions.parse(**ask(), response_format=Person)
    assert parsed.choices[0].message.parsed == Person.model_validate_json(parsed.choices[0].message.content or "")

    several = await client.chat.completions.create(
        **ask("hello", n=3, response_format=form(SCHEMA)) | {"temperature": 1.0, "seed": 5}
    )
    for choice in several.choices:
        jsonschema.validate(json.loads(choice.message.content or ""), SCHEMA)

    free_form = await client.chat.completions.create(**ask(response_format={"type": "json_object"}))
    assert json.loads(free_form.choices[0].message.content or "") == {"city": "paris", "age": 4}
    cut = await client.chat.completions.create(**ask(response_format=form(SCHEMA)) | {"max_tokens": 3})
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens if cut.usage else 0) == ("length", 3)

    for schema, words in [
        ({"type": "nothing"}, "Invalid type: nothing"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
    ]:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(**ask(response_format=form(schema)))
        assert refused.value.param == SCHEMA_PATH
        assert refused.value.message.count(words) == 1
    # Only this model's vocabulary shows it, and only on the way.
    with pytest.raises(openai.BadRequestError, match="vocabulary cannot spell"):
        await client.chat.completions.create(**ask(response_format=form({"const": "\u00e9"})))
    assert not tiny.engine.in_flight


def prepared(no_grammar: str = "", **more: Any) -> Submit:
    """What the engine is asked for, by way of bytes."""
    points = (AR, speculation(8), diffusion(32, 0.9))
    offer = Capabilities("tiny", 512, points, (), SamplingDefaults(), no_grammar)
    request = parse(ChatRequest, json.dumps(ask(**more)).encode())
    return prepare(request, load_text_model(TINY), offer, Identity("id", "", 1))


def test_what_the_engine_is_told() -> None:
    assert prepared().grammar is None
    assert prepared(response_format={"type": "text"}).grammar is None
    assert prepared(response_format={"type": "json_object"}).grammar == Grammar('{"type":"object"}')
    for strict in (None, False, True):
        submit = prepared(response_format=form(SCHEMA, strict=strict))
        assert submit.grammar is not None
        assert (json.loads(submit.grammar.schema), submit.grammar.lenient) == (SCHEMA, not strict)
    # The order of properties is the order of the answer's.
    order = '{"type":"object","properties":{"z":{},"a":{}}}'
    assert prepared(response_format=form(json.loads(order))).grammar == Grammar(order, lenient=True)
    assert (resumed_from(submit, [5, 6]).emitted, resumed_from(submit, [5, 6]).tokens) == (2, [*submit.tokens, 5, 6])


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"anyOf": [schema]}
    return schema


UNIQUE = {"type": "array", "uniqueItems": True}
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"response_format": "json"}, "response_format", "object"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "'json_schema'"),
    ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema is required"),
    ({"response_format": {"type": "json_object", "json_schema": {"name": "a", "schema": {}}}},
     "response_format", "is allowed with type 'json_schema' only, got 'json_object'"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
     "response_format.json_schema.schema", "is required"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}},
     "response_format.json_schema.name", "a-z"),
    ({"response_format": form(SCHEMA, grammar="x")}, "response_format.json_schema.grammar", "unknown field"),
    ({"response_format": form([1])}, SCHEMA_PATH, "should be an object"),
    ({"response_format": form({"enum": ["x" * 140_000]})}, SCHEMA_PATH, "at most 131072 bytes"),
    ({"response_format": form(deep(40))}, SCHEMA_PATH, "at most 64 deep, got 81"),
    ({"response_format": form(UNIQUE, strict=True)}, SCHEMA_PATH, 'cannot be enforced: "uniqueItems"'),
    ({"response_format": form({"minLength": 2, "maxLength": 1, "type": "string"})}, SCHEMA_PATH, "greater than"),
    ({"response_format": {"type": "json_object"}, "trimode": {"mode": "Diffusion"}}, "trimode.mode", "out of order"),
    ({"response_format": {"type": "json_object"}, "ignore_eos": True}, "ignore_eos", "has an end"),
    ({"response_format": {"type": "text", "schema": SCHEMA}}, "response_format", "with type 'json_object' only"),
    ({"response_format": {"type": "json_object", "schema": deep(40)}}, "response_format.schema", "at most 64 deep"),
    ({"response_format": {"type": "json_object", "schema": {"type": "string", "minLength": 2, "maxLength": 1}}},
     "response_format.schema", "greater than"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "param", "words"), REFUSED)
def test_a_bad_response_format_names_what_is_wrong(more: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(ApiError) as caught:
        prepared(**more)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert words in caught.value.message


def test_an_object_with_a_schema_is_a_schema_that_is_not_strict() -> None:
    """As llama.cpp and Together write it."""
    asked = {"type": "json_object", "schema": SCHEMA}
    assert prepared(response_format=asked).grammar == prepared(response_format=form(SCHEMA)).grammar


LARGE = {"type": "object", "properties": {"maximum": {"type": "number", "maximum": 1e308, "minimum": -1e30}}}


def test_bounds_beyond_what_can_be_followed_are_left_out_unless_strict() -> None:
    """pydantic writes them for "any number"; a property may be called like a bound, and an example hold one."""
    schema = LARGE | {"default": {"maximum": 1e308}}
    kept = {"type": "object", "properties": {"maximum": {"type": "number"}}, "default": {"maximum": 1e308}}
    asked = prepared(response_format=form(schema)).grammar
    assert asked is not None
    assert json.loads(asked.schema) == kept
    small = {"type": "integer", "minimum": -(10**18), "exclusiveMaximum": 10**18}
    asked = prepared(response_format=form(small)).grammar
    assert asked is not None
    assert json.loads(asked.schema) == small
    with pytest.raises(ApiError, match=r"bounds of numbers beyond 1e\+18 cannot be enforced"):
        prepared(response_format=form(LARGE, strict=True))


def test_what_is_not_enforced_is_accepted_unless_strict() -> None:
    assert prepared(response_format=form(UNIQUE)).grammar == Grammar(json.dumps(UNIQUE, separators=(",", ":")), True)


def test_a_pool_that_cannot_says_so() -> None:
    with pytest.raises(ApiError, match="json_schema is not possible in this pool: no reason") as caught:
        prepared("no reason", response_format=form(SCHEMA))
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "not_supported", "response_format")
    assert prepared("no reason", response_format={"type": "text"}).grammar is None
