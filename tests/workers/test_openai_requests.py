"""Requests: what is accepted, what the engine is then asked for, and how the rest is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trimode_api.errors import ApiError
from trimode_api.modes import AR, diffusion, speculation
from trimode_api.openai import ChatRequest, CompletionRequest, GenerationRequest
from trimode_api.stamp import Stamp
from trimode_api.wire import PolicyConfig
from trimode_workers.engine.messages import Sampling, Submit
from trimode_workers.errors import TokenizerError
from trimode_workers.openai.defaults import SamplingDefaults, load_defaults
from trimode_workers.openai.parse import parse
from trimode_workers.openai.prepare import Capabilities, Identity, prepare, prepare_choices
from trimode_workers.text.tokenizer import TextModel, load_text_model

POINTS = (AR, speculation(8), speculation(16), diffusion(32, 0.9))


@pytest.fixture
def text(fake_model: Any) -> TextModel:
    return load_text_model(fake_model)


@pytest.fixture
def offer(policy: PolicyConfig) -> Capabilities:
    return Capabilities("echo", 256, POINTS, policy.tiers, SamplingDefaults(temperature=0.0))


def ask(more: dict[str, Any], text: TextModel, offer: Capabilities, tier: str = "") -> Submit:
    """The engine's request for one user message, by way of bytes."""
    body = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]} | more
    return prepare(parse(ChatRequest, json.dumps(body).encode()), text, offer, Identity("id", tier, 77))


def complete(prompt: Any, text: TextModel, offer: Capabilities, **more: Any) -> list[Submit]:
    body = json.dumps({"model": "echo", "prompt": prompt, **more}).encode()
    return prepare_choices(parse(CompletionRequest, body), text, offer, Identity("id", "", 7))


REFUSED: list[tuple[dict[str, Any], int, str, str]] = [
    ({"max_tokens": -1}, 400, "max_tokens", "got -1"),
    ({"max_tokens": "5"}, 400, "max_tokens", "integer"),
    ({"temperature": 3}, 400, "temperature", "less than or equal to 2"),
    ({"top_p": 0}, 400, "top_p", "greater than 0"),
    ({"messages": []}, 400, "messages", "at least 1"),
    ({"messages": "hi"}, 400, "messages", "array"),
    ({"messages": [{"role": "narrator", "content": "x"}]}, 400, "messages[0].role", "'user'"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages[0].content", "text"),
    ({"model": "gpt"}, 404, "model", "'echo'"),
    ({"stop": ["a"] * 65}, 400, "stop", "at most 64"),
    ({"stop": [""]}, 400, "stop", "non-empty"),
    ({"n": 129}, 400, "n", "less than or equal to 128"),
    ({"tools": [{"type": "function"}]}, 400, "tools[0].function", "required"),
    ({"logprobs": 5}, 400, "logprobs", "boolean"),
    ({"presence_penalty": 2.5}, 400, "presence_penalty", "less than or equal to 2"),
    ({"stream_options": {"include_usage": True}}, 400, "stream_options", "stream"),
    ({"temprature": 1}, 400, "temprature", "unknown field"),
    ({"trimode": {"workload": "Source Code"}}, 400, "trimode.workload", "match"),
    ({"trimode": {"mode": "Turbo"}}, 400, "trimode.mode", "'SelfSpeculation'"),
    ({"trimode": {"blockLength": 8}}, 400, "trimode.blockLength", "needs mode"),
    ({"trimode": {"mode": "SelfSpeculation", "blockLength": 7}}, 400, "trimode.blockLength", "[4, 8, 16"),
    ({"trimode": {"mode": "SelfSpeculation", "blockLength": 32}}, 400, "trimode", "AR, S8, S16"),
    ({"trimode": {"mode": "Diffusion"}, "quality": "lossless"}, 400, "trimode.mode", "lossy"),
    ({"quality": "lossy-ok", "trimode": {"quality": "lossless"}}, 400, "quality", "contradicts"),
    ({"messages": [{"role": "user", "content": "x" * 256}]}, 400, "messages", "at most 255"),
]


class TestRefusals:
    """One OpenAI-shaped error that names field, value and what is allowed."""

    @pytest.mark.parametrize(("more", "status", "param", "words"), REFUSED)
    def test_a_bad_field(
        self, text: TextModel, offer: Capabilities, more: dict[str, Any], status: int, param: str, words: str
    ) -> None:
        with pytest.raises(ApiError) as caught:
            ask(more, text, offer)
        error = caught.value.body()["error"]
        assert (caught.value.status, error["param"]) == (status, param)
        assert words in error["message"]
        assert error["type"] in {"invalid_request_error", "not_found_error"}

    def test_an_empty_plain_prompt(self, text: TextModel, offer: Capabilities) -> None:
        for prompt in ("", [], ["a", ""], [-1], [True], [9999], 5, ["a", 5], [[]], [["a"]], ["a"] * 129):
            with pytest.raises(ApiError) as caught:
                complete(prompt, text, offer)
            assert caught.value.param == "prompt"


class TestAccepted:
    """What the engine is asked for."""

    def test_a_bare_request_takes_the_models_defaults(self, text: TextModel, offer: Capabilities) -> None:
        submit = ask({}, text, offer)
        assert submit == Submit("id", text.encode("hi"), 254, Sampling(0.0, 1.0, 77))

    def test_null_is_as_good_as_absent(self, text: TextModel, offer: Capabilities) -> None:
        nothing = dict.fromkeys(["temperature", "stop", "stream", "n", "tools", "trimode", "user", "max_tokens"])
        assert ask(nothing, text, offer) == ask({}, text, offer)

    def test_sampling_and_limits(self, text: TextModel, offer: Capabilities) -> None:
        submit = ask({"temperature": 0.5, "top_p": 0.9, "seed": -1, "max_completion_tokens": 7}, text, offer)
        assert submit.sampling == Sampling(0.5, 0.9, 2**63 - 1)
        assert submit.max_new_tokens == 7
        assert ask({"max_tokens": 9999}, text, offer).max_new_tokens == 254

    @pytest.mark.parametrize(
        ("more", "pin", "lossy"),
        [
            ({"trimode": {"mode": "AR"}}, "AR", False),
            ({"trimode": {"mode": "SelfSpeculation", "blockLength": 8}}, "S8", False),
            ({"trimode": {"mode": "SelfSpeculation"}}, "S16", False),
            ({"trimode": {"mode": "Diffusion"}}, "D32@0.9", True),
            ({"trimode": {"mode": "Diffusion", "blockLength": 32, "threshold": 0.9}}, "D32@0.9", True),
            ({"quality": "lossy-ok"}, None, True),
            ({"trimode": {"quality": "lossy-ok"}}, None, True),
            ({"trimode": {}}, None, False),
        ],
    )
    def test_pins_and_quality(
        self, text: TextModel, offer: Capabilities, more: dict[str, Any], pin: str | None, lossy: bool
    ) -> None:
        submit = ask(more, text, offer)
        assert (submit.pin, submit.lossy_ok) == (pin, lossy)

    def test_a_routers_word_on_a_tier_goes_before_what_the_replica_knows(
        self, text: TextModel, offer: Capabilities
    ) -> None:
        """Routers have the authority: a tier may be new, or have changed, and the replica hear of it a second later."""
        request = parse(
            ChatRequest, json.dumps({"model": "echo", "messages": [{"role": "user", "content": "a"}]}).encode()
        )
        for tier in ("premium", "gold"):
            submit = prepare(request, text, offer, Identity("id", tier, 0, Stamp(3, 0.05)))
            assert (submit.tier, submit.tier_tpot_s, submit.priority) == (tier, 0.05, 3)
        with pytest.raises(ApiError, match="no tier 'gold'"):
            prepare(request, text, offer, Identity("id", "gold", 0))

    def test_a_tier_brings_its_objective_and_priority(self, text: TextModel, offer: Capabilities) -> None:
        submit = ask({}, text, offer, tier="premium")
        assert (submit.tier, submit.tier_tpot_s, submit.priority) == ("premium", 0.008, 10)

    def test_harmless_fields_are_harmless(self, text: TextModel, offer: Capabilities) -> None:
        harmless = {
            "n": 1, "presence_penalty": 0.0, "frequency_penalty": 0, "logit_bias": {}, "logprobs": False, "tools": [],
            "tool_choice": "auto", "response_format": {"type": "text"}, "user": "u", "metadata": {"a": "b"},
            "store": False, "parallel_tool_calls": True, "service_tier": "auto",
        }  # fmt: skip
        assert ask(harmless, text, offer) == ask({}, text, offer)

    def test_content_in_parts_is_joined(self, text: TextModel, offer: Capabilities) -> None:
        parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
        assert ask({"messages": [{"role": "user", "content": parts}]}, text, offer) == ask({}, text, offer)

    def test_stop_is_one_string_or_several(self) -> None:
        for stop, expected in (("a", ("a",)), (["a", "b"], ("a", "b")), (None, ())):
            body = json.dumps({"model": "m", "prompt": "p", "stop": stop}).encode()
            assert parse(CompletionRequest, body).stop == expected


class TestSeveralPrompts:
    """Of one request; each is answered as if it had come alone."""

    def test_choices_go_prompt_by_prompt(self, text: TextModel, offer: Capabilities) -> None:
        submits = complete(["ab", "c"], text, offer, n=2)
        assert [submit.tokens for submit in submits] == [text.encode(t) for t in ("ab", "ab", "c", "c")]
        assert [submit.sampling.seed for submit in submits] == [7, 8, 7, 8]
        assert len({submit.request_id for submit in submits}) == 4
        alone = complete("c", text, offer, n=2)
        assert [(s.tokens, s.sampling) for s in submits[2:]] == [(s.tokens, s.sampling) for s in alone]

    def test_texts_and_token_ids(self, text: TextModel, offer: Capabilities) -> None:
        assert [submit.tokens for submit in complete([[5, 6], "a", [7]], text, offer)] == [
            [5, 6],
            text.encode("a"),
            [7],
        ]
        assert [submit.tokens for submit in complete([5, 6], text, offer)] == [[5, 6]]


def test_the_defaults_of_requests_are_these() -> None:
    fields = {name: field.default for name, field in GenerationRequest.model_fields.items() if name != "model"}
    changing = {name: value for name, value in fields.items() if value is not None}
    assert changing == {"stop": (), "stream": False, "ignore_eos": False}


class TestModelDefaults:
    """generation_config.json decides where the request is silent."""

    @pytest.mark.parametrize(
        ("config", "expected"),
        [
            (None, SamplingDefaults(1.0, 1.0)),
            ({}, SamplingDefaults(1.0, 1.0)),
            ({"do_sample": False, "temperature": 0.7}, SamplingDefaults(0.0, 1.0)),
            ({"do_sample": True, "temperature": 0.7, "top_p": 0.9}, SamplingDefaults(0.7, 0.9)),
            ({"top_k": 20, "min_p": 0.1, "repetition_penalty": 1.05}, SamplingDefaults(1.0, 1.0, 20, 0.1, 1.05)),
        ],
    )
    def test_read(self, tmp_path: Any, config: dict[str, Any] | None, expected: SamplingDefaults) -> None:
        if config is not None:
            (tmp_path / "generation_config.json").write_text(json.dumps(config))
        assert load_defaults(tmp_path) == expected

    @pytest.mark.parametrize("content", ['{"temperature": "hot"}', "{", "[]"])
    def test_refused(self, tmp_path: Any, content: str) -> None:
        (tmp_path / "generation_config.json").write_text(content)
        with pytest.raises(TokenizerError, match=r"generation_config\.json"):
            load_defaults(tmp_path)


def test_a_workload_reaches_the_engine(text: TextModel, offer: Capabilities) -> None:
    assert ask({"trimode": {"workload": "coding"}}, text, offer).workload == "coding"
    assert ask({"trimode": {"mode": "AR"}}, text, offer).workload == ask({}, text, offer).workload == ""
