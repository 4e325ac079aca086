"""Rows of the cache change owners so that those who run together lie together: attention then reads without copying.

Which exchanges are needed is `plan.swaps`'s. Pages are read wherever they lie: over those, nothing moves.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

from trimode_workers.engine.cache import KVCache
from trimode_workers.engine.layouts import Cache
from trimode_workers.engine.plan import swaps
from trimode_workers.engine.sequence import Sequence
from trimode_workers.engine.window import spans


def close_gaps(cache: Cache, running: Seq[Sequence]) -> None:
    """Move rows so that those in use follow one another."""
    if not isinstance(cache, KVCache):
        return
    while (free := cache.lowest_free()) is not None and free < len(running):
        # Attention reads a slice of leading rows as a view: a gap would have every layer copy keys and values.
        last = max(running, key=lambda s: s.row)
        last.row = cache.move(last.row, last.cached)


def line_up(cache: Cache, running: Seq[Sequence], groups: Seq[list[Sequence]]) -> None:
    """Exchange rows so that each group is a run of rows, in ascending order. Rows in use follow one another."""
    if not isinstance(cache, KVCache):
        return
    # Rows that follow one another are read as a view, others are copied in every layer; but a group that attends in
    # several spans, by length, is copied wherever it lies. Moved all the same, where prompts had the rows between, AR
    # at 64 requests took 2 % longer.
    if all(
        members[-1].row - members[0].row == len(members) - 1 or len(spans([s.cached for s in members])[1]) > 1
        for members in groups
    ):
        return
    # The groups go into the first rows, one after the other.
    grouped = {s for group in groups for s in group}
    rest = [s for s in running if s not in grouped]
    by_row = {s.row: s for s in running}
    for a, b in swaps([[s.row for s in group] for group in (*groups, rest)]):
        first, second = by_row[a], by_row[b]
        cache.swap(a, b, max(first.cached, second.cached))
        first.row, second.row = b, a
        by_row[a], by_row[b] = second, first
    for group in groups:
        group.sort(key=lambda s: s.row)
