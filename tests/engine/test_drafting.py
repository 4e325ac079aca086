"""How self-speculation drafts: in steps, and in passing (quadratic). Answers are proven elsewhere to stay the same;
here drafts, cycles and forwards are those of the straightforward reference."""

from __future__ import annotations

import random
from itertools import count
from typing import Any

import pytest
import torch

from trimode_api.modes import OperatingPoint
from trimode_workers.engine.cache import KVCache
from trimode_workers.engine.messages import Sampling, Submit
from trimode_workers.engine.modes.speculation import _sure
from trimode_workers.engine.primitive import Primitive
from trimode_workers.engine.sampling import Sampled, leading
from trimode_workers.engine.sequence import Sequence


@pytest.fixture(scope="module", params=["rows", "pages"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def prompts(seed: int, count: int, longest: int = 30) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(2, 12) for _ in range(rng.randint(2, longest))] for _ in range(count)]


def run(tools: Any, decoder: Any, point: str, requests: list[Submit]) -> tuple[Any, Any]:
    """Prompts run before anyone decodes: one that rides along ends with a token that no draft had a part in."""
    engine = tools.build_engine(decoder, points=[point], max_running_requests=len(requests))
    for request in requests:
        engine.submit(request)
    return tools.drain(engine), engine.stats()


@pytest.mark.parametrize("rows", [1, 30])
@torch.inference_mode()
def test_heads_and_masks_see_what_they_should(rows: int, tools: Any, decoder: Any, reference: Any) -> None:
    """Against whole sequences without a cache; thirty rows of different lengths attend in spans."""
    drafts, masks = [5, 7, 2], 4
    tokens = prompts(1, rows, longest=90)
    cache = KVCache(decoder.config, rows, 128, torch.float32, torch.device("cpu"))
    primitive = Primitive(decoder.fused(), cache)
    order, lengths = list(range(rows)), [len(t) - 1 for t in tokens]
    primitive.advance([t[:-1] for t in tokens], order, [0] * rows)
    window = primitive.window(order, lengths, 1 + len(drafts))
    assert (window.order is None) == (rows == 1)
    blank = [decoder.config.mask_token_id] * (masks * (1 + len(drafts)))
    hidden = primitive.forward_groups(primitive.tensor([[t[-1], *drafts, *blank] for t in tokens]), window, masks)
    logits = primitive.network.logits(hidden)
    for row, known in zip(logits, tokens, strict=True):
        expected = reference.grouped(known, drafts, masks)
        torch.testing.assert_close(row[:4], expected[:, 0], atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(row[4:].view(4, masks, -1), expected[:, 1:], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [4, 8, 16])
def test_quadratic_cycles_are_those_of_the_reference(size: int, tools: Any, decoder: Any, reference: Any) -> None:
    requests = [Submit(str(i), prompt, 24, ignore_eos=True) for i, prompt in enumerate(prompts(2, 6))]
    outcome, stats = run(tools, decoder, f"Q{size}", requests)
    for request in requests:
        answer, cycles = reference.quadratic(request, size)
        assert outcome.tokens[request.request_id] == answer == reference.answer(request)
        assert outcome.last[request.request_id].cycles == {f"Q{size}": cycles}
    cycles_in_all = sum(sum(event.cycles.values()) for event in outcome.last.values())
    assert stats.forwards_total == {f"Q{size}": cycles_in_all}, "a cycle is one forward"


@pytest.mark.parametrize("point", ["S8@0.3", "S16@0.6", "S8@1"])
def test_stepped_drafts_are_those_of_the_reference(point: str, tools: Any, decoder: Any, reference: Any) -> None:
    for i, prompt in enumerate(prompts(3, 6)):
        request = Submit(str(i), prompt, 24, ignore_eos=True)
        outcome, stats = run(tools, decoder, point, [request])
        answer, cycles, forwards = reference.stepped(request, OperatingPoint.parse(point))
        assert outcome.tokens[request.request_id] == answer == reference.answer(request)
        assert outcome.last[request.request_id].cycles == {point: cycles}
        assert stats.forwards_total == {point: forwards}


def test_steps_help_or_the_threshold_shows_nothing(tools: Any, decoder: Any) -> None:
    requests = [Submit(str(i), prompt, 40, ignore_eos=True) for i, prompt in enumerate(prompts(4, 12))]
    plain, _ = run(tools, decoder, "S8", requests)
    stepped, stats = run(tools, decoder, "S8@0.9", requests)
    assert stepped.tokens == plain.tokens
    cycles = [sum(sum(e.cycles.values()) for e in outcome.last.values()) for outcome in (plain, stepped)]
    assert cycles[0] != cycles[1]
    assert 2 * cycles[1] < stats.forwards_total["S8@0.9"] <= 4 * cycles[1]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_lost_draft_costs_a_cycle_at_most(temperature: float, tools: Any, decoder: Any, reference: Any) -> None:
    sampling = Sampling(temperature, 1.0, 3)
    request = Submit("r", prompts(5, 1)[0], 60, sampling, ignore_eos=True)
    outcome, _ = run(tools, decoder, "Q8", [request])
    kept = sum(outcome.last["r"].cycles.values())
    engine = tools.build_engine(decoder, points=["Q8"])
    engine.submit(request)

    def forget(cycle: int) -> None:
        for sequence in engine._requests.running:
            assert sequence.draft is None or sequence.draft.at == len(sequence.tokens)
            sequence.draft = None

    lost = tools.drain(engine, forget)
    assert sum(lost.last["r"].cycles.values()) == 60 > kept
    if not temperature:
        assert lost.tokens["r"] == outcome.tokens["r"] == reference.answer(request)


def test_a_draft_for_other_tokens_is_not_used(tools: Any, decoder: Any, reference: Any) -> None:
    """Between two quadratic cycles another mode ran: the draft then is for a place that is past."""
    points, turns = ["Q8", "AR", "Q16", "S8", "Q4"], count()
    engine = tools.build_engine(
        decoder, points=points, chooser=lambda batch, allowed: allowed[next(turns) // 2 % len(points)]
    )
    requests = [Submit(str(i), prompt, 50, ignore_eos=True) for i, prompt in enumerate(prompts(6, 4))]
    for request in requests:
        engine.submit(request)
    outcome = tools.drain(engine)
    assert outcome.tokens == {r.request_id: reference.answer(r) for r in requests}
    assert {point for event in outcome.last.values() for point in event.cycles} == set(points)


def test_rows_that_sample_fix_their_drafts_from_the_left() -> None:
    """A draft drawn in sight of a later one would bias what is kept; statistics of answers are too coarse for that."""
    asked = [Submit(str(i), [3], 9, Sampling(float(i % 2), 1.0, i)) for i in range(40)]
    sequences = [Sequence.of(request, None, i, 99, frozenset()) for i, request in enumerate(asked)]
    sampled = Sampled.among(sequences, torch.device("cpu"))
    masked, out_of_order = torch.ones(40, 7, dtype=torch.bool), 0
    for step in range(7):
        logits = 3 * torch.randn(40, 7, 12, generator=torch.Generator().manual_seed(step))
        chosen = _sure(logits, masked, 0.6, sampled)
        assert not (chosen & ~masked).any()
        assert (chosen.any(1) | ~masked.any(1)).all(), "every row gets on"
        masked = masked & ~chosen
        runs = leading(~masked) == (~masked).sum(1)
        assert runs[1::2].all(), "what is fixed begins at the left and has no gaps"
        out_of_order += int((~runs[::2]).sum())
    assert not masked.any()
    assert out_of_order > 0, "greedy rows fix whatever they are sure of"
