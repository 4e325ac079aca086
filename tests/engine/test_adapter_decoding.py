"""With a draft adapter: drafts change, answers do not."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from trimode_workers.engine.messages import Submit
from trimode_workers.engine.primitive import Attention
from trimode_workers.model.adapter import DraftAdapter
from trimode_workers.model.decoder import Decoder
from trimode_workers.model.fused import FusedDecoder
from trimode_workers.process.build import compare_drafts

POINTS = ["S4", "S8", "S16", "AR"]


def adapted(decoder: Decoder, strength: float) -> FusedDecoder:
    c = decoder.config
    random = torch.Generator().manual_seed(3)
    pairs = tuple(
        (torch.randn(4, c.heads * c.head_dim, generator=random), torch.randn(c.hidden_size, 4, generator=random))
        for _ in range(c.layers)
    )
    network = decoder.fused()
    network.adapt(DraftAdapter(strength, pairs).outputs(decoder))
    return network


def requests(pin: str | None) -> list[Submit]:
    rng = random.Random(0)
    return [
        Submit(f"r{i}", [rng.randrange(2, 12) for _ in range(rng.randint(1, 20))], 24, pin=pin, ignore_eos=True)
        for i in range(3)
    ]


def answers(tools: Any, network: FusedDecoder, pin: str | None) -> tuple[dict[str, list[int]], int]:
    """Tokens by request, and cycles."""
    engine = tools.build_engine(network, points=POINTS)
    for request in requests(pin):
        engine.submit(request)
    outcome = tools.drain(engine)
    return outcome.tokens, sum(sum(event.cycles.values()) for event in outcome.last.values())


@pytest.mark.parametrize("point", ["S8", "AR"])
def test_answers_stay_and_drafts_change(tools: Any, decoder: Decoder, reference: Any, point: str) -> None:
    expected = {request.request_id: reference.answer(request) for request in requests(None)}
    plain, plain_cycles = answers(tools, decoder.fused(), point)
    tuned, tuned_cycles = answers(tools, adapted(decoder, 0.5), point)
    assert plain == tuned == expected
    # AR never drafts; elsewhere other drafts are accepted elsewhere.
    assert (plain_cycles == tuned_cycles) is (point == "AR")


def test_only_drafting_forwards_have_it(tools: Any, decoder: Decoder) -> None:
    engine = tools.build_engine(adapted(decoder, 0.5), points=POINTS)
    seen: list[tuple[Attention, bool]] = []
    states = engine._primitive.states

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.append((args[2], kwargs.get("drafting", False)))
        return states(*args, **kwargs)

    engine._primitive.states = watched
    engine.submit(Submit("r", [3, 4, 5], 8, pin="S8", ignore_eos=True))
    tools.drain(engine)
    assert set(seen) == {(Attention.BLOCK, True), (Attention.CAUSAL, False)}


def test_the_check_sees_an_adapter_and_its_absence(decoder: Decoder) -> None:
    strong = compare_drafts(adapted(decoder, 0.5))
    assert strong.difference > 0.1
    assert 0 < strong.changed <= strong.drafts == 8 * 15
    without = compare_drafts(adapted(decoder, 0.0))
    assert (without.difference, without.changed) == (0.0, 0)
    assert compare_drafts(decoder.fused()).difference == 0.0
