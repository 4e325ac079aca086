"""Forwards of fixed shape, recorded once and replayed: what a GPU needs when few requests run.

A forward of an 8B is more than 550 kernels; asking for them one by one takes the processor longer than the GPU needs to
run them for a small batch. A CUDA graph asks for all of them at once, but always with the same shapes and addresses.
So batches are padded to a few sizes, what attention reads is padded likewise, and inputs are copied into place.

A row that only pads is a row behind the batch. It may be another request's, prefilled or of another group: its keys
and values are written behind the longest sequence that a row may hold, where nobody's state ever is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from trimode_workers.engine.cache import KVCache
from trimode_workers.engine.window import Attention, Window
from trimode_workers.model.decoder import Network

MOST = 128
"""Graphs kept; the one unused for longest goes."""
SHORTEST_REACH = 256
"""Slots; also what longer ones are multiples of, as attention with a mask wants its rows aligned."""


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
        self._kept: OrderedDict[Shape, _Recorded] = OrderedDict()
        device = cache.memory.device
        self._bases = torch.arange(cache.rows, device=device) * cache.heads * cache.slots
        self._heads = torch.arange(cache.heads, device=device) * cache.slots
        self._places = torch.arange(cache.slots, device=device)

    def __len__(self) -> int:
        return len(self._kept)

    def hidden(self, tokens: Tensor, window: Window, attention: Attention, drafting: bool) -> Tensor | None:
        """tokens `[b, n]` -> `[b, n, hidden]`, overwritten by the next call; None for rows that are not leading."""
        count, n = tokens.shape
        if not window.leading:
            return None
        rows, reach = bucket(count, 1, self._cache.rows), bucket(window.reach, SHORTEST_REACH, self._cache.slots)
        recorded = self._of(Shape(rows, n, reach, attention, drafting))
        recorded.tokens[:count] = tokens
        recorded.positions[:count] = window.positions
        if count < rows:
            recorded.positions[count:] = self._places[-n:]
        return recorded.replay()[:count]

    def _of(self, shape: Shape) -> _Recorded:
        if shape not in self._kept:
            if len(self._kept) >= MOST:
                self._kept.popitem(last=False)
            self._kept[shape] = self._record(shape)
        self._kept.move_to_end(shape)
        return self._kept[shape]

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


def bucket(count: int, least: int, most: int) -> int:
    """The smallest of `least` times 1, 2, 3, 4, 6, 8, 12, 16 ... that holds `count`, at most `most`."""
    size = least
    while size < count:
        size = size * 2 if size == least else (size // 2 * 3 if size & (size - 1) == 0 else size // 3 * 4)
    return min(size, most)
