"""The cache in pages: what a table holds, recordings over it, kernels that have to agree with the reference, and how
many requests it admits."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trimode_api.prefix import PAGE_TOKENS, ROOT
from trimode_workers.engine.attention import Attention
from trimode_workers.engine.engine import WIDEST_BLOCK
from trimode_workers.engine.footprint import Demand, tokens_that_fit
from trimode_workers.engine.kernels import pick_kernel
from trimode_workers.engine.layouts import make_cache
from trimode_workers.engine.messages import Submit
from trimode_workers.engine.page_pool import PagePool
from trimode_workers.engine.paged_cache import PagedCache, PagedPlan, Reference, pages_for
from trimode_workers.engine.plan import Limits, admitted
from trimode_workers.engine.primitive import Primitive
from trimode_workers.engine.sequence import Sequence
from trimode_workers.engine.settings import EngineSettings
from trimode_workers.errors import SettingsError
from trimode_workers.model.config import ModelConfig
from trimode_workers.process.device import GRAPHS, USABLE

EXAMPLE = Path(__file__).parents[2] / "examples" / "nemotron-8b-h100.yaml"
LARGE = ModelConfig(131072, 4096, 14336, 34, 32, 8, 128, 262144, 100, (11,))
GIB = 2**30


@pytest.fixture(scope="module", params=["pages"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def paged_cache(decoder: Any, rows: int = 4, context: int = 300) -> PagedCache:
    like = decoder.fused().like
    cache, _ = make_cache(decoder.config, EngineSettings(rows, context, layout="pages"), like)
    assert isinstance(cache, PagedCache)
    return cache


# --- The pool


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 5)), max_size=40), st.integers(0, 12))
def test_pages_are_held_idle_or_free_whatever_happens(steps: list[tuple[int, int, int]], most: int) -> None:
    """Four rows over three beginnings: each step begins, keeps, grows or ends one."""
    pool, rows = PagePool(20, most), [[] for _ in range(4)]  # type: ignore[var-annotated]
    chains = [[bytes([which, at]) for at in range(5)] for which in range(3)]
    begun: list[list[bytes] | None] = [None] * 4
    for row, what, count in steps:
        chain = begun[row]
        if chain is None:
            begun[row] = chain = chains[what % 3]
            known = next((at for at, key in enumerate(chain) if key not in pool), len(chain))
            rows[row] = pool.hold(chain[: min(known, count)])
        elif what == 0:
            pool.drop(rows[row])
            rows[row], begun[row] = [], None
        elif what == 1:
            rows[row] = pool.keep(chain[: len(rows[row])], rows[row])
        elif len(rows[row]) < 5:
            rows[row] = [*rows[row], pool.take()]
        assert pool.problems(rows) == []
        assert pool.used <= max(most, 0)


def test_the_page_that_was_let_go_first_is_taken_first_and_never_one_that_is_held() -> None:
    pool = PagePool(3, 3)
    chain = [b"a", b"b"]
    first = pool.keep(chain, [pool.take(), pool.take()])
    pool.drop(first)
    held = pool.hold(chain[:1])
    assert held == first[:1]
    assert sorted([pool.take(), pool.take()]) == sorted({0, 1, 2} - set(held))
    assert (b"a" in pool, b"b" in pool) == (True, False)
    with pytest.raises(IndexError):
        pool.take()
    assert pool.kept()[b"a"].before == ROOT


def test_of_two_rows_that_computed_the_same_one_copy_stays() -> None:
    pool = PagePool(4, 4)
    one, two = [pool.take(), pool.take()], [pool.take(), pool.take()]
    assert pool.keep([b"a", b"b"], one) == one
    assert pool.keep([b"a", b"b"], two) == one
    assert pool.problems([one, one]) == []


# --- Forwards


@torch.inference_mode()
def test_both_layouts_run_the_same_forwards(decoder: Any) -> None:
    """Blocks both ways and pieces of all lengths, over rows that begin anywhere in a page."""
    network, pages = decoder.fused(), paged_cache(decoder)
    rows, _ = make_cache(decoder.config, EngineSettings(4, 300, layout="rows"), network.like)
    found = []
    for cache in (pages, rows):
        torch.manual_seed(0)
        primitive = Primitive(network, cache)
        mine = [cache.acquire() for _ in range(4)]
        prompts = [torch.randint(2, 12, (length,)).tolist() for length in (1, 16, 33, 200)]
        states = [primitive.advance(prompts, mine, [0] * 4)]
        lengths = [len(prompt) for prompt in prompts]
        block = torch.randint(2, 12, (4, 16))
        window = primitive.window(mine, lengths, 16)
        states += [primitive.states(block, window, attention).flatten(0, 1) for attention in Attention]
        lengths = [length + 9 for length in lengths]
        states.append(primitive.advance([[5], [6, 7, 8], [9], [3] * 40], mine, lengths))
        states.append(cache.state(mine[3], lengths[3] + 40).flatten(0, -2))
        found.append(states)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("n", [1, 8])
@pytest.mark.parametrize("gathers", [True, False])
@torch.inference_mode()
def test_a_recorded_forward_is_the_unrecorded_one_at_any_reach(n: int, gathers: bool, tools: Any, decoder: Any) -> None:
    """Also where the row that only pads, and tables of longer rows before, have left something behind."""
    network, cache = decoder.fused(), paged_cache(decoder, context=700)
    cache.kernel = Reference() if gathers else ByTable()
    torch.manual_seed(0)
    cache.memory.normal_()
    plain, recorded = Primitive(network, cache), Primitive(network, cache, tools.Rerun())
    rows = [cache.acquire() for _ in range(4)]
    for reach in (700, 257, n, 256, 512):
        for lengths in ([reach], [reach, 5 + n, max(reach - 9, n)]):
            starts = [length - n for length in lengths]
            tokens = torch.randint(2, 12, (len(starts), n))
            plan = plain.window(rows[: len(starts)], starts, n)
            for attention in Attention:
                expected = plain.states(tokens, plan, attention).clone()
                found = recorded.states(tokens, plan, attention)
                assert torch.allclose(found, expected, atol=1e-4), (reach, lengths, attention)
    assert recorded.graphs is not None
    # One row and three, both ways to attend, and over gathered tables three reaches (of 764 slots).
    assert len(recorded.graphs) == 4 * (3 if gathers else 1)


def test_after_the_start_nothing_is_recorded(tools: Any, decoder: Any, reference: Any) -> None:
    recorder = tools.Rerun()
    engine = tools.build_engine(decoder, points=["AR", "S4", "S8"], recorder=recorder, max_running_requests=4)
    assert recorder.results == []
    engine.record()
    known = len(recorder.results)
    requests = [
        Submit(str(i), [2 + i] * (1 + 9 * i), 30, ignore_eos=True, pin=["AR", "S4", "S8"][i % 3]) for i in range(7)
    ]
    for request in requests:
        engine.submit(request)
    assert tools.drain(engine).tokens == {r.request_id: reference.answer(r) for r in requests}
    assert recorder.replays > known == len(recorder.results)


def test_a_group_of_more_tokens_than_planned_is_run_in_parts(tools: Any, decoder: Any, reference: Any) -> None:
    engine = tools.build_engine(decoder, points=["S8"], max_running_requests=8)
    engine._shortage._most = 20
    widest = []
    states = engine._primitive.states
    engine._primitive.states = lambda tokens, *rest, **more: (
        widest.append(tokens.numel()) or states(tokens, *rest, **more)
    )
    requests = [Submit(str(i), [2 + i], 20, ignore_eos=True) for i in range(8)]
    for request in requests:
        engine.submit(request)
    assert tools.drain(engine).tokens == {r.request_id: reference.answer(r) for r in requests}
    assert max(widest) <= 20
    assert engine.stats().shortages_total == 0


# --- Kernels


class ByTable(Reference):
    """A kernel that reads by a table: recordings of it need one reach."""

    gathers = False


class Wrong(Reference):
    """Takes a block for causal."""

    def attend(self, plan: PagedPlan, layer: int, q: Tensor, attention: Attention) -> Tensor:
        return super().attend(plan, layer, q, Attention.CAUSAL)


def refused() -> Reference:
    raise RuntimeError("no kernel image is available for execution on the device")


def missing() -> Reference:
    raise ImportError("No module named 'flashinfer'")


def test_the_first_kernel_that_agrees_with_the_reference_is_taken(
    decoder: Any, caplog: pytest.LogCaptureFixture
) -> None:
    cache = paged_cache(decoder)
    assert type(pick_kernel(cache)) is Reference
    assert type(pick_kernel(cache, [missing, refused, Wrong, ByTable, Reference])) is ByTable
    assert "attention by Wrong is off by" in caplog.text
    assert "no kernel image" in caplog.text
    assert type(pick_kernel(cache, [Wrong])) is Reference
    assert cache.free_rows == 4
    assert cache.pool.problems(cache.tables) == []
    assert not cache.memory.any()


def by_definition(q: Tensor, keys: list[Tensor], values: list[Tensor], starts: list[int], causal: bool) -> Tensor:
    """Attention of ragged rows, each by itself: q `[total, heads, size]`, keys and values `[n, kv_heads, size]`."""
    found = []
    for (begin, end), k, v in zip(pairwise(starts), keys, values, strict=True):
        n, reach = end - begin, len(k)
        sees = torch.ones(n, reach, dtype=torch.bool).tril(reach - n) if causal else None
        part = q[begin:end].transpose(0, 1)[None]
        out = F.scaled_dot_product_attention(
            part, k.transpose(0, 1)[None], v.transpose(0, 1)[None], sees, enable_gqa=True
        )
        found.append(out[0].transpose(0, 1))
    return torch.cat(found)


@pytest.mark.parametrize("tables", [False, True])
def test_varlen_is_called_by_its_documentation(
    tables: bool, tools: Any, decoder: Any, reference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's function has no kernel for processors; a stand-in computes what its documentation says."""
    from trimode_workers.engine import varlen_kernel

    real = varlen_kernel.varlen_attn

    def documented(
        q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Any, max_q: int, max_k: int, **more: Any
    ) -> Tensor:
        # The real one's checks, and its shapes on the meta device.
        meta = {name: value.to("meta") if isinstance(value, Tensor) else value for name, value in more.items()}
        lines = [None if x is None else x.to("meta") for x in (q, k, v, cu_q, cu_k)]
        assert real(*lines, max_q, max_k, **meta).shape == q.shape
        used, table = more["seqused_k"].tolist(), more["block_table"]
        assert cu_q.dtype == more["seqused_k"].dtype == torch.int32
        assert max_q >= int(cu_q.diff().max())
        assert max_k >= max(used)
        if table is None:
            begins = cu_k.tolist()
            assert k.shape[0] == begins[-1]
            keys, values = ([x[a : a + n] for a, n in zip(begins, used, strict=False)] for x in (k, v))
        else:
            assert cu_k is None
            assert table.dtype == torch.int32
            keys, values = (
                [x[row[: pages_for(n)].long()].flatten(0, 1)[:n] for row, n in zip(table, used, strict=True)]
                for x in (k, v)
            )
        assert more["window_size"] in ((-1, -1), (-1, 0))
        return by_definition(q, keys, values, cu_q.tolist(), more["window_size"] == (-1, 0))

    monkeypatch.setattr(varlen_kernel, "varlen_attn", documented)
    answers_with(varlen_kernel.Varlen(tables=tables), tools, decoder, reference)


class Wrapper:
    """FlashInfer's wrapper by its documentation, on a processor. Fixed buffers as with CUDA graphs."""

    def __init__(
        self, workspace: Tensor, kv_layout: str, *, backend: str, use_cuda_graph: bool = False, **fixed: Any
    ) -> None:
        assert (workspace.dtype, kv_layout, backend) == (torch.uint8, "NHD", "fa2")
        assert bool(fixed) == use_cuda_graph
        self.fixed = fixed

    def plan(
        self,
        qo_indptr: Tensor,
        paged_kv_indptr: Tensor,
        paged_kv_indices: Tensor,
        paged_kv_last_page_len: Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim_qk: int,
        page_size: int,
        *,
        causal: bool,
        q_data_type: torch.dtype,
        kv_data_type: torch.dtype,
    ) -> None:
        planned = (qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len)
        assert {x.dtype for x in planned} == {torch.int32}
        assert int(paged_kv_indptr[-1]) == len(paged_kv_indices)
        assert 1 <= int(paged_kv_last_page_len.min()) <= int(paged_kv_last_page_len.max()) <= page_size == PAGE_TOKENS
        if self.fixed:
            assert len(self.fixed["qo_indptr_buf"]) == len(self.fixed["paged_kv_indptr_buf"]) == len(qo_indptr)
            assert len(self.fixed["paged_kv_last_page_len_buf"]) == len(qo_indptr) - 1
            assert len(self.fixed["paged_kv_indices_buf"]) >= len(paged_kv_indices)
        self.heads = (num_qo_heads, num_kv_heads, head_dim_qk)
        self.types, self.planned, self.causal = (q_data_type, kv_data_type), planned, causal

    def run(self, q: Tensor, kept: tuple[Tensor, Tensor]) -> Tensor:
        starts, pages, indices, last = (x.tolist() for x in self.planned)
        assert (*q.shape[1:2], *kept[0].shape[2:]) == self.heads
        assert self.types == (q.dtype, kept[0].dtype)
        assert len(q) == starts[-1]
        tables = [indices[a:b] for a, b in pairwise(pages)]
        ends = [PAGE_TOKENS * (len(t) - 1) + n for t, n in zip(tables, last, strict=True)]
        keys, values = ([x[t].flatten(0, 1)[:n] for t, n in zip(tables, ends, strict=True)] for x in kept)
        return by_definition(q, keys, values, starts, self.causal)


@pytest.fixture
def flashinfer_kernel(monkeypatch: pytest.MonkeyPatch) -> Any:
    package = ModuleType("flashinfer")
    package.BatchPrefillWithPagedKVCacheWrapper = Wrapper  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flashinfer", package)
    monkeypatch.delitem(sys.modules, "trimode_workers.engine.flashinfer_kernel", raising=False)
    from trimode_workers.engine import flashinfer_kernel

    monkeypatch.setattr(flashinfer_kernel, "WORKSPACE", 16)
    yield flashinfer_kernel
    sys.modules.pop("trimode_workers.engine.flashinfer_kernel", None)


def test_flashinfer_is_told_what_its_documentation_asks(
    flashinfer_kernel: Any, tools: Any, decoder: Any, reference: Any
) -> None:
    answers_with(flashinfer_kernel.FlashInfer, tools, decoder, reference)


def test_the_installed_flashinfer_takes_our_arguments() -> None:
    """Where the package can be imported; elsewhere this says nothing."""
    import inspect

    real = pytest.importorskip("flashinfer").BatchPrefillWithPagedKVCacheWrapper
    for name in ("__init__", "plan", "run"):
        assert set(inspect.signature(getattr(Wrapper, name)).parameters) - {"workspace", "kept", "fixed"} <= set(
            inspect.signature(getattr(real, name)).parameters
        )


def answers_with(kernel: Any, tools: Any, decoder: Any, reference: Any) -> None:
    """An engine that attends by the kernel, recorded and not, passes its trial and answers as the reference."""
    for recorder in (None, tools.Rerun()):
        engine = tools.build_engine(decoder, points=["AR", "S4", "S8"], max_running_requests=4)
        cache = engine._cache
        made = kernel(cache) if callable(kernel) else kernel
        assert pick_kernel(cache, [lambda made=made: made]) is made
        cache.kernel = made
        engine._primitive = Primitive(engine._primitive.network, cache, recorder)
        engine._shortage._primitive = engine._primitive
        requests = [
            Submit(str(i), [2 + i] * (1 + 13 * i), 20, ignore_eos=True, pin=["AR", "S4", "S8"][i % 3]) for i in range(6)
        ]
        for request in requests:
            engine.submit(request)
        assert tools.drain(engine).tokens == {r.request_id: reference.answer(r) for r in requests}
        assert recorder is None or recorder.replays > 0


# --- Admission


def test_the_h100_example_admits_300_requests_of_1000_and_256_tokens() -> None:
    """Each with all of its answer; rows of the whole context would be 19."""
    spec = yaml.safe_load(EXAMPLE.read_text())["spec"]
    context, rows = spec["engine"]["maxContextTokens"], spec["engine"]["maxRunningRequests"]
    growth = max(spec["pools"][0]["blockLengths"])
    free = int(USABLE * 79.6 * GIB) - 16 * GIB - GRAPHS
    tokens = tokens_that_fit(LARGE, Demand(rows, context, WIDEST_BLOCK), 2, free)
    limits = Limits(tokens, context, growth, 2048, rows, PAGE_TOKENS)
    waiting = [Sequence.of(Submit(str(i), [5] * 1256, 1), None, i, context, frozenset()) for i in range(rows + 1)]
    assert rows >= len(admitted([], waiting, limits)) >= 300


@given(st.integers(0, 200 * GIB), st.integers(1, 512), st.integers(64, 262144))
def test_pages_take_no_more_than_there_is_and_hold_a_request(free: int, rows: int, context: int) -> None:
    try:
        tokens = tokens_that_fit(LARGE, Demand(rows, context, WIDEST_BLOCK), 2, free)
    except SettingsError:
        one = tokens_that_fit(LARGE, Demand(1, context, WIDEST_BLOCK), 2, 2**60)
        assert one * 139264 + GIB > free - rows * 64 * 2**20
        return
    assert tokens % PAGE_TOKENS == 0
    assert context + WIDEST_BLOCK <= tokens <= rows * (context + WIDEST_BLOCK + PAGE_TOKENS)
    assert tokens * 139264 <= free


def test_a_refusal_names_a_length_that_fits() -> None:
    with pytest.raises(SettingsError, match=r"at most (\d+) tokens fit") as caught:
        tokens_that_fit(LARGE, Demand(64, 262144, WIDEST_BLOCK), 2, 16 * GIB)
    longest = int(str(caught.value).split("at most ")[1].split()[0])
    assert tokens_that_fit(LARGE, Demand(64, longest, WIDEST_BLOCK), 2, 16 * GIB) >= longest + WIDEST_BLOCK
    with pytest.raises(SettingsError):
        tokens_that_fit(LARGE, Demand(64, longest + PAGE_TOKENS, WIDEST_BLOCK), 2, 16 * GIB)


def test_ar_is_recorded_as_it_is_met(tools: Any, decoder: Any, reference: Any) -> None:
    recorder = tools.Rerun()
    engine = tools.build_engine(decoder, points=["AR"], recorder=recorder)
    engine.submit(Submit("a", [5, 6], 9, ignore_eos=True))
    assert tools.drain(engine).tokens["a"] == reference.answer(Submit("a", [5, 6], 9, ignore_eos=True))
    assert recorder.replays == 9, "the prompt's forward gives the first token"
