"""Which kernel reads the pages: FlashInfer where it is installed, else torch's varlen attention, else the reference.

None of them has met every GPU, and one that is wrong in silence would be worse than one that is slow: before an engine
is built a kernel computes a small problem, in both ways to attend, and has to agree with the reference.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from collections.abc import Sequence as Seq

import torch

from trimode_workers.engine.attention import Attention
from trimode_workers.engine.paged_cache import PagedCache, PageKernel, Reference

_log = logging.getLogger(__name__)

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}
"""Largest difference of an attended value, of normal ones: some units of the type's last place."""
LENGTHS, COUNTS = (0, 37, 16, 5), (3, 1, 20, 17)
"""Of the trial's rows, cached and new tokens: within a page, at its end, across."""


def pick_kernel(cache: PagedCache, offered: Seq[Callable[[], PageKernel]] | None = None) -> PageKernel:
    """The first kernel that passes the trial over this cache, which is empty and stays so. `offered`: in place of what
    there is for the device."""
    device = cache.memory.device
    for make in kernels_for(cache).values() if offered is None else offered:
        name = "a kernel"
        try:
            kernel = make()
            name = type(kernel).__name__
            if difference := _difference(kernel, cache):
                _log.warning("attention by %s is off by %.3g: not used", name, difference)
                continue
        except ImportError as exc:
            _log.info("attention: %s", exc)
            continue
        # Libraries refuse in many ways: by another version's signature, or where a kernel was not built for the GPU.
        except (RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError) as exc:
            _log.warning("attention by %s does not run here: %s", name, str(exc)[:300])
            continue
        _log.info("attention by %s", name)
        return kernel
    if device.type == "cuda":
        _log.warning("attention by the reference: exact, and slow")
    return Reference()


def kernels_for(cache: PagedCache) -> dict[str, Callable[[], PageKernel]]:
    """What there is for the cache's device by name, best first; making one may fail."""

    def flashinfer() -> PageKernel:
        from trimode_workers.engine.flashinfer_kernel import FlashInfer

        return FlashInfer(cache)

    def torch_varlen() -> PageKernel:
        # Imported here: torch's module imports torch._dynamo, as much processor as torch itself and of no use to a CPU.
        from trimode_workers.engine.varlen_kernel import varlen

        return varlen(cache.memory.device)

    # FlashInfer first: torch's reads tables with FlashAttention 3 only, and gathers pages in every layer without.
    return {"flashinfer": flashinfer, "varlen": torch_varlen} if cache.memory.device.type == "cuda" else {}


@torch.inference_mode()
def _difference(kernel: PageKernel, cache: PagedCache) -> float:
    """How far the kernel is from the reference, where that is too far; 0 where it agrees."""
    config, like = cache.config, cache.memory
    count = min(len(LENGTHS), cache.rows)
    room = cache.slots - max(COUNTS)
    rows = [cache.acquire() for _ in range(count)]
    worst, judge = 0.0, Reference()
    generator = torch.Generator(like.device).manual_seed(0)
    try:
        lengths = [min(length, room) for length in LENGTHS[:count]]
        for plan in (cache.pieces(rows, lengths, COUNTS[:count]), cache.block(rows, lengths, COUNTS[0])):
            for kept in (cache.keys[0], cache.values[0]):
                kept.normal_(generator=generator)
            shape = sum(plan.counts), config.heads, config.head_dim
            q = torch.empty(shape, dtype=like.dtype, device=like.device).normal_(generator=generator)
            for attention in Attention:
                kernel.prepare(plan, attention)
                found, expected = (k.attend(plan, 0, q, attention) for k in (kernel, judge))
                worst = max(worst, float((found.float() - expected.float()).abs().nan_to_num(torch.inf).max()))
    finally:
        for row in rows:
            cache.release(row)
        # Pages are gathered whole, and masked keys are multiplied by 0: what was never written has to be a number.
        cache.memory[0].zero_()
    return worst if worst > TOLERANCE[like.dtype] else 0.0
