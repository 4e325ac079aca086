"""The measurements of `first`, each an iterator of results, so that a limit can come between any two.

Times are medians. On a GPU each timed call ends with a synchronisation.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from statistics import median

import torch
import torch.nn.functional as F

from trimode_api.modes import Mode, OperatingPoint
from trimode_lab.gpu.report import Result, Value
from trimode_lab.gpu.sizes import Size, parameters
from trimode_policy.profiles import ARITHMETIC_REACHED, BANDWIDTH_REACHED, known_gpu
from trimode_workers.engine.attention import Attention, grouped
from trimode_workers.engine.engine import Engine, EngineSettings
from trimode_workers.engine.kernels import kernels_for
from trimode_workers.engine.layouts import make_cache
from trimode_workers.engine.messages import Configure, Sampling, Submit
from trimode_workers.engine.paged_cache import PagedCache, Reference
from trimode_workers.model.decoder import Network

ROOT = Path(__file__).parents[3]
NEW_SHAPES = 10
WARM_CYCLES = 3
SDPA_KERNELS = {0: "math", 1: "flash", 2: "memory-efficient", 3: "cuDNN", 4: "overrideable"}
"""torch's numbers of what scaled_dot_product_attention chooses (c10/core/SDPBackend)."""


def device_facts(device: torch.device) -> Iterator[Result]:
    """Versions and what torch would do by itself; asked before any engine has switched cuDNN's attention off."""
    values: dict[str, Value] = {"torch": torch.__version__, "cuda": torch.version.cuda}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        values |= {
            "device": properties.name,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "compute_capability": f"{properties.major}.{properties.minor}",
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "cudnn_attention": _cudnn_allowed(),
        }
    else:
        values |= {"device": "cpu", "threads": torch.get_num_threads()}
    yield Result("device", device.type, values)


def chosen_kernels(size: Size, device: torch.device) -> Iterator[Result]:
    """Which kernel torch takes for our call with a mask, and what ten shapes cost that it has not met."""
    c = size.config
    before = _cudnn_allowed()
    wanted = (True, False) if device.type == "cuda" else (before,)
    try:
        for cudnn in wanted:
            torch.backends.cuda.enable_cudnn_sdp(cudnn)
            seconds, kernel = [], -1
            for new in range(NEW_SHAPES):
                reach = size.contexts[0] + 16 * new + (8 if cudnn else 0)
                folded = c.heads // c.kv_heads * 16
                q = torch.randn(4, c.kv_heads, folded, c.head_dim, dtype=size.dtype, device=device)
                k = torch.randn(4, c.kv_heads, reach, c.head_dim, dtype=size.dtype, device=device)
                mask = torch.zeros(4, 1, folded, reach, dtype=size.dtype, device=device)
                kernel = int(torch._fused_sdp_choice(q, k, k, mask))
                seconds.append(_once(partial(F.scaled_dot_product_attention, q, k, k, mask), device))
            yield Result(
                "sdpa",
                f"cudnn {'allowed' if cudnn else 'off'}",
                {
                    "kernel": SDPA_KERNELS.get(kernel, str(kernel)),
                    "new_shape_ms": 1e3 * median(seconds),
                    "worst_ms": 1e3 * max(seconds),
                },
            )
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def _cudnn_allowed() -> bool:
    return bool(torch.backends.cuda.cudnn_sdp_enabled())  # type: ignore[no-untyped-call]


def gpu_tests(limit_s: float) -> Iterator[Result]:
    """`make gpu-test`, in a process of its own."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/gpu"]
    try:
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=max(1.0, limit_s), check=False)
    except subprocess.TimeoutExpired:
        yield Result("tests", "tests/gpu", {"passed": False, "last": f"not done after {limit_s:.0f} s"})
        return
    lines = ran.stdout.strip().splitlines() or [ran.stderr[-200:]]
    for failed in [text for text in lines if text.startswith(("FAILED", "ERROR"))]:
        yield Result("tests", "failed", {"test": failed[:300]})
    yield Result("tests", "tests/gpu", {"passed": ran.returncode == 0, "last": lines[-1]})


def forwards(network: Network, size: Size, device: torch.device) -> Iterator[Result]:
    """Cycles by rows and point, with their share of what bandwidth and arithmetic allow."""
    for rows in size.rows:
        now = [OperatingPoint.parse(size.points[0])]
        engine = _filled(network, size, rows, now)
        for name in size.points:
            now[0] = OperatingPoint.parse(name)
            began = time.perf_counter()
            engine.step()
            first_s = time.perf_counter() - began
            for _ in range(WARM_CYCLES - 1):
                engine.step()
            seconds = [_timed_step(engine) for _ in range(size.cycles)]
            cached = sum(s.cached for s in engine._requests.running) / rows
            values: dict[str, Value] = {
                "ms": 1e3 * median(seconds),
                "first_cycle_ms": 1e3 * first_s,
                "cached_tokens": round(cached),
            }
            values |= _shares(size, device, now[0], rows, cached, median(seconds))
            yield Result("cycle", f"{name} x {rows}", values)
        if engine._primitive.graphs is not None:  # the same cycle asked for kernel by kernel
            engine._primitive.graphs = None
            engine.step()
            seconds = [_timed_step(engine) for _ in range(size.cycles)]
            yield Result("cycle", f"{size.points[-1]} x {rows}, unrecorded", {"ms": 1e3 * median(seconds)})


def _filled(network: Network, size: Size, rows: int, now: list[OperatingPoint], sampling: bool = False) -> Engine:
    """An engine whose requests have all been prefilled; it runs `now[0]`. Random drafts are hardly ever right, so that
    answers grow by about a token a cycle."""
    answer = 2 * (len(size.points) + 1) * (size.cycles + WARM_CYCLES + 2) + 64
    configure = Configure(points=list(size.points), fallback=size.points[0])
    settings = EngineSettings(rows, size.prompt + answer, shared_tokens=0, prefill_budget_tokens=2048)
    engine = Engine(network, settings, configure, chooser=lambda batch, points: now[0])
    chance = Random(0)
    for row in range(rows):
        prompt = [chance.randrange(2, size.config.vocab_size) for _ in range(max(1, size.prompt - row % 37))]
        law = Sampling(1.0, 0.9, row) if sampling else Sampling()
        engine.submit(Submit(str(row), prompt, answer, law, ignore_eos=True))
    while engine.stats().queued_prompt_tokens:
        engine.step()
    return engine


def _shares(
    size: Size, device: torch.device, point: OperatingPoint, rows: int, cached: float, seconds: float
) -> dict[str, Value]:
    """Of the data sheet's bandwidth and arithmetic; nothing for a device whose sheet we do not have."""
    gpu = known_gpu(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if gpu is None:
        return {}
    c, runs = size.config, 1 if point.mode is Mode.AR else 2
    per_token = 2 * c.layers * c.kv_heads * c.head_dim * size.dtype.itemsize
    read = runs * (parameters(c) * size.dtype.itemsize + rows * cached * per_token)
    operations = runs * 2 * parameters(c) * rows * point.block_length
    bandwidth, arithmetic = gpu.bytes_per_s / BANDWIDTH_REACHED, gpu.flops_per_s / ARITHMETIC_REACHED
    return {
        "of_bandwidth": read / seconds / bandwidth,
        "of_arithmetic": operations / seconds / arithmetic,
        "of_limit": max(read / bandwidth, operations / arithmetic) / seconds,
    }


def sampling(network: Network, size: Size, device: torch.device) -> Iterator[Result]:
    """A cycle whose rows all draw with top-p, and its bytes per logit at the peak."""
    point = OperatingPoint.parse(size.points[-1])
    rows = min(64, size.rows[-1])
    for drawn in (False, True):
        engine = _filled(network, size, rows, [point], drawn)
        for _ in range(WARM_CYCLES):
            engine.step()
        values: dict[str, Value] = {}
        if device.type == "cuda":
            torch.cuda.synchronize()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        values["ms"] = 1e3 * median(_timed_step(engine) for _ in range(size.cycles))
        if device.type == "cuda":
            logits = rows * point.block_length * size.config.vocab_size
            values["peak_bytes_per_logit"] = (torch.cuda.max_memory_allocated() - before) / logits
        yield Result("sampling", f"{point} x {rows}, {'top-p 0.9' if drawn else 'greedy'}", values)


def padded_attention(size: Size, device: torch.device) -> Iterator[Result]:
    """One layer's attention as recorded forwards run it: heads folded into queries, a mask over all slots."""
    c = size.config
    for context, rows, n in _attention_cases(size):
        q = torch.randn(rows, c.heads, n, c.head_dim, dtype=size.dtype, device=device)
        k = torch.randn(rows, c.kv_heads, context, c.head_dim, dtype=size.dtype, device=device)
        mask = torch.zeros(rows, 1, n, context, dtype=size.dtype, device=device)
        case = context, rows, n
        yield _attention_result("masked rows", case, size, device, partial(grouped, q, k, k, mask))


def paged_attention(size: Size, device: torch.device) -> Iterator[Result]:
    """The same by each kernel over pages that is here, with what a plan costs; one that fails says why."""
    c = replace(size.config, layers=1)
    like = torch.empty(0, dtype=size.dtype, device=device)
    for context, rows, n in _attention_cases(size):
        settings = EngineSettings(rows, context + n, layout="pages", shared_tokens=0)
        cache, _ = make_cache(c, settings, like)
        assert isinstance(cache, PagedCache)
        mine = [cache.acquire() for _ in range(rows)]
        for kept in (cache.keys[0], cache.values[0]):
            kept.normal_()
        plan = cache.block(mine, [context - n] * rows, n)
        q = torch.randn(rows * n, c.heads, c.head_dim, dtype=size.dtype, device=device)
        for name, make in {"reference": Reference, **kernels_for(cache)}.items():
            case = context, rows, n
            try:
                kernel = make()
                began = time.perf_counter()
                kernel.prepare(plan, Attention.BLOCK)
                plan_us = 1e6 * (time.perf_counter() - began)
                run = partial(kernel.attend, plan, 0, q, Attention.BLOCK)
                found = _attention_result(name, case, size, device, run)
            except (RuntimeError, ImportError, ValueError, TypeError) as exc:
                yield Result("attention", f"{name} {context} x {rows} q{n}", {"failed": str(exc)[:200]})
                continue
            yield Result(found.section, found.case, found.values | {"plan_us": plan_us})


def _attention_cases(size: Size) -> Iterator[tuple[int, int, int]]:
    """(context, rows, queries of each) as far as the pool holds their keys."""
    for context in size.contexts:
        for rows in (1, 8, 64):
            if rows * context <= size.pool:
                for n in (1, 16):
                    yield context, rows, n


def _attention_result(
    backend: str, case: tuple[int, int, int], size: Size, device: torch.device, run: Callable[[], object]
) -> Result:
    context, rows, n = case
    run()
    seconds = median(_once(run, device) for _ in range(size.cycles))
    read = 2 * rows * context * size.config.kv_heads * size.config.head_dim * size.dtype.itemsize
    values: dict[str, Value] = {"us": 1e6 * seconds, "gb_per_s": read / seconds / 1e9}
    return Result("attention", f"{backend} {context} x {rows} q{n}", values)


def _timed_step(engine: Engine) -> float:
    began = time.perf_counter()
    engine.step()  # ends with tokens on the host, hence synchronised
    return time.perf_counter() - began


def _once(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began
