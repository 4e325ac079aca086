"""The same promise for requests as clients send them: tools, forms, penalties and biases, in every lossless point."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import trimode_workers
from trimode_api.modes import AR, OperatingPoint
from trimode_api.openai import ChatRequest
from trimode_tools.tasks import held_out_set
from trimode_workers.engine.engine import Engine, EngineSettings
from trimode_workers.engine.messages import Configure, Finish, Submit
from trimode_workers.grammar.compiled import compiled
from trimode_workers.grammar.compiler import Compiler, load_vocabulary
from trimode_workers.model.loading import load_decoder
from trimode_workers.openai.defaults import SamplingDefaults
from trimode_workers.openai.parse import parse
from trimode_workers.openai.prepare import Capabilities, Identity, prepare
from trimode_workers.text.tokenizer import load_text_model

TINY = Path(trimode_workers.__file__).parent / "tiny"
POINTS = ["AR", "S4", "S8", "S16", "S32", "S64", "S16@0.9", "Q8"]
PROMPTS, ANSWER_TOKENS = 200, 32

SUM = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 8}}, "required": ["city"]}
TOOLS = [
    {"type": "function", "function": {"name": "add", "parameters": SUM, "strict": True}},
    {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": CITY}},
]
WANTED: list[dict[str, Any]] = [
    {"tools": TOOLS, "tool_choice": "required"},
    {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "weather"}}},
    {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False, "repetition_penalty": 1.2},
    {"tools": TOOLS[:1], "logit_bias": {"9": -100.0, "77": 2.0}},
    {"structured_outputs": {"regex": r"[0-9]{2,9}(-[a-z]{1,7}){2}"}},
    {"structured_outputs": {"choice": ["calm", "merry", "very calm"]}, "presence_penalty": 0.7},
    {"structured_outputs": {"grammar": 'root ::= d (" + " d){1,9}\nd ::= [0-9]'}, "frequency_penalty": 0.2},
    {"structured_outputs": {"json": SUM}, "logit_bias": {"30": 4.0}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": CITY}}, "logprobs": True},
    {"repetition_penalty": 1.4, "frequency_penalty": 0.4, "min_tokens": 9},
    {"logit_bias": {"50": 3.0, "9": -100.0}, "presence_penalty": -0.5, "stop_token_ids": [9]},
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tiny() -> Any:
    return load_decoder(TINY)[0]


@pytest.fixture(scope="module")
def vocabulary() -> Any:
    text = load_text_model(TINY)
    return load_vocabulary(TINY, text.vocabulary, [2])


@pytest.fixture(scope="module")
def compiler(vocabulary: Any) -> Iterator[Compiler]:
    found = Compiler(vocabulary, 2)
    yield found
    found.close()


def submits(*, plainly: bool = False) -> list[Submit]:
    """What the engine is asked for; `plainly`: the same prompts with nothing else."""
    text = load_text_model(TINY)
    offer = Capabilities("tiny", 512, (AR, *map(OperatingPoint.parse, POINTS[1:])), (), SamplingDefaults())
    samples = held_out_set(24)
    random.Random(1).shuffle(samples)
    found = []
    for index, sample in enumerate(samples[:PROMPTS]):
        body = {"model": "tiny", "messages": [{"role": "user", "content": sample.prompt}], "temperature": 0}
        fields = {} if plainly else WANTED[index % len(WANTED)]
        request = parse(ChatRequest, json.dumps({**body, "max_tokens": ANSWER_TOKENS, **fields}).encode())
        found.append(prepare(request, text, offer, Identity(str(index), "", 1)))
    return found


def answers(decoder: Any, compiler: Compiler, asked: list[Submit], point: str | None, tools: Any) -> Any:
    """`point` None: another one in every cycle."""
    rng = random.Random(7)
    engine = Engine(
        decoder,
        EngineSettings(32, 512, check_invariants=True),
        Configure(points=[point] if point else POINTS, fallback=point or "AR"),
        chooser=None if point else (lambda batch, points: rng.choice(points)),
        grammars=compiler,
    )
    for submit in asked:
        engine.submit(submit)
    return tools.drain(engine)


@pytest.fixture(scope="module")
def asked() -> list[Submit]:
    return submits()


@pytest.fixture(scope="module")
def expected(tiny: Any, compiler: Compiler, asked: list[Submit], tools: Any) -> Any:
    return answers(tiny, compiler, asked, "AR", tools)


def test_plain_decoding_does_what_is_asked(
    tiny: Any, compiler: Compiler, vocabulary: Any, asked: list[Submit], expected: Any, tools: Any
) -> None:
    """Each form is followed token by token, as its grammar's library says, and each field changes answers."""
    bound = [submit for submit in asked if submit.grammar is not None]
    assert len(asked) == PROMPTS
    assert len(bound) > 150
    for submit in bound:
        assert submit.grammar is not None
        matcher = compiled(submit.grammar, vocabulary)
        tokens = expected.tokens[submit.request_id]
        assert all(matcher.consume_token(token) for token in tokens)
        assert matcher.is_accepting() or expected.last[submit.request_id].finish is Finish.LENGTH
    free = answers(tiny, compiler, submits(plainly=True), "AR", tools).tokens
    for kind in range(len(WANTED)):
        same = [free[str(i)] == expected.tokens[str(i)] for i in range(kind, PROMPTS, len(WANTED))]
        assert not all(same), WANTED[kind]


@pytest.mark.parametrize("point", ["S8", "S16", "S32", None])
def test_greedy_answers_equal_plain_decoding(
    point: str | None, tiny: Any, compiler: Compiler, asked: list[Submit], expected: Any, tools: Any
) -> None:
    outcome = answers(tiny, compiler, asked, point, tools)
    assert [i for i in expected.tokens if outcome.tokens[i] != expected.tokens[i]] == []
    if point is None:
        assert {p for e in outcome.last.values() for p in e.cycles} == set(POINTS)
    else:
        # An answer of one token is the forward's in which its prompt ended, which is AR's.
        emitted = sum(e.emitted.get(point, 0) for e in outcome.last.values())
        assert emitted > 1.1 * sum(e.cycles.get(point, 0) for e in outcome.last.values()), "hardly a draft is accepted"
