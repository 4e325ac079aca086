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

from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import product
from typing import Protocol

import torch
from torch import Tensor

from trimode_api.modes import OperatingPoint
from trimode_workers.engine.attention import Attention, Plan, grouped
from trimode_workers.engine.cache import KVCache
from trimode_workers.engine.groups import Groups
from trimode_workers.engine.recordings import Recordings
from trimode_workers.engine.shapes import MOST_GROUPED, Shape, bucket, forwards, reaches, row_sizes
from trimode_workers.engine.window import Window
from trimode_workers.model.decoder import Network


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


class _Recorded:
    def __init__(self, tokens: Tensor, positions: Tensor, replay: Callable[[], Tensor]) -> None:
        self.tokens, self.positions, self.replay = tokens, positions, replay


class Graphs:
    """Recorded forwards of one network over one cache. Not thread-safe."""

    def __init__(self, network: Network, cache: KVCache, recorder: Recorder) -> None:
        self._network, self._cache, self._recorder = network, cache, recorder
        self._recordings = Recordings(self._record)
        self._reaches = reaches(cache.slots)
        device = cache.memory.device
        self._bases = torch.arange(cache.rows, device=device) * cache.heads * cache.slots
        self._heads = torch.arange(cache.heads, device=device) * cache.slots
        self._places = torch.arange(cache.slots, device=device)

    def __len__(self) -> int:
        return len(self._recordings)

    def record(self, points: Iterable[OperatingPoint]) -> None:
        """Record every forward that cycles of these points run. One for which there is no memory runs unrecorded."""
        adapter = self._network.drafter is not None
        sizes = list(product(row_sizes(self._cache.rows), self._reaches))
        self._recordings.make(
            {s for point in points for rows, reach in sizes for s in forwards(point, rows, reach, adapter)}
        )

    def hidden(self, tokens: Tensor, plan: Plan, attention: Attention, drafting: bool) -> Tensor | None:
        """tokens `[b, n]` -> `[b, n, hidden]`, overwritten by the next call; None for rows that are not leading, and
        for what there was no memory to record. Records what it meets first: points configured since the start."""
        window = _window(plan)
        rows, reach = self._padded(window, len(tokens))
        return self._replay(
            Shape(rows, window.n, reach, attention, drafting and self._network.drafter is not None), tokens, window
        )

    def grouped_hidden(self, tokens: Tensor, plan: Plan, masks: int) -> Tensor | None:
        """The same of a quadratic forward, tokens `[b, n * (1 + masks)]`; None also for one that is too large."""
        window = _window(plan)
        rows, reach = self._padded(window, len(tokens))
        shape = Shape(rows, window.n, reach, Attention.CAUSAL, masks=masks)
        return self._replay(shape, tokens, window) if shape.tokens <= MOST_GROUPED else None

    def _padded(self, window: Window, rows: int) -> tuple[int, int]:
        return bucket(rows, self._cache.rows), self._reaches[bisect_left(self._reaches, window.reach)]

    def _replay(self, shape: Shape, tokens: Tensor, window: Window) -> Tensor | None:
        recorded = self._recordings.of(shape) if window.leading else None
        if recorded is None:
            return None
        count = len(tokens)
        recorded.tokens[:count] = tokens
        recorded.positions[:count] = window.positions
        if count < shape.rows:
            recorded.positions[count:] = self._places[-shape.n :]
        return recorded.replay()[:count]

    def _record(self, shape: Shape) -> _Recorded:
        width, device = shape.tokens // shape.rows, self._places.device
        tokens = torch.full((shape.rows, width), self._network.config.mask_token_id, device=device)
        # Recording runs the forward: until the first real inputs, every row writes where nobody's state is.
        positions = self._places[-shape.n :].repeat(shape.rows, 1)
        run = self._run_groups if shape.masks else self._run
        replay = self._recorder.record(lambda: run(shape, tokens, positions))
        return _Recorded(tokens, positions, replay)

    def _run(self, shape: Shape, tokens: Tensor, positions: Tensor) -> Tensor:
        """The forward as the primitive runs it, with every size given by `shape`."""
        cache = self._cache
        network = self._network.drafter or self._network if shape.drafting else self._network
        slots = self._slots(positions)
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

    def _run_groups(self, shape: Shape, tokens: Tensor, positions: Tensor) -> Tensor:
        """The same for `Primitive.forward_groups`."""
        cache, n = self._cache, shape.n
        groups, slots = Groups(positions, shape.masks), self._slots(positions)
        mask = groups.mask(shape.reach, cache.memory.dtype)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            cache.write(layer, slots, k[:, :, :n], v[:, :, :n])
            keys = torch.cat((cache.keys[layer][: shape.rows, :, : shape.reach], k[:, :, n:]), 2)
            values = torch.cat((cache.values[layer][: shape.rows, :, : shape.reach], v[:, :, n:]), 2)
            return grouped(q, keys, values, mask)

        return self._network.hidden(tokens, groups.positions, attend, cache.slots + shape.masks)

    def _slots(self, positions: Tensor) -> Tensor:
        """`[rows, kv_heads, n]` into the flat cache, of the first rows."""
        return self._bases[: len(positions), None, None] + self._heads[:, None] + positions[:, None]


def _window(plan: Plan) -> Window:
    if not isinstance(plan, Window):
        raise TypeError(f"recorded forwards over rows take their blocks, not {type(plan).__name__}")
    return plan
