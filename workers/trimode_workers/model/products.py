"""Products with weights: by MKL, or by oneDNN with the weights packed once, whichever is faster for how many tokens.

Both compute in float32. On AMD machines torch's MKL uses AVX2 and reaches half of what oneDNN does from some tokens on;
for one token oneDNN's call costs more than the product. Where the line is depends on machine, shape and threads, so a
short race finds it when a network is made.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

COUNTS = (64, 32, 16, 8, 4, 2)
"""Tokens raced at, most first: the first one at which oneDNN does not win ends the race."""
ROUNDS, MARGIN = 9, 1.1
"""Tries at each; how many times faster oneDNN has to be: in an engine caches are colder than in a race."""
MOST_BYTES = 1 << 30
"""Weights of a network beyond which none are packed: it takes as much memory again."""
MOST_THREADS = 1
"""Threads of torch beyond which none are packed: more have not been measured on a machine that had them free."""


class Product:
    """`x @ weight`, with `weight` `[in, out]`. `least`: tokens from which the packed copy is used, None for never."""

    __slots__ = ("_packed", "least", "weight")

    def __init__(self, weight: Tensor, *, pack: bool = False) -> None:
        self.weight = weight
        self.least = crossover(*weight.shape, torch.get_num_threads()) if pack else None
        self._packed = None if self.least is None else _pack(weight)

    def __call__(self, x: Tensor) -> Tensor:
        """x `[n, in]` -> `[n, out]`."""
        if self._packed is None or x.shape[0] < (self.least or 0):
            return torch.mm(x, self.weight)
        return _times(x, self._packed)

    def onto(self, residual: Tensor, x: Tensor) -> Tensor:
        """residual `[n, out]`, x `[n, in]` -> their sum, `[n, out]`, in the product itself."""
        if self._packed is None or x.shape[0] < (self.least or 0):
            return torch.addmm(residual, x, self.weight)
        return _plus(residual, x, self._packed)


def packable(like: Tensor, parameters: int) -> bool:
    """Whether a network of so many weights like this one may be packed: in float32, on one thread of a CPU, and not too
    large."""
    small = parameters * like.element_size() <= MOST_BYTES
    built = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    built = built and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    alone = torch.get_num_threads() <= MOST_THREADS
    return like.device.type == "cpu" and alone and like.dtype == torch.float32 and small and bool(built)


@cache
def crossover(inputs: int, outputs: int, threads: int) -> int | None:
    """Tokens from which oneDNN is the faster one by a margin, for weights of this shape; None where it is not at 64.

    Raced once in a process for a shape and a number of threads (which torch is set to).
    """
    weight, least = torch.ones(inputs, outputs), None
    packed = _pack(weight)
    for count in COUNTS:
        # Twice: on a machine with twenty processes waiting, one race in twenty had a wrong winner for one shape.
        if not (_wins(weight, packed, count) and _wins(weight, packed, count)):
            break
        least = count
    return least


def _wins(weight: Tensor, packed: Tensor, count: int) -> bool:
    """Whether oneDNN is faster by the margin for `count` tokens."""
    x = torch.ones(count, weight.shape[0])
    theirs, ours = _fastest(lambda: torch.mm(x, weight), lambda: _times(x, packed))
    return theirs >= MARGIN * ours


def _fastest(*each: Callable[[], Tensor]) -> list[float]:
    """The least seconds of each, tried in turns after a first time."""
    best = [float("inf")] * len(each)
    for attempt in range(ROUNDS + 1):
        for i, run in enumerate(each):
            began = time.perf_counter()
            run()
            if attempt:
                best[i] = min(best[i], time.perf_counter() - began)
    return best


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.t().contiguous())
    return packed


def _times(x: Tensor, packed: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, packed, None, "none", [], "")
    return product


def _plus(residual: Tensor, x: Tensor, packed: Tensor) -> Tensor:
    total: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, residual, packed, None, "add")
    return total
