"""Forwards of fixed shape, recorded once and replayed: what a GPU needs when few requests run.

A forward of an 8B is 630 to 730 kernels; asking for them one by one takes the processor longer than the GPU needs to
run them for a small batch. A CUDA graph asks for all of them at once, but always with the same shapes and addresses.
So batches are padded to a few sizes and inputs, tables and lengths among them, are copied into place. A row that only
pads has the page that belongs to no one.

All shapes of the configured points are recorded before the engine is ready. Recorded as they are met, each would stop
the whole batch for two forwards and `torch.cuda.graph`'s emptying of the allocator's cache.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import accumulate, product
from typing import Protocol

import torch
from torch import Tensor

from trimode_api.modes import OperatingPoint
from trimode_api.prefix import PAGE_TOKENS
from trimode_workers.engine.attention import Attention
from trimode_workers.engine.footprint import MOST_TOKENS
from trimode_workers.engine.forward import forward, forward_groups
from trimode_workers.engine.paged_cache import PagedCache, PagedPlan, pages_for
from trimode_workers.engine.shapes import Shape, bucket, forwards, line_of, lines, reaches, row_sizes
from trimode_workers.model.decoder import Network

_log = logging.getLogger(__name__)


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


class FixedPlan(PagedPlan):
    """A plan of a shape whose tensors stay where they are: `rows` blocks of `n` tokens, or a line of so many tokens of
    any rows. Its tables have `reach` slots."""

    fixed = True

    def __init__(self, cache: PagedCache, shape: Shape) -> None:
        rows, n, device, scrap = shape.rows, shape.n, cache.memory.device, cache.pool.total
        total = shape.line or rows * n
        self.cache, self.reach, self.widest = cache, shape.reach, shape.line or n
        self._n, self._scrap, self._line = n, scrap, shape.line
        self.positions = torch.zeros((1, total) if shape.line else (rows, n), dtype=torch.int64, device=device)
        self.slots = torch.zeros(total, dtype=torch.int64, device=device)
        self.table = torch.full((rows, pages_for(shape.reach)), scrap, dtype=torch.int32, device=device)
        self.seen = torch.zeros(rows, dtype=torch.int32, device=device)
        self.starts = torch.zeros(rows + 1, dtype=torch.int32, device=device)
        self._mask = None
        self._fill([], [], [])

    def load(self, plan: PagedPlan) -> None:
        """Stand for that plan, of as many rows and tokens or fewer."""
        self._fill(plan.pages, plan.ends, plan.counts)
        used = plan.slots.shape[0]
        self.positions.view(-1)[:used] = plan.positions.view(-1)
        self.slots[:used] = plan.slots
        # What a row's table says behind its reach is never read as state: a kernel stops at `seen`.
        self.table[: len(plan.counts), : plan.table.shape[1]] = plan.table

    def _fill(self, pages: list[list[int]], ends: list[int], counts: list[int]) -> None:
        """Rows and tokens as given, and behind them those that only pad: in a line all of the last row's."""
        more, spare = len(self.seen) - len(counts), self.slots.shape[0] - sum(counts)
        own = [*[0] * (more - 1), spare] if self._line else [self._n] * more
        lengths = [max(count, 1) for count in own]  # no row without a key: of those kernels make what they like
        self.counts, self.ends = [*counts, *own], [*ends, *lengths]
        self.pages = [*pages, *([self._scrap] * pages_for(length) for length in lengths)]
        device = self.seen.device
        told = torch.tensor([*self.ends, 0, *accumulate(self.counts)], dtype=torch.int32).to(device)
        self.seen.copy_(told[: len(self.ends)])
        self.starts.copy_(told[len(self.ends) :])
        self.table[len(counts) :] = self._scrap
        padding = torch.arange(spare, device=device)
        padding = padding if self._line else padding % self._n
        self.positions.view(-1)[self.slots.shape[0] - spare :] = padding
        # Many of them have one slot, of which the last write is not defined: it is in the page that nobody reads.
        self.slots[self.slots.shape[0] - spare :] = self._scrap * PAGE_TOKENS + padding % PAGE_TOKENS


@dataclass(frozen=True, slots=True)
class _Recorded:
    tokens: Tensor
    plan: FixedPlan
    replay: Callable[[], Tensor]


class Graphs:
    """Recorded forwards of one network over one paged cache. Not thread-safe."""

    def __init__(self, network: Network, cache: PagedCache, recorder: Recorder) -> None:
        self._network, self._cache, self._recorder = network, cache, recorder
        # All are kept. When only 128 were, shapes that came back were recorded again, for which the whole batch waited.
        # None: there was no memory for it.
        self._kept: dict[Shape, _Recorded | None] = {}
        self._reaches = reaches(cache.slots)

    def __len__(self) -> int:
        return sum(recorded is not None for recorded in self._kept.values())

    def record(self, points: Iterable[OperatingPoint], longest: int) -> None:
        """Record every forward that cycles of these points run, with up to `longest` tokens of rows and prompts in a
        line. One for which there is no memory runs unrecorded."""
        adapter, found = self._network.drafter is not None, set[Shape]()
        for reach in self._reaches:
            # Where the kernel reads tables, AR, S8, S16 and S32 at 64 requests have 84 shapes (12 numbers of rows, 7
            # forwards) and up to 18 lines; where it gathers pages, as many for each reach.
            # Unrecorded, a forward of 34 layers costs the processor 7 ms for 64 rows and 8 with a prompt beside them,
            # measured with tensors of no size: longer than an H200 would take for the whole cycle.
            found |= {self._line(tokens, reach) for tokens in lines(longest)}
            for rows, point in product(row_sizes(self._cache.rows), points):
                found |= {self._of(s) for s in forwards(point, rows, reach, adapter) if s.recordable}
        # The largest first: what those need of the pool is enough for the others.
        wanted = sorted(found, key=lambda s: (s.tokens, s.rows * s.reach), reverse=True)
        for number, shape in enumerate(wanted):
            if number % max(1, len(wanted) // 10) == 0:
                _log.info("recording forwards: %d of %d", number, len(wanted))
            self._recorded(shape)
        short = sum(self._kept[shape] is None for shape in wanted)
        if short:
            _log.warning("no memory to record %d of %d forwards: they run unrecorded", short, len(wanted))
        _log.info("recorded %d forwards", len(wanted) - short)

    def hidden(self, tokens: Tensor, plan: PagedPlan, attention: Attention, drafting: bool) -> Tensor | None:
        """tokens of the shape of the plan's positions -> hidden states, overwritten by the next call; None for what is
        not recorded. Records what it meets first: points configured since the start."""
        if plan.line:
            total = tokens.numel()
            hidden = self._replay(self._line(total, plan.reach), tokens, plan) if total <= MOST_TOKENS else None
            return None if hidden is None else hidden[:, :total]
        # Without an adapter a draft is the forward that diffusion runs: one recording serves both.
        drafting = drafting and self._network.drafter is not None
        rows, n = self._padded(tokens), tokens.shape[1]
        return self._rows(Shape(rows, n, plan.reach, attention, drafting), tokens, plan)

    def grouped_hidden(self, tokens: Tensor, plan: PagedPlan, masks: int) -> Tensor | None:
        """The same of a quadratic forward, tokens `[b, n * (1 + masks)]`."""
        n = plan.positions.shape[1]
        return self._rows(Shape(self._padded(tokens), n, plan.reach, Attention.CAUSAL, masks=masks), tokens, plan)

    def _padded(self, tokens: Tensor) -> int:
        return bucket(tokens.shape[0], self._cache.rows)

    def _rows(self, shape: Shape, tokens: Tensor, plan: PagedPlan) -> Tensor | None:
        hidden = self._replay(self._of(shape), tokens, plan) if shape.recordable else None
        return None if hidden is None else hidden[: tokens.shape[0]]

    def _of(self, shape: Shape) -> Shape:
        """The shape that stands for that one: tables are inputs, so reach counts only where they are gathered."""
        gathers = shape.masks or self._cache.kernel.gathers
        return replace(shape, reach=self._reach(shape.reach) if gathers else self._cache.slots)

    def _line(self, tokens: int, reach: int) -> Shape:
        """What so many tokens of any rows are padded to; the row that pads may be as long."""
        line = line_of(tokens)
        reach = max(self._reach(reach) if self._cache.kernel.gathers else self._cache.slots, line)
        return Shape(min(self._cache.rows, line) + 1, 1, reach, Attention.CAUSAL, line=line)

    def _reach(self, reach: int) -> int:
        return self._reaches[bisect_left(self._reaches, reach)]

    def _recorded(self, shape: Shape) -> _Recorded | None:
        """The forward of that shape, recorded where it is not yet; None where there is no memory for it."""
        if shape in self._kept:
            return self._kept[shape]
        network = self._network.drafter or self._network if shape.drafting else self._network
        size = (1, shape.line) if shape.line else (shape.rows, shape.n * (1 + shape.masks))
        found: _Recorded | None
        try:
            plan = FixedPlan(self._cache, shape)
            tokens = torch.full(size, network.config.mask_token_id, device=plan.slots.device)
            plan.prepare(shape.attention)

            def run() -> Tensor:
                if shape.masks:
                    return forward_groups(network, tokens, plan, shape.masks)
                return forward(network, tokens, plan, shape.attention)

            found = _Recorded(tokens, plan, self._recorder.record(run))
        # Unrecorded is slow (2 to 7 ms of processor time per forward of the 8B), but it serves; a replica that does not
        # start serves nothing.
        except torch.OutOfMemoryError:
            found = None
        self._kept[shape] = found
        return found

    def _replay(self, shape: Shape, tokens: Tensor, plan: PagedPlan) -> Tensor | None:
        recorded = self._recorded(shape)
        if recorded is None:
            return None
        recorded.tokens.view(-1)[: tokens.numel()] = tokens.reshape(-1)
        recorded.plan.load(plan)
        # FlashInfer plans on the processor, for lengths that are new each time: not within the recording.
        recorded.plan.prepare(shape.attention)
        return recorded.replay()
