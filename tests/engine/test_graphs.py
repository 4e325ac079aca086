"""Recorded forwards: padded and replayed, they are the forwards they stand for."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimode_api.modes import OperatingPoint
from trimode_workers.engine import graphs
from trimode_workers.engine.graphs import bucket, grouped
from trimode_workers.engine.messages import Submit


@given(st.integers(1, 5000), st.sampled_from([1, 256]), st.integers(1, 5000))
def test_a_bucket_holds_what_is_asked_and_wastes_less_than_half(count: int, least: int, most: int) -> None:
    size = bucket(count, least, most)
    assert size <= most
    assert size >= min(count, most)
    if least < count <= most:
        assert size < 2 * count


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
    # Draft and check, at three rows, and as the others end at two and at one
    assert len(recorder.results) <= 6
    assert recorder.replays > 5 * len(recorder.results)


def test_the_least_used_recording_goes(
    tools: Any, decoder: Any, reference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "MOST", 2)
    points, cycles = ["AR", "S4", "S8"], iter(range(1000))
    recorder = tools.Rerun()
    engine = tools.build_engine(
        decoder, points=points, recorder=recorder, chooser=lambda batch, found: found[next(cycles) % 3]
    )
    request = Submit("a", [5, 6], 40, ignore_eos=True)
    engine.submit(request)
    assert tools.drain(engine).tokens["a"] == reference.answer(request)
    assert len(engine._primitive.graphs) == 2
    assert len(recorder.results) > 5


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
    assert forwards == 4 * replays, "a forward was not replayed"
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
