"""Forwards of fixed shape, recorded once and replayed: what a GPU needs when few requests run.

A forward of an 8B is 630 to 730 kernels; asking for them one by one takes the processor longer than the GPU needs to
run them for a small batch. A CUDA graph asks for all of them at once, but always with the same shapes and addresses.
So batches are padded to a few sizes, what attention reads is padded likewise, and inputs are copied into place.

All shapes of the configured points are recorded before the engine is ready. Recorded as they are met, each would stop
the whole batch for two forwards and `torch.cuda.graph`'s emptying of the allocator's cache.

A row that only pads is a row behind the batch. It may be another request's, prefilled or of another group: its keys
and values are written behind the longest sequence that a row may hold, where nobody's state ever is.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from trimode_api.modes import Mode, OperatingPoint
from trimode_workers.engine.cache import KVCache
from trimode_workers.engine.window import Attention, Window
from trimode_workers.model.decoder import Network

_log = logging.getLogger(__name__)

SHORTEST_REACH = 256
"""Slots; also what longer ones are multiples of, as attention with a mask wants its rows aligned."""
WORTH_A_REACH = 1.25
"""The longest reach, all slots, is that much longer than the one before it at least: shapes cost time at start."""


class Recorder(Protocol):
    """Makes work on tensors at fixed addresses cheap to repeat."""

    def record(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """A function that does again what `run` does, into the same result."""
        ...


class CudaRecorder:
    """CUDA graphs that share one pool of memory: a result is to be used before the next replay."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._pool = device, torch.cuda.graph_pool_handle()

    def record(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            run()  # libraries take their workspaces at the first call, which must not be recorded
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = run()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay


@dataclass(frozen=True, slots=True)
class Shape:
    """`rows` from the first on, `n` tokens each, attention over the first `reach` slots."""

    rows: int
    n: int
    reach: int
    attention: Attention
    drafting: bool


class _Recorded:
    def __init__(self, tokens: Tensor, positions: Tensor, replay: Callable[[], Tensor]) -> None:
        self.tokens, self.positions, self.replay = tokens, positions, replay


class Graphs:
    """Recorded forwards of one network over one cache. Not thread-safe."""

    def __init__(self, network: Network, cache: KVCache, recorder: Recorder) -> None:
        self._network, self._cache, self._recorder = network, cache, recorder
        self._kept: dict[Shape, _Recorded] = {}
        self._full = False  # there was no memory for more
        self._reaches = reaches(cache.slots)
        device = cache.memory.device
        self._bases = torch.arange(cache.rows, device=device) * cache.heads * cache.slots
        self._heads = torch.arange(cache.heads, device=device) * cache.slots
        self._places = torch.arange(cache.slots, device=device)

    def __len__(self) -> int:
        return len(self._kept)

    def record(self, points: Iterable[OperatingPoint]) -> None:
        """Record every forward that cycles of these points run, the largest first: what those need of the pool is
        enough for the others. Where memory runs out, what is left runs unrecorded."""
        wanted = [shape for shape in self._shapes(points) if shape not in self._kept]
        for number, shape in enumerate(wanted):
            if number % max(1, len(wanted) // 10) == 0:
                _log.info("recording forwards: %d of %d", number, len(wanted))
            try:
                self._kept[shape] = self._record(shape)
            except torch.OutOfMemoryError as exc:
                self._full = True
                _log.warning("%d of %d forwards run unrecorded: %s", len(wanted) - number, len(wanted), exc)
                return
        _log.info("recorded %d forwards", len(wanted))

    def _shapes(self, points: Iterable[OperatingPoint]) -> list[Shape]:
        forwards = {forward for point in points for forward in _forwards(point, self._network.drafter is not None)}
        sizes = product(row_sizes(self._cache.rows), self._reaches, forwards)
        shapes = [Shape(rows, n, reach, attention, drafting) for rows, reach, (n, attention, drafting) in sizes]
        return sorted(shapes, key=lambda s: (s.rows * s.n, s.rows * s.reach), reverse=True)

    def hidden(self, tokens: Tensor, window: Window, attention: Attention, drafting: bool) -> Tensor | None:
        """tokens `[b, n]` -> `[b, n, hidden]`, overwritten by the next call; None for rows that are not leading, and
        for what there was no memory to record. Records what it meets first: points configured since the start."""
        count, n = tokens.shape
        if not window.leading:
            return None
        rows, reach = bucket(count, self._cache.rows), self._reaches[bisect_left(self._reaches, window.reach)]
        shape = Shape(rows, n, reach, attention, drafting and self._network.drafter is not None)
        if shape not in self._kept:
            if self._full:
                return None
            self._kept[shape] = self._record(shape)
        recorded = self._kept[shape]
        recorded.tokens[:count] = tokens
        recorded.positions[:count] = window.positions
        if count < rows:
            recorded.positions[count:] = self._places[-n:]
        return recorded.replay()[:count]

    def _record(self, shape: Shape) -> _Recorded:
        tokens = torch.full((shape.rows, shape.n), self._network.config.mask_token_id, device=self._places.device)
        # Recording runs the forward: until the first real inputs, every row writes where nobody's state is.
        positions = self._places[-shape.n :].repeat(shape.rows, 1)
        replay = self._recorder.record(lambda: self._run(shape, tokens, positions))
        return _Recorded(tokens, positions, replay)

    def _run(self, shape: Shape, tokens: Tensor, positions: Tensor) -> Tensor:
        """The forward as the primitive runs it, with every size given by `shape`."""
        cache = self._cache
        network = self._network.drafter or self._network if shape.drafting else self._network
        slots = self._bases[: shape.rows, None, None] + self._heads[:, None] + positions[:, None]
        last = positions if shape.attention is Attention.CAUSAL else positions[:, -1:]
        unseen = self._places[: shape.reach] > last[:, None, :, None]
        mask = torch.zeros(unseen.shape, dtype=cache.memory.dtype, device=tokens.device)
        mask.masked_fill_(unseen, -torch.inf)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            cache.write(layer, slots, k, v)
            keys = cache.keys[layer][: shape.rows, :, : shape.reach]
            values = cache.values[layer][: shape.rows, :, : shape.reach]
            return grouped(q, keys, values, mask)

        return network.hidden(tokens, positions, attend, cache.slots)


def grouped(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """q `[b, heads, n, head_dim]`, keys and values `[b, kv_heads, reach, head_dim]`, mask `[b, 1, n or 1, reach]`.

    The heads that share a KV head attend as if they were further queries of it: nothing is copied, and every kernel
    can do it, which is not so for grouped heads.
    """
    b, heads, n, _ = q.shape
    shared = heads // keys.shape[1]
    if mask is not None and n > 1:
        mask = mask.expand(-1, -1, n, -1).repeat(1, 1, shared, 1)
    folded = q.reshape(b, keys.shape[1], shared * n, -1)
    return F.scaled_dot_product_attention(folded, keys, values, mask).reshape(q.shape)


def bucket(count: int, most: int) -> int:
    """The smallest of 1, 2, 3, 4, 6, 8, 12, 16 ... that holds `count`, at most `most`."""
    size = 1
    while size < count:
        size = size * 2 if size == 1 else (size // 2 * 3 if size & (size - 1) == 0 else size // 3 * 4)
    return min(size, most)


def row_sizes(most: int) -> list[int]:
    """All buckets up to `most` rows."""
    return sorted({bucket(count, most) for count in range(1, most + 1)})


def reaches(slots: int) -> list[int]:
    """Slots over which recorded attention reads: 256, 512, 1024 ... and all of them."""
    sizes, size = [], SHORTEST_REACH
    while size * WORTH_A_REACH <= slots:
        sizes.append(size)
        size *= 2
    return [*sizes, slots]


def _forwards(point: OperatingPoint, adapter: bool) -> list[tuple[int, Attention, bool]]:
    """Width, attention and whether the draft adapter is on, of each forward in a cycle of the point. Quadratic ones
    are not recorded."""
    n = point.block_length
    match point.mode:
        case Mode.AR:
            return [(1, Attention.CAUSAL, False)]
        case Mode.SELF_SPECULATION:
            return [(n, Attention.BLOCK, adapter), (n, Attention.CAUSAL, False)]
        case Mode.DIFFUSION:
            return [(n, Attention.BLOCK, False), (n, Attention.CAUSAL, False)]
        case Mode.QUADRATIC:
            return []
