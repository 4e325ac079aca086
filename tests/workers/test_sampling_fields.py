"""How tokens are chosen: what OpenAI's, vLLM's and SGLang's fields become, and what is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from trimode_api.errors import ApiError
from trimode_api.modes import AR, Mode, diffusion, speculation
from trimode_api.openai import ChatRequest, CompletionRequest
from trimode_workers.engine.messages import Adjustments, Sampling, Submit
from trimode_workers.openai.defaults import SamplingDefaults
from trimode_workers.openai.parse import parse
from trimode_workers.openai.prepare import Capabilities, Identity, prepare
from trimode_workers.sglang.http import body_of, refused
from trimode_workers.text.tokenizer import TextModel, load_text_model

OFFER = Capabilities("echo", 256, (AR, speculation(8), diffusion(8, 0.9)), (), SamplingDefaults())


@pytest.fixture
def text(fake_model: Any) -> TextModel:
    return load_text_model(fake_model)


def ask(text: TextModel, offer: Capabilities = OFFER, chat: bool = True, **more: Any) -> Submit:
    body = {"messages": [{"role": "user", "content": "hi"}]} if chat else {"prompt": "hi"}
    kind: Any = ChatRequest if chat else CompletionRequest
    request = parse(kind, json.dumps({"model": "echo"} | body | more).encode())
    return prepare(request, text, offer, Identity("id", "", 7))


def refusal(text: TextModel, offer: Capabilities = OFFER, **more: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        ask(text, offer, **more)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize("chat", [True, False])
def test_fields_reach_the_engine(chat: bool, text: TextModel) -> None:
    submit = ask(
        text,
        chat=chat,
        temperature=0.7,
        top_p=0.9,
        top_k=20,
        min_p=0.05,
        presence_penalty=0.5,
        frequency_penalty=-0.25,
        repetition_penalty=1.1,
        logit_bias={"7": -100, "9": 2.5},
        allowed_token_ids=[7, 9, 11],
        min_tokens=3,
        stop_token_ids=[9],
        include_stop_str_in_output=True,
    )
    assert submit.sampling == Sampling(0.7, 0.9, 7, 20, 0.05)
    assert submit.adjustments == Adjustments({7: -100.0, 9: 2.5}, (7, 9, 11), (), 3, 1.1, 0.5, -0.25)
    assert (submit.stop_ids, submit.keep_stop) == ((9,), True)


def test_bad_words_are_barred_with_and_without_a_space_before(text: TextModel) -> None:
    submit = ask(text, bad_words=["cat", " dog"])
    assert submit.adjustments is not None
    assert set(submit.adjustments.banned) == {tuple(text.spell(w)) for w in ("cat", " cat", "dog", " dog")}


@pytest.mark.parametrize(
    "idle",
    [
        {"top_k": -1},
        {"top_k": 0},
        {"min_p": 0},
        {"presence_penalty": 0, "frequency_penalty": 0.0},
        {"repetition_penalty": 1},
        {"logit_bias": {}},
        {"bad_words": []},
        {"min_tokens": 0, "stop_token_ids": [], "include_stop_str_in_output": False},
        {"min_new_tokens": 0, "no_stop_trim": False},
        {"allowed_token_ids": None},
    ],
)
def test_values_that_ask_for_nothing_are_as_if_absent(idle: dict[str, Any], text: TextModel) -> None:
    assert ask(text, **idle) == ask(text)
    pinned = {"trimode": {"mode": "Diffusion"}, "quality": "lossy-ok"}
    assert ask(text, **idle, **pinned) == ask(text, **pinned)


def test_a_models_defaults_hold_until_the_request_says_otherwise(text: TextModel) -> None:
    offer = replace(OFFER, defaults=SamplingDefaults(0.6, 0.95, 20, 0.1, 1.05))
    submit = ask(text, offer)
    assert submit.sampling == Sampling(0.6, 0.95, 7, 20, 0.1)
    assert submit.adjustments == Adjustments(repetition=1.05)
    submit = ask(text, offer, top_k=-1, min_p=0, repetition_penalty=1, top_p=1.0, temperature=1.0)
    assert (submit.sampling, submit.adjustments) == (Sampling(1.0, 1.0, 7), None)
    assert ask(text, offer, quality="lossy-ok").adjustments is None


@pytest.mark.parametrize(
    ("more", "param", "words"),
    [
        ({"top_k": -2}, "top_k", "greater than or equal to -1"),
        ({"top_k": 1.5}, "top_k", "integer"),
        ({"min_p": 1.5}, "min_p", "less than or equal to 1"),
        ({"presence_penalty": 3}, "presence_penalty", "less than or equal to 2"),
        ({"repetition_penalty": 0}, "repetition_penalty", "0.01"),
        ({"logit_bias": {"a": 1}}, "logit_bias", "token ids"),
        ({"logit_bias": {"1": 101}}, "logit_bias", "-100 to 100"),
        ({"logit_bias": [1]}, "logit_bias", "must map"),
        ({"allowed_token_ids": []}, "allowed_token_ids", "at least 1"),
        ({"bad_words": [" "]}, "bad_words", "must be words"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens", "at most max_tokens, which is 8, got 9"),
        ({"min_tokens": 1, "min_new_tokens": 1}, "min_new_tokens", "unknown field"),
        ({"stop_token_ids": [1] * 65}, "stop_token_ids", "at most 64"),
        ({"stop_token_ids": [-1.5]}, "stop_token_ids", "integer"),
    ],
)
def test_what_is_no_such_value_is_refused(more: dict[str, Any], param: str, words: str, text: TextModel) -> None:
    error = refusal(text, **more)
    assert error.param is not None
    assert error.param.startswith(param)
    assert words in error.message


@pytest.mark.parametrize(
    "more",
    [
        {"min_tokens": 2},
        {"presence_penalty": 1},
        {"logit_bias": {"3": 1}},
        {"allowed_token_ids": [3]},
        {"bad_words": ["x"]},
    ],
)
def test_diffusion_refuses_them_by_name(more: dict[str, Any], text: TextModel) -> None:
    error = refusal(text, trimode={"mode": "Diffusion"}, **more)
    assert error.param == next(iter(more))
    assert "Diffusion fills tokens out of order" in error.message


def test_sglangs_names_are_taken(text: TextModel) -> None:
    one = ask(text, min_new_tokens=4, no_stop_trim=True)
    assert one == ask(text, min_tokens=4, include_stop_str_in_output=True) != ask(text)


def test_order_and_salt_reach_the_engine(text: TextModel) -> None:
    submit = ask(text, priority=-3, cache_salt="tenant 7")
    assert (submit.order, submit.salt) == (-3, "tenant 7")
    assert ask(text, priority=0, cache_salt="") == ask(text)
    assert refusal(text, priority=1.5).param == "priority"
    assert refusal(text, replace(OFFER, refused=refused(Mode.AR)), cache_salt="x").param == "cache_salt"


def test_answers_of_all_prompts_are_bounded_together() -> None:
    body = {"model": "m", "prompt": ["a"] * 100, "n": 11}
    with pytest.raises(ApiError, match="at most 1024 answers are allowed, got 100 prompts x n=11"):
        parse(CompletionRequest, json.dumps(body).encode())
    assert parse(CompletionRequest, json.dumps(body | {"n": 10}).encode()).choices == 1000


def test_cuts_are_diffusions_too(text: TextModel) -> None:
    assert ask(text, trimode={"mode": "Diffusion"}, top_k=5, min_p=0.1, temperature=1).sampling.top_k == 5


@pytest.mark.parametrize("name", ["allowed_token_ids", "bad_words"])
def test_two_rules_for_what_may_come_are_one_too_many(name: str, text: TextModel) -> None:
    values: dict[str, Any] = {"allowed_token_ids": [3], "bad_words": ["x"]}
    error = refusal(text, response_format={"type": "json_object"}, **{name: values[name]})
    assert error.param == name


class TestSglang:
    def test_its_names(self, text: TextModel) -> None:
        submit = ask(text, top_k=9, min_p=0.1, presence_penalty=1, repetition_penalty=1.2, logit_bias={"4": 1})
        parameters = body_of(submit)["sampling_params"]
        told = {"top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias"}
        assert {name: parameters[name] for name in told & set(parameters)} == {
            "top_k": 9,
            "min_p": 0.1,
            "presence_penalty": 1.0,
            "repetition_penalty": 1.2,
            "logit_bias": {"4": 1.0},
        }
        assert not told & set(body_of(ask(text))["sampling_params"])

    @pytest.mark.parametrize("mode", list(Mode))
    def test_what_its_servers_cannot_do(self, mode: Mode, text: TextModel) -> None:
        offer = replace(OFFER, refused=refused(mode))
        error = refusal(text, offer, bad_words=["x"])
        assert (error.param, error.code) == ("bad_words", "not_supported")
        if mode is Mode.AR:
            assert ask(text, offer, top_k=3, frequency_penalty=1)
        else:
            assert refusal(text, offer, top_k=3).param == "top_k"
            assert refusal(text, offer, frequency_penalty=1).param == "frequency_penalty"
            assert ask(text, offer, top_k=-1, frequency_penalty=0)
