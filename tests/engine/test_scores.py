"""Log-probabilities are autoregression's own, whatever decodes, whatever else a request wants."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from trimode_workers.engine import law
from trimode_workers.engine.messages import Adjustments, Sampling, Score, Submit
from trimode_workers.engine.scores import scored


@pytest.fixture(scope="module", params=["rows", "pages"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def prompts(seed: int, count: int) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(2, 12) for _ in range(rng.randint(1, 20))] for _ in range(count)]


def answered(tools: Any, decoder: Any, submits: list[Submit], **settings: Any) -> dict[str, list[tuple[int, Score]]]:
    """Each answer's tokens with their scores."""
    engine = tools.build_engine(decoder, **settings)
    for submit in submits:
        engine.submit(submit)
    found: dict[str, list[tuple[int, Score]]] = {s.request_id: [] for s in submits}
    while not engine.idle:
        for event in engine.step().events:
            wanted = next(s for s in submits if s.request_id == event.request_id).logprobs is not None
            assert len(event.scores) == (len(event.tokens) if wanted else 0)
            found[event.request_id] += zip(event.tokens, event.scores, strict=False)
    return found


SUBMITS = [
    Submit(
        str(i),
        prompt,
        20,
        Sampling(0.9, 0.8, i, 5) if i % 3 == 0 else Sampling(),
        adjustments=Adjustments(repetition=1.3, bias={4: 2.0}, min_tokens=4) if i % 2 else None,
        logprobs=[0, 3, None, 50][i % 4],
        ignore_eos=i % 5 == 0,
    )
    for i, prompt in enumerate(prompts(1, 16))
]


@pytest.mark.parametrize("point", ["AR", "S8", "S16@0.4", "Q4"])
def test_they_are_the_models_own(point: str, tools: Any, decoder: Any, reference: Any) -> None:
    found = answered(tools, decoder, SUBMITS, points=[point])
    for submit in SUBMITS:
        if submit.logprobs is None:
            continue
        tokens = list(submit.tokens)
        assert len(found[submit.request_id]) > 0
        for token, score in found[submit.request_id]:
            expected = torch.log_softmax(reference.logits(tokens)[-1], -1)
            assert score.logprob == pytest.approx(float(expected[token]), abs=1e-4)
            best = expected.topk(min(submit.logprobs, 12))
            assert score.logprobs == pytest.approx(best.values.tolist(), abs=1e-4)
            assert len(set(score.ids)) == len(score.ids) == min(submit.logprobs, 12)
            tokens.append(token)


def test_switches_and_preemption_lose_none(tools: Any, decoder: Any) -> None:
    rng = random.Random(3)
    expected = answered(tools, decoder, [s for s in SUBMITS if s.sampling.greedy], points=["AR"])
    found = answered(
        tools,
        decoder,
        [s for s in SUBMITS if s.sampling.greedy],
        points=["AR", "S4", "S8", "Q4"],
        chooser=lambda batch, points: rng.choice(points),
        max_context_tokens=48,
        capacity_tokens=80,
    )
    for name, line in expected.items():
        assert [token for token, _ in found[name]] == [token for token, _ in line]
        for (_, a), (_, b) in zip(found[name], line, strict=True):
            assert a.logprob == pytest.approx(b.logprob, abs=1e-4)


def test_many_places_are_worked_on_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(12, 30, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    at = [(i // 3, i % 3, i) for i in range(12)]
    whole = scored(logits, at, 3, 4)
    monkeypatch.setattr(law, "_FEWEST", 64)
    assert scored(logits, at, 3, 4) == whole
    expected = torch.log_softmax(logits.float(), -1)
    assert [s.logprob for s in whole] == pytest.approx([float(expected[i, i]) for i in range(12)])


def prompt_scores(
    tools: Any, decoder: Any, submits: list[Submit], **settings: Any
) -> tuple[dict[str, list[Score]], Any]:
    """They come once, with the first event."""
    engine = tools.build_engine(decoder, **settings)
    for submit in submits:
        engine.submit(submit)
    found: dict[str, list[Score]] = {}
    while not engine.idle:
        for event in engine.step().events:
            if event.prompt_scores:
                assert event.request_id not in found
                found[event.request_id] = event.prompt_scores
    return found, engine


@pytest.mark.parametrize("budget", [3, 16, 256])
@pytest.mark.parametrize("recorded", [False, True])
def test_a_prompts_are_its_tokens_own(
    budget: int, recorded: bool, layout: str, tools: Any, decoder: Any, reference: Any
) -> None:
    """Also of a prompt that is known already, of one that rides beside answers, and of one that was preempted."""
    rng = random.Random(budget)
    shared = [rng.randrange(2, 12) for _ in range(70)]
    submits = [
        Submit(
            str(i),
            (shared if i % 2 else [])[: 20 * i] + prompt,
            36,
            prompt_logprobs=[2, None, 0][i % 3],
            ignore_eos=True,
        )
        for i, prompt in enumerate(prompts(9, 9))
    ]
    found, engine = prompt_scores(
        tools,
        decoder,
        submits,
        points=["AR", "S4"],
        chooser=lambda batch, points: rng.choice(points),
        prefill_budget_tokens=budget,
        capacity_tokens=150,
        recorder=tools.Rerun() if recorded else None,
    )
    assert engine.stats().preemptions_total > 0 or layout == "pages"  # which hold more of the same capacity
    for submit in submits:
        scores = found.get(submit.request_id, [])
        if submit.prompt_logprobs is None:
            assert scores == []
            continue
        logits = torch.log_softmax(reference.logits(submit.tokens)[:-1], -1)
        assert len(scores) == len(submit.tokens) - 1
        for place, (token, score) in enumerate(zip(submit.tokens[1:], scores, strict=True)):
            assert score.logprob == pytest.approx(float(logits[place, token]), abs=1e-4)
            best = logits[place].topk(submit.prompt_logprobs)
            assert score.logprobs == pytest.approx(best.values.tolist(), abs=1e-4)
            assert score.rank == 1 + int((logits[place] > logits[place, token]).sum())


def test_memory_that_runs_out_loses_none(tools: Any, decoder: Any, reference: Any) -> None:
    network = decoder.fused()
    whole = network.logits

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        if hidden.shape[:-1].numel() > 5:
            raise torch.OutOfMemoryError("CUDA out of memory (not really)")
        return whole(hidden)

    network.logits = logits
    submit = Submit("a", [2 + i % 9 for i in range(60)], 9, prompt_logprobs=1, logprobs=1)
    found, engine = prompt_scores(tools, network, [submit], points=["AR"])
    assert engine.stats().shortages_total > 0
    expected = torch.log_softmax(reference.logits(submit.tokens)[:-1], -1)
    wanted = [float(expected[i, token]) for i, token in enumerate(submit.tokens[1:])]
    assert [s.logprob for s in found["a"]] == pytest.approx(wanted, abs=1e-4)
