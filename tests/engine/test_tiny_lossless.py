"""The promise on the model that ships: 200 prompts, every block length, switches between any two cycles."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

import trimode_workers
from trimode_tools.tasks import held_out_set
from trimode_workers.engine.engine import Engine, EngineSettings
from trimode_workers.engine.messages import Configure, Submit
from trimode_workers.model.loading import load_decoder

TINY = Path(trimode_workers.__file__).parent / "tiny"
POINTS = ["AR", "S4", "S8", "S16", "S32", "S64", "S16@0.9", "S32@0.7", "Q4", "Q8", "Q16"]
PROMPTS, ANSWER_TOKENS = 200, 64

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tiny() -> Any:
    return load_decoder(TINY)[0]


@pytest.fixture(scope="module")
def requests() -> list[Submit]:
    tokenizer = Tokenizer.from_file(str(TINY / "tokenizer.json"))
    samples = held_out_set(24)
    random.Random(0).shuffle(samples)
    prompts = [tokenizer.encode(f"<bos><user>{s.prompt}<asst>", add_special_tokens=False).ids for s in samples]
    assert len(prompts) >= PROMPTS
    return [Submit(str(i), prompt, ANSWER_TOKENS) for i, prompt in enumerate(prompts[:PROMPTS])]


def answers(decoder: Any, requests: list[Submit], point: str | None, tools: Any, rows: int = 32) -> Any:
    """`point` None: another one in every cycle, in a cache that holds half of what would run."""
    rng = random.Random(7)
    settings = EngineSettings(rows, 256, 256 * rows // 4 if point is None else None, check_invariants=True)
    engine = Engine(
        decoder,
        settings,
        Configure(points=[point] if point else POINTS, fallback=point or "AR"),
        chooser=None if point else (lambda batch, points: rng.choice(points)),
    )
    for request in requests:
        engine.submit(request)
    return tools.drain(engine)


@pytest.fixture(scope="module")
def plain(tiny: Any, requests: list[Submit], tools: Any) -> Any:
    return answers(tiny, requests, "AR", tools).tokens


@pytest.mark.parametrize("point", ["S4", "S8", "S16", "S32", "S64", "S16@0.9", "S32@0.7", "Q4", "Q8", "Q16", None])
def test_greedy_answers_equal_plain_decoding(
    point: str | None, tiny: Any, requests: list[Submit], plain: Any, tools: Any
) -> None:
    outcome = answers(tiny, requests, point, tools)
    assert len(outcome.tokens) == PROMPTS
    different = [i for i in plain if outcome.tokens[i] != plain[i]]
    assert different == []
    if point is None:
        assert {p for e in outcome.last.values() for p in e.cycles} == set(POINTS)
    else:
        emitted = sum(e.emitted.get(point, 0) for e in outcome.last.values())
        assert emitted > 2.5 * sum(e.cycles.get(point, 0) for e in outcome.last.values()), "hardly a draft is accepted"


def _any_of(rng: random.Random, batch: Any, points: Any) -> Any:
    return rng.choice(points)


def test_shared_beginnings_change_no_answer(tiny: Any, requests: list[Submit], tools: Any) -> None:
    """All behind one of two long beginnings, in every point by turns, in a cache too small for all: tokens are those
    of an engine that shares nothing. (Logits differ by rounding, as prompts are computed in other pieces.)"""
    beginnings = [[token for r in requests[at : at + 6] for token in r.tokens] for at in (0, 100)]
    asked = [Submit(r.request_id, beginnings[i % 2] + r.tokens, 24) for i, r in enumerate(requests[:60])]
    found = {}
    for shared in (None, 0):
        settings = EngineSettings(16, 512, 2048, shared_tokens=shared, check_invariants=True)
        choose = partial(_any_of, random.Random(5))
        engine = Engine(tiny, settings, Configure(points=POINTS, fallback="AR"), chooser=choose)
        for request in asked:
            engine.submit(request)
        found[shared] = tools.drain(engine).tokens
        assert (engine.stats().prompt_total["shared"] > 5000) is (shared is None)
    assert found[None] == found[0]


def test_plain_decoding_equals_the_reference(tiny: Any, requests: list[Submit], plain: Any, tools: Any) -> None:
    reference = tools.Reference(tiny)
    for request in requests[:20]:
        assert plain[request.request_id] == reference.answer(request)
