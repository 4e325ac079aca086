"""The engine on an NVIDIA GPU: `make gpu-test`. Everywhere else these tests are skipped, and say so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import trimode_workers
from trimode_tools.tasks.suite import held_out_set
from trimode_workers.engine.engine import WIDEST_BLOCK, Engine, EngineSettings
from trimode_workers.engine.footprint import footprint, workspace
from trimode_workers.engine.messages import Configure, Sampling, Submit
from trimode_workers.errors import SettingsError
from trimode_workers.model.fused import FusedDecoder
from trimode_workers.process.build import build, load_network
from trimode_workers.process.device import free_memory, pick_device
from trimode_workers.replica.settings import EngineOptions
from trimode_workers.text.tokenizer import load_text_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(),
        reason="NOT TRIED: no NVIDIA GPU (torch.cuda.is_available() is False); run `make gpu-test` on a machine with "
        "one, with a CUDA build of torch in .venv",
    ),
]

TINY = Path(trimode_workers.__file__).parent / "tiny"
POINTS = ["AR", "S8", "S16", "S32"]


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    text = load_text_model(TINY)
    return [text.chat([{"role": "user", "content": s.prompt}]) for s in held_out_set(per_task=2)]


def network(dtype: str) -> FusedDecoder:
    return load_network(EngineOptions(model=str(TINY), dtype=dtype))[0]


def answers(engine: Engine, prompts: list[list[int]], tokens: int = 64) -> list[list[int]]:
    found: dict[str, list[int]] = {str(i): [] for i in range(len(prompts))}
    for name, prompt in zip(found, prompts, strict=True):
        engine.submit(Submit(name, prompt, tokens))
    while not engine.idle:
        for event in engine.step().events:
            found[event.request_id] += event.tokens
    return list(found.values())


def at(point: str, net: FusedDecoder, rows: int = 13) -> Engine:
    return Engine(net, EngineSettings(rows, 512), Configure(points=[point], fallback=point))


def test_float32_answers_as_the_processor_does_in_every_mode(prompts: list[list[int]]) -> None:
    gpu = network("float32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trimode_workers.process.build.pick_device", lambda: torch.device("cpu"))
        cpu = network("float32")
    expected = answers(at("AR", cpu), prompts)
    for point in POINTS:
        assert answers(at(point, gpu), prompts) == expected, point


def test_bfloat16_modes_agree_but_for_rounding(prompts: list[list[int]], capsys: pytest.CaptureFixture[str]) -> None:
    """A block is multiplied in another order than a token: two logits that are nearly equal may trade places."""
    net = network("bfloat16")
    expected = answers(at("AR", net), prompts)
    for point in POINTS[1:]:
        found = answers(at(point, net), prompts)
        same = sum(a == b for a, b in zip(found, expected, strict=True))
        with capsys.disabled():
            print(f"\n{point}: {same} of {len(prompts)} answers equal AR's in bfloat16")
        assert same >= 0.7 * len(prompts)


def test_replayed_graphs_answer_as_plain_forwards(prompts: list[list[int]]) -> None:
    net = network("float32")
    for point in ("AR", "S16"):
        recorded, plain = at(point, net), at(point, net)
        plain._primitive.graphs = None
        assert answers(recorded, prompts) == answers(plain, prompts)
        assert recorded._primitive.graphs is not None
        assert len(recorded._primitive.graphs) > 0


def test_an_engine_takes_the_memory_it_planned_and_no_more() -> None:
    options, configure = EngineOptions(model=str(TINY)), Configure(points=POINTS, fallback="AR")
    before = free_memory(pick_device())
    engine, started = build(options, configure)
    assert started.device == "cuda"
    taken = before - free_memory(pick_device())
    cache = engine._cache.memory
    assert cache.numel() * cache.element_size() <= taken + 2**20


def test_sampled_blocks_need_no_more_memory_than_planned(prompts: list[list[int]]) -> None:
    """The allocator's peak over cycles of S64 that sample, against the plan's scratch."""
    net, rows, context = network("bfloat16"), 64, 512
    engine = Engine(net, EngineSettings(rows, context), Configure(points=["S64"], fallback="S64"))
    engine.record()
    config, itemsize = net.config, net.like.dtype.itemsize
    planned = rows * footprint(config, context, WIDEST_BLOCK, itemsize).scratch + workspace(config, WIDEST_BLOCK, rows)
    for i in range(rows):
        engine.submit(Submit(str(i), prompts[i % len(prompts)][:200], 200, Sampling(1.0, 0.9, i), ignore_eos=True))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(8):
        engine.step()
    assert torch.cuda.max_memory_allocated() - before <= planned


def test_a_context_that_cannot_fit_is_refused_with_one_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    free = 4 * 2**20
    monkeypatch.setattr("trimode_workers.process.build.free_memory", lambda device: free)
    with pytest.raises(SettingsError, match="max_context_tokens is 4096"):
        build(EngineOptions(model=str(TINY)), Configure(points=POINTS, fallback="AR"))
