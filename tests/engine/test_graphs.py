"""Recorded forwards: padded and replayed, they are the forwards they stand for."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import trimode_workers
from trimode_api.modes import OperatingPoint
from trimode_workers.engine import primitive, shapes, shortage
from trimode_workers.engine.attention import Riders, grouped
from trimode_workers.engine.engine import Engine, EngineSettings
from trimode_workers.engine.layouts import make_cache
from trimode_workers.engine.messages import Configure, Submit
from trimode_workers.engine.paged_cache import PagedCache
from trimode_workers.engine.primitive import Primitive
from trimode_workers.engine.shapes import WORTH_A_REACH, bucket, line_of, lines, reaches
from trimode_workers.process import build
from trimode_workers.replica.settings import EngineOptions


@pytest.fixture(scope="module", params=["pages"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def paged(network: Any, context: int) -> PagedCache:
    cache, _ = make_cache(network.config, EngineSettings(4, context, layout="pages"), network.like)
    assert isinstance(cache, PagedCache)
    return cache


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_a_bucket_holds_what_is_asked_and_wastes_less_than_half(count: int, most: int) -> None:
    size = bucket(count, most)
    assert min(count, most) <= size <= most
    if 1 < count <= most:
        assert size < 2 * count


@given(st.integers(1, 300_000))
def test_attention_reads_all_slots_at_most(slots: int) -> None:
    sizes = reaches(slots)
    assert sizes[-1] == slots
    assert all(before * WORTH_A_REACH <= after <= 2.5 * before for before, after in pairwise(sizes))


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_a_line_holds_what_is_asked_and_is_recorded(tokens: int, more: int) -> None:
    assert tokens <= line_of(tokens) < max(65, 2 * tokens, tokens + 256)
    assert line_of(tokens) in lines(tokens + more)


@pytest.mark.parametrize(("n", "one_sight"), [(1, True), (4, True), (4, False)])
def test_folded_heads_attend_as_grouped_ones(n: int, one_sight: bool) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 8, n, 16), torch.randn(3, 2, 20, 16), torch.randn(3, 2, 20, 16)
    mask = torch.zeros(3, 1, 1 if one_sight else n, 20)
    mask.masked_fill_(torch.rand(mask.shape) < 0.4, -torch.inf)[..., 0] = 0.0
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)
    assert torch.allclose(grouped(q, k, v, mask), expected, atol=1e-6)


def test_the_same_shapes_are_recorded_once(tools: Any, decoder: Any, reference: Any) -> None:
    recorder = tools.Rerun()
    engine = tools.build_engine(decoder, points=["S4"], recorder=recorder, max_running_requests=4)
    requests = [Submit(str(i), [2 + i, 3, 4], 40, ignore_eos=True) for i in range(3)]
    for request in requests:
        engine.submit(request)
    outcome = tools.drain(engine)
    assert outcome.tokens == {r.request_id: reference.answer(r) for r in requests}
    # Draft and check, at three rows, and as the others end at two and at one; prompts in a line
    assert len(recorder.results) <= 7
    assert recorder.replays > 5 * len(recorder.results)


@pytest.mark.parametrize("gathers", [True, False])
@torch.inference_mode()
def test_a_recorded_line_is_the_unrecorded_one(gathers: bool, tools: Any, decoder: Any) -> None:
    """Blocks and prompts of any lengths, at both ends of what a recording holds, after longer and shorter ones."""
    network = decoder.fused()
    cache = paged(network, 700)
    cache.kernel.gathers = gathers
    torch.manual_seed(0)
    cache.memory.normal_()
    plain, recorded = Primitive(network, cache), Primitive(network, cache, tools.Rerun())
    rows = [cache.acquire() for _ in range(4)]
    for counts in ([64], [65, 1], [8, 8, 40], [1, 1, 1, 61], [128], [2, 300, 5], [600], [3, 1]):
        mine, lengths = rows[: len(counts)], [5, 0, 90, 16][: len(counts)]
        pieces = [torch.randint(2, 12, (n,)).tolist() for n in counts]
        expected, found = (Riders(pieces, mine, lengths) for _ in range(2))
        plain.ride(expected)
        recorded.ride(found)
        for ours, theirs in zip(found.each(), expected.each(), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-4), counts
        blocks, riders = torch.randint(2, 12, (1, 8)), Riders(pieces[1:], mine[1:], lengths[1:])
        if riders.pieces:
            window = plain.window(mine[:1], lengths[:1], 8)
            hidden, states = plain.causal(blocks, window, riders).clone(), riders.each()
            assert torch.allclose(recorded.causal(blocks, window, riders), hidden, atol=1e-4)
            assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(riders.each(), states, strict=True))
    assert recorded.graphs is not None
    # Lines of 64, 128, 256, 512 and 768 tokens; the first three over tables of 256, 512 and 764 slots.
    assert len(recorded.graphs) <= (3 * 3 + 2 + 1 if gathers else 5)


@torch.inference_mode()
def test_a_recorded_quadratic_forward_is_the_unrecorded_one_at_both_ends_of_its_reach(tools: Any, decoder: Any) -> None:
    network, n, masks = decoder.fused(), 4, 3
    cache = paged(network, 700)
    torch.manual_seed(0)
    cache.memory.normal_()
    plain, recorded = Primitive(network, cache), Primitive(network, cache, tools.Rerun())
    rows = [cache.acquire() for _ in range(4)]
    for reach in (n, 257, 513, 256, 512, 700):
        for starts in ([reach - n], [reach - n, 1, max(reach - 9, 0)]):
            tokens = torch.randint(2, 12, (len(starts), n * (1 + masks)))
            window = plain.window(rows[: len(starts)], starts, n)
            expected = plain.forward_groups(tokens, window, masks).clone()
            assert torch.allclose(recorded.forward_groups(tokens, window, masks), expected, atol=1e-4), (reach, starts)
    assert recorded.graphs is not None
    assert len(recorded.graphs) == 6


def test_a_quadratic_group_of_more_tokens_than_are_recorded_is_run_in_parts(
    tools: Any, decoder: Any, reference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (shortage, shapes):
        monkeypatch.setattr(module, "MOST_GROUPED", 2 * 4 * 5)
    recorder = tools.Rerun()
    engine = tools.build_engine(decoder, points=["Q4"], recorder=recorder, max_running_requests=3)
    engine.record()
    known = len(recorder.results)
    assert known == 2 + len(lines(engine._budget.longest_line)), "one row and two"
    asked = [Submit(str(i), [2 + i], 10 + 20 * (i == 2), ignore_eos=True) for i in range(3)]
    for request in asked:
        engine.submit(request)
    assert tools.drain(engine).tokens == {r.request_id: reference.answer(r) for r in asked}
    assert recorder.replays > 0
    assert len(recorder.results) == known


class Watch:
    """Counts attention outside recordings, by shape."""

    def __init__(self, recorder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shapes: Counter[tuple[Any, ...]] = Counter()
        self._inside = False
        attend, record = torch.nn.functional.scaled_dot_product_attention, recorder.record

        def watched(q: Tensor, k: Tensor, *rest: Any, **more: Any) -> Tensor:
            if not self._inside:
                self.shapes[q.shape, k.shape, k.stride()] += 1
            return attend(q, k, *rest, **more)

        def marked(work: Callable[[], Any]) -> Any:
            self._inside = True
            try:
                return work()
            finally:
                self._inside = False

        def recording(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
            replay = marked(lambda: record(run))
            return lambda: marked(replay)

        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
        monkeypatch.setattr(recorder, "record", recording)


@pytest.mark.parametrize("gathers", [True, False])
def test_after_the_start_nothing_is_recorded_or_unrecorded_and_no_attention_has_a_new_shape(
    gathers: bool, tools: Any, decoder: Any, reference: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Modes change, requests pinned to several of them share the batch, prompts of all lengths ride along, and all of
    it grows and shrinks."""
    recorder, points, cycles = tools.Rerun(), ["AR", "S4", "S8@0.5", "D8@0.5", "Q4"], count()
    watch, unrecorded = Watch(recorder, monkeypatch), []
    for run in (primitive.forward, primitive.forward_groups, primitive.forward_both):
        monkeypatch.setattr(primitive, run.__name__, lambda *args, run=run: unrecorded.append(1) or run(*args))
    engine = tools.build_engine(
        decoder,
        points=points,
        recorder=recorder,
        chooser=lambda batch, found: found[next(cycles) % len(found)],
        max_running_requests=8,
        max_context_tokens=400,
        prefill_budget_tokens=50,
    )
    engine._cache.kernel.gathers = gathers
    caplog.set_level("INFO")
    engine.record()
    known = len(recorder.results)
    # Numbers of rows; S8@0.5 and D8@0.5 run the same. Tables of 256 and 464 slots, for groups of masks always.
    assert known == 6 * (5 * (1 + gathers) + 2) + 3 * (1 + gathers)
    assert f"recorded {known} forwards" in caplog.text

    pins = ["AR", "S4", None, "Q4", "D8@0.5"]
    asked = [
        Submit(
            str(i),
            [2 + (i + j) % 9 for j in range(1 + 17 * (i % 7) + 90 * (i == 6))],
            min(20 + 37 * (i % 3) + 150 * (i == 5), 380),
            pin=pins[i % 5],
            lossy_ok=pins[i % 5] == "D8@0.5",
            prompt_logprobs=1 if i % 4 == 1 else None,
            ignore_eos=True,
        )
        for i in range(14)
    ]

    def submit(cycle: int) -> None:
        if cycle % 3 == 0 and cycle // 3 < len(asked):
            engine.submit(asked[cycle // 3])

    engine.submit(Submit("first", [5], 60, ignore_eos=True))
    outcome = tools.drain(engine, submit)
    assert not watch.shapes
    assert not unrecorded
    assert len(recorder.results) == known
    assert recorder.replays > 100
    for request in asked:
        if request.pin != "D8@0.5":
            assert outcome.tokens[request.request_id] == reference.answer(request), request


def test_a_replica_is_not_ready_before_all_is_recorded(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, tiny = tools.Rerun(), Path(trimode_workers.__file__).parent / "tiny"
    monkeypatch.setattr(build, "Engine", partial(Engine, recorder=recorder))
    monkeypatch.setattr(build, "EngineSettings", partial(EngineSettings, layout="pages", prefill_budget_tokens=16))
    options = EngineOptions(model=str(tiny), max_running_requests=3, max_context_tokens=200)
    engine, _ = build.build(options, Configure(points=["AR", "S4"], fallback="AR"))
    known = len(recorder.results)
    for i in range(3):
        engine.submit(Submit(str(i), [5, 6, 7], 20, pin=["AR", "S4"][i % 2], ignore_eos=True))
    tools.drain(engine)
    assert recorder.replays > 0
    assert len(recorder.results) == known


def test_what_there_is_no_memory_to_record_runs_unrecorded(
    tools: Any, decoder: Any, reference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = tools.Rerun()
    record, most = recorder.record, 6

    def tight(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        if len(recorder.results) == most:
            raise torch.OutOfMemoryError("CUDA out of memory (not really)")
        return record(run)

    monkeypatch.setattr(recorder, "record", tight)
    engine = tools.build_engine(decoder, points=["S4"], recorder=recorder, max_running_requests=4)
    engine.record()
    asked = [Submit(str(i), [2 + i, 3, 4], 30, ignore_eos=True) for i in range(4)]
    for request in asked:
        engine.submit(request)
    assert tools.drain(engine).tokens == {r.request_id: reference.answer(r) for r in asked}
    assert engine.stats().shortages_total == 0
    assert len(recorder.results) == most
    assert recorder.replays > 0


def test_rows_that_only_pad_leave_their_owners_alone(tools: Any, decoder: Any, reference: Any) -> None:
    """Five decode, padded to six, while the sixth row holds a prompt that is being prefilled in pieces."""
    recorder = tools.Rerun()
    engine = tools.build_engine(
        decoder, points=["S8"], recorder=recorder, max_running_requests=8, prefill_budget_tokens=2
    )
    first = [Submit(str(i), [2 + i, 3, 4], 60, ignore_eos=True) for i in range(5)]
    for request in first:
        engine.submit(request)
    while engine.stats().queued_prompt_tokens:
        engine.step()
    late = Submit("late", [2 + i % 9 for i in range(100)], 20, ignore_eos=True)
    engine.submit(late)
    outcome = tools.drain(engine)
    assert outcome.tokens["late"] == reference.answer(late)
    assert recorder.replays > 0


def test_cudnn_plans_no_attention(tools: Any, decoder: Any) -> None:
    """It takes 0.4 s for each new shape on Hopper, and torch takes it first there."""
    torch.backends.cuda.enable_cudnn_sdp(True)
    tools.build_engine(decoder, recorder=tools.Rerun())
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_diffusion_is_replayed_to_its_end(tools: Any, decoder: Any, reference: Any) -> None:
    """Rows finish at different steps; those that do not yet must not run unrecorded for it."""
    recorder, point = tools.Rerun(), OperatingPoint.parse("D8@0.5")
    engine = tools.build_engine(decoder, points=[str(point)], recorder=recorder)
    requests = [Submit(str(i), [2 + i, 3, 4], 30, lossy_ok=True, ignore_eos=True) for i in range(4)]
    for request in requests:
        engine.submit(request)
    engine.step()
    replays, forwards = recorder.replays, engine._primitive.rows_run
    assert replays >= 3, "all rows were done at once, which shows nothing"
    assert forwards == 4 * (replays - 1), "a forward was not replayed, beside that of the prompts"
    outcome = tools.drain(engine)
    for request in requests:
        expected = reference.diffusion(request, point)
        assert expected[-len(outcome.tokens[request.request_id]) :] == outcome.tokens[request.request_id]


def test_a_longer_context_leaves_recorded_rotations_where_they_are(decoder: Any) -> None:
    """Recordings of one engine read the network's table at its address; another engine may make it grow."""
    network = decoder.fused()
    table = weakref.ref(network._turns)
    network._turn(torch.tensor([[9000]]), 9001)
    gc.collect()
    assert network._turns.shape[0] >= 9001
    assert table() is not None
