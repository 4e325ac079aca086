"""Diffusion by a sampler head: the head, not the probability, decides what is fixed when."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from trimode_api.modes import OperatingPoint
from trimode_workers.engine.messages import Sampling, Submit
from trimode_workers.model.sampler import SamplerHead


def requests(sampling: Sampling = Sampling()) -> list[Submit]:  # noqa: B008
    rng = random.Random(5)
    return [
        Submit(str(i), [rng.randrange(2, 12) for _ in range(rng.randint(1, 30))], 24, sampling, lossy_ok=True)
        for i in range(6)
    ]


def some_head(decoder: Any, seed: int, bias: float = 0.0) -> SamplerHead:
    torch.manual_seed(seed)
    head = SamplerHead(decoder.config.hidden_size, 8)
    torch.nn.init.normal_(head.last.weight, std=0.0 if bias else 4.0)
    torch.nn.init.constant_(head.last.bias, bias)
    return head.eval().requires_grad_(False)


def answers(tools: Any, decoder: Any, head: SamplerHead | None, point: str, asked: list[Submit]) -> tuple[Any, Any]:
    network = decoder.fused()
    network.sampler = head
    engine = tools.build_engine(network, points=[point], max_running_requests=6)
    for request in asked:
        engine.submit(request)
    return tools.drain(engine).tokens, engine.stats()


@pytest.mark.parametrize("point", ["D4@0.5", "D8@0.9", "D16@0.3"])
def test_answers_by_a_head_are_the_references(point: str, tools: Any, decoder: Any, reference: Any) -> None:
    changed = 0
    for seed in range(3):
        head = some_head(decoder, seed)
        found, _ = answers(tools, decoder, head, point, requests())
        expected = {r.request_id: reference.diffusion(r, OperatingPoint.parse(point), head) for r in requests()}
        assert found == expected
        changed += found != answers(tools, decoder, None, point, requests())[0]
    assert changed, "these heads decide nothing"


@pytest.mark.parametrize(("bias", "forwards"), [(50.0, 2), (-50.0, 8)])
def test_a_sure_head_fills_blocks_at_once_a_doubtful_one_place_by_place(bias: float, forwards: int, tools: Any) -> None:
    decoder = tools.build_decoder(0, eos=())
    _, stats = answers(tools, decoder, some_head(decoder, 0, bias), "D8@0.9", requests())
    assert stats.forwards_total["D8@0.9"] == forwards * 3 * 6  # three blocks of eight each


def test_rows_that_sample_go_by_the_probability_of_what_they_drew(tools: Any, decoder: Any) -> None:
    drawn = requests(Sampling(1.0, 0.9, 4))
    plain, _ = answers(tools, decoder, None, "D8@0.5", drawn)
    assert plain == answers(tools, decoder, some_head(decoder, 0, 50.0), "D8@0.5", drawn)[0]
