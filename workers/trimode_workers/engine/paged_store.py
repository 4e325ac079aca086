"""What `store.PageStore` does for rows, over pages that are the cache: shared beginnings without copies.

Belongs here: from sequences to keys and tables. Which pages are kept is `page_pool`'s.
"""

from __future__ import annotations

from torch import Tensor

from trimode_api.prefix import PAGE_TOKENS
from trimode_workers.engine.page_pool import PagePool
from trimode_workers.engine.paged_cache import PagedCache
from trimode_workers.engine.sequence import Sequence
from trimode_workers.engine.store import chain, found


class PagedStore:
    """The pages of `cache` by what they hold."""

    def __init__(self, cache: PagedCache) -> None:
        self._cache = cache

    @property
    def index(self) -> PagePool:
        return self._cache.pool

    @property
    def memory(self) -> Tensor:
        """`[pages, layers, 2, kv_heads, PAGE_TOKENS, head_dim]`."""
        return self._cache.memory.permute(2, 0, 1, 4, 3, 5)

    def found(self, sequence: Sequence) -> int:
        """Pages that are here behind those that it has cached."""
        return found(sequence, self.index.__contains__)

    def fill(self, sequence: Sequence, pages: int) -> None:
        """Let the sequence's row begin with that many of the pages `found`, and count them as cached."""
        whole = sequence.cached // PAGE_TOKENS + pages
        # Also those before them, which it may have computed itself: a row that holds a page has to hold all before it.
        shared = self.index.hold(chain(sequence, whole)[:whole])
        own = self._cache.tables[sequence.row]
        self.index.drop(own)
        self._cache.set_table(sequence.row, shared)
        sequence.cached = whole * PAGE_TOKENS

    def keep(self, sequence: Sequence) -> None:
        """Let others find the whole pages that the sequence has cached."""
        whole = sequence.cached // PAGE_TOKENS
        if whole and self.index.count:
            table = self._cache.tables[sequence.row]
            kept = self.index.keep(chain(sequence, whole)[:whole], table)
            if kept != table:
                self._cache.set_table(sequence.row, kept)

    def problems(self) -> list[str]:
        """What does not hold of pages and tables, in words."""
        return self.index.problems(self._cache.tables)
