"""`structured_outputs` and the names it had before: what the engine is told, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import trimode_workers
from trimode_api.errors import ApiError
from trimode_api.modes import AR, diffusion
from trimode_api.openai import ChatRequest, CompletionRequest
from trimode_workers.engine.messages import Grammar, GrammarForm, Submit
from trimode_workers.openai.defaults import SamplingDefaults
from trimode_workers.openai.parse import parse
from trimode_workers.openai.prepare import Capabilities, Identity, prepare
from trimode_workers.sglang.http import body_of
from trimode_workers.text.tokenizer import TextModel, load_text_model

TEXT: TextModel = load_text_model(Path(trimode_workers.__path__[0], "tiny"))
OFFER = Capabilities("tiny", 512, (AR, diffusion(8, 0.9)), (), SamplingDefaults())
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def ask(chat: bool = True, offer: Capabilities = OFFER, **more: Any) -> Submit:
    body = {"messages": [{"role": "user", "content": "hi"}]} if chat else {"prompt": "hi"}
    kind: Any = ChatRequest if chat else CompletionRequest
    request = parse(kind, json.dumps({"model": "tiny"} | body | more).encode())
    assert request.formed is (request.structured_outputs is not None)
    return prepare(request, TEXT, offer, Identity("id", "", 7))


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize(
    ("wanted", "old", "schema", "form"),
    [
        ({"regex": "[0-9]+"}, {"guided_regex": "[0-9]+"}, "[0-9]+", GrammarForm.REGEX),
        ({"choice": ["a b", "c"]}, {"guided_choice": ["a b", "c"]}, '["a b","c"]', GrammarForm.CHOICE),
        ({"grammar": 'root ::= "x"'}, {"ebnf": 'root ::= "x"'}, 'root ::= "x"', GrammarForm.GRAMMAR),
        ({"json": SCHEMA}, {"guided_json": json.dumps(SCHEMA)}, json.dumps(SCHEMA, separators=(",", ":")),
         GrammarForm.JSON_SCHEMA),
        ({"json_object": True}, None, '{"type":"object"}', GrammarForm.JSON_SCHEMA),
    ],
)  # fmt: skip
def test_forms_reach_the_engine(chat: bool, wanted: Any, old: Any, schema: str, form: GrammarForm) -> None:
    grammar = ask(chat, structured_outputs=wanted).grammar
    assert grammar == Grammar(schema, lenient="json" in wanted, form=form, field="structured_outputs")
    if old is not None:
        assert ask(chat, **old).grammar == grammar


@pytest.mark.parametrize(
    ("more", "param", "words"),
    [
        ({"structured_outputs": {}}, "structured_outputs", "exactly one of"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs", "exactly one of"),
        ({"structured_outputs": {"regex": "(?=a)b"}}, "structured_outputs.regex", "look-around"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex", "unclosed"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "at least 1"),
        ({"structured_outputs": {"choice": [""]}}, "structured_outputs.choice", "not empty"),
        ({"structured_outputs": {"grammar": "start: nothing_there"}}, "structured_outputs.grammar", "nothing_there"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json", "JSON schema"),
        ({"structured_outputs": {"json": {"type": "nothing"}}}, "structured_outputs.json", "Invalid type"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag", "unknown field"),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_regex", "unknown field"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, None, "without a response_format only"),
        ({"guided_regex": "a", "ignore_eos": True}, "ignore_eos", "structured_outputs has an end"),
        ({"guided_regex": "a", "trimode": {"mode": "Diffusion"}}, "trimode.mode", "cannot follow structured_outputs"),
        ({"guided_regex": "a", "bad_words": ["x"]}, "bad_words", "bars tokens itself"),
    ],
)
def test_what_cannot_be_done_is_refused(more: dict[str, Any], param: str | None, words: str) -> None:
    with pytest.raises(ApiError) as caught:
        ask(**more)
    assert caught.value.status == 400
    assert caught.value.param == param
    assert words in caught.value.message
    assert len(caught.value.message) < 500


def test_a_pool_without_grammars_says_so() -> None:
    offer = Capabilities("tiny", 512, (AR,), (), SamplingDefaults(), "it has no end of sequence")
    with pytest.raises(ApiError, match="structured_outputs: is not possible in this pool: it has no end") as caught:
        ask(offer=offer, structured_outputs={"regex": "a"})
    assert caught.value.param == "structured_outputs"


def test_sglangs_names() -> None:
    for wanted, name, value in [
        ({"regex": "[0-9]+"}, "regex", "[0-9]+"),
        ({"choice": ["a.", "b"]}, "regex", r"(a\.|b)"),
        ({"grammar": 'root ::= "x"'}, "ebnf", 'root ::= "x"'),
    ]:
        assert body_of(ask(structured_outputs=wanted))["sampling_params"][name] == value
