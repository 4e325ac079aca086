"""Prompts and decoding in one forward, in every mode: prompts ride in the causal forward of those who decode."""

from __future__ import annotations

from typing import Any

import pytest

from trimode_api.modes import OperatingPoint
from trimode_workers.engine.messages import Sampling, Submit

LONG = [2 + (3 * i + i // 7) % 9 for i in range(60)]


@pytest.fixture(scope="module", params=["rows", "pages"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Counting:
    """A network that counts its forwards and their tokens."""

    def __init__(self, network: Any) -> None:
        self._network, self.forwards = network, list[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def hidden(self, tokens: Any, *rest: Any) -> Any:
        self.forwards.append(tokens.numel())
        return self._network.hidden(tokens, *rest)


@pytest.mark.parametrize("point", ["AR", "S4", "S16", "S8@0.5", "Q4", "D8@0.5"])
def test_a_prompt_adds_no_forward(point: str, tools: Any, decoder: Any, reference: Any) -> None:
    network, parsed = Counting(decoder.fused()), OperatingPoint.parse(point)
    engine = tools.build_engine(network, points=[point], prefill_budget_tokens=24)
    lossy = not parsed.mode.lossless
    decoding = Submit("decoding", [5], 90, lossy_ok=lossy, ignore_eos=True)
    prompt = Submit("prompt", LONG, 9, lossy_ok=lossy, ignore_eos=True)
    engine.submit(decoding)
    engine.step()
    engine.submit(prompt)
    found: dict[str, list[int]] = {"decoding": [], "prompt": []}
    for left in (59, 35, 11):
        assert engine.stats().queued_prompt_tokens == left
        network.forwards.clear()
        for event in engine.step().events:
            found[event.request_id] += event.tokens
        assert found["decoding"], "who decodes has a token in each cycle"
        piece = min(left, 24)
        seed = 0 if lossy or left > 24 else 1  # a greedy answer begins in the forward in which its prompt ends
        assert len(found["prompt"]) == seed
        *drafts, check = network.forwards
        assert check == parsed.width + piece + seed
        assert all(tokens == parsed.width for tokens in drafts)
        if parsed.threshold is None:
            assert len(drafts) == parsed.forwards_per_cycle - 1
    rest = tools.drain(engine).tokens
    answer = found["prompt"] + rest["prompt"]
    assert answer == (reference.diffusion(prompt, parsed) if lossy else reference.answer(prompt))


@pytest.mark.parametrize("point", ["S8", "Q4"])
def test_a_drawn_answer_does_not_depend_on_whether_its_prompt_rode(point: str, tools: Any, decoder: Any) -> None:
    asked = Submit("a", LONG, 30, Sampling(1.0, 0.9, 3), ignore_eos=True)
    answers = []
    for company in ((), (Submit("b", [5], 60, ignore_eos=True),)):
        engine = tools.build_engine(decoder, points=[point], prefill_budget_tokens=7)
        for other in company:
            engine.submit(other)
            engine.step()
        engine.submit(asked)
        answers.append(tools.drain(engine).tokens["a"])
    assert answers[0] == answers[1]


def test_what_a_prompts_forward_says_is_autoregressions(tools: Any, decoder: Any) -> None:
    """It is told apart from what drafts gained."""
    engine = tools.build_engine(decoder, points=["S8"])
    engine.submit(Submit("b", [5], 60, ignore_eos=True))
    engine.step()
    engine.submit(Submit("a", LONG, 30, ignore_eos=True))
    last = tools.drain(engine).last["a"]
    assert (last.cycles["AR"], last.emitted["AR"], last.emitted["S8"]) == (1, 1, 29)
    assert engine.stats().emitted_total["AR"] == 1
