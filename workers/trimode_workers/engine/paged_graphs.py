"""Recorded forwards over pages: keyed by rows and width alone, since tables and lengths are inputs; by reach too
where the kernel gathers whole tables.

Belongs here: the fixed plan that a recording reads, and filling it before each replay. Batches are padded as over
rows; a row that only pads has the page that belongs to no one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from trimode_api.modes import OperatingPoint
from trimode_api.prefix import PAGE_TOKENS
from trimode_workers.engine.attention import Attention, Plan
from trimode_workers.engine.footprint import MOST_TOKENS
from trimode_workers.engine.graphs import Recorder
from trimode_workers.engine.paged_cache import PagedCache, PagedPlan, pages_for
from trimode_workers.engine.recordings import Recordings
from trimode_workers.engine.shapes import Shape, bucket, forwards, reaches, row_sizes
from trimode_workers.model.decoder import Network


class FixedPlan(PagedPlan):
    """A plan of `rows` blocks of `n` tokens whose tensors stay where they are. Its tables have `reach` slots."""

    fixed = True

    def __init__(self, cache: PagedCache, rows: int, n: int, reach: int) -> None:
        device, scrap = cache.memory.device, cache.pool.total
        self.cache, self.counts, self.widest, self.reach = cache, [n] * rows, n, reach
        self._n, self._scrap = n, [scrap] * pages_for(n)
        self.pages, self.ends = [self._scrap] * rows, [n] * rows
        self._own = torch.arange(n, device=device)
        self.positions = self._own.repeat(rows, 1)
        self.slots = (scrap * PAGE_TOKENS + self._own % PAGE_TOKENS).repeat(rows)
        self.table = torch.full((rows, pages_for(reach)), scrap, dtype=torch.int32, device=device)
        self.seen = torch.full((rows,), n, dtype=torch.int32, device=device)
        self.starts = torch.arange(0, rows * n + 1, n, dtype=torch.int32, device=device)
        self._mask = None

    def load(self, plan: PagedPlan) -> None:
        """Stand for that plan, of as many rows or fewer."""
        count, total = len(plan.counts), len(self.counts)
        self.pages = [*plan.pages, *[self._scrap] * (total - count)]
        self.ends = [*plan.ends, *[self._n] * (total - count)]
        self.positions[:count] = plan.positions
        self.positions[count:] = self._own
        self.slots[: count * self._n] = plan.slots
        self.slots[count * self._n :] = self._scrap[0] * PAGE_TOKENS
        # What a row's table says behind its reach is never read as state: a kernel stops at `seen`.
        self.table[:count, : plan.table.shape[1]] = plan.table
        self.table[count:, : len(self._scrap)] = self._scrap[0]
        self.seen[:count] = plan.seen
        self.seen[count:] = self._n


@dataclass(frozen=True, slots=True)
class _Recorded:
    tokens: Tensor
    plan: FixedPlan
    replay: Callable[[], Tensor]


class PagedGraphs:
    """Recorded forwards of one network over one paged cache. Not thread-safe."""

    def __init__(self, network: Network, cache: PagedCache, recorder: Recorder) -> None:
        self._network, self._cache, self._recorder = network, cache, recorder
        self._recordings = Recordings(self._record)
        self._reaches = reaches(cache.slots) if cache.kernel.gathers else [cache.slots]

    def __len__(self) -> int:
        return len(self._recordings)

    def record(self, points: Iterable[OperatingPoint]) -> None:
        """Record every forward that cycles of these points run. One for which there is no memory runs unrecorded."""
        adapter = self._network.drafter is not None
        sizes = list(product(row_sizes(self._cache.rows), self._reaches))
        found = {s for point in points for rows, reach in sizes for s in forwards(point, rows, reach, adapter)}
        self._recordings.make(s for s in found if _recordable(s))

    def hidden(self, tokens: Tensor, plan: Plan, attention: Attention, drafting: bool) -> Tensor | None:
        """tokens `[b, n]` -> `[b, n, hidden]`, overwritten by the next call; None for what is not recorded."""
        if not isinstance(plan, PagedPlan):
            raise TypeError(f"recorded forwards over pages take their blocks, not {type(plan).__name__}")
        count, n = tokens.shape
        drafting = drafting and self._network.drafter is not None
        reach = self._reaches[bisect_left(self._reaches, plan.reach)]
        shape = Shape(bucket(count, self._cache.rows), n, reach, attention, drafting)
        recorded = self._recordings.of(shape) if _recordable(shape) else None
        if recorded is None:
            return None
        recorded.tokens[:count] = tokens
        recorded.plan.load(plan)
        recorded.plan.prepare(attention)
        return recorded.replay()[:count]

    def grouped_hidden(self, tokens: Tensor, plan: Plan, masks: int) -> Tensor | None:
        """None: quadratic forwards, which need a mask, are not recorded over pages."""
        return None

    def _record(self, shape: Shape) -> _Recorded:
        plan = FixedPlan(self._cache, shape.rows, shape.n, shape.reach)
        tokens = torch.full_like(plan.positions, self._network.config.mask_token_id)
        network = self._network.drafter or self._network if shape.drafting else self._network
        plan.prepare(shape.attention)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            plan.write(layer, k, v)
            return plan.attend(layer, q, shape.attention)

        replay = self._recorder.record(lambda: network.hidden(tokens, plan.positions, attend, plan.reach))
        return _Recorded(tokens, plan, replay)


def _recordable(shape: Shape) -> bool:
    return shape.tokens <= MOST_TOKENS and not shape.masks
