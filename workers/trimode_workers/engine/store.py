"""The page store: causal state of prompts and answers, kept beyond the requests that made it.

A running sequence works in a row of its own, because attention over pages gathered by a table costs 5 to 18 % of an
autoregressive forward of 64 requests on a CPU (`figures`); the store holds copies in pages of `PAGE_TOKENS` tokens,
under keys made of their tokens and all before. Only causal state is ever kept, so a page serves every mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from trimode_api.prefix import PAGE_TOKENS, Key, extend
from trimode_workers.engine.cache import KVCache
from trimode_workers.engine.page_pool import PagePool, Pages
from trimode_workers.engine.paged_cache import PagedCache
from trimode_workers.engine.sequence import Sequence


class PageStore:
    """Pages of `cache`'s shapes for up to `tokens` tokens. `memory` is `[pages, layers, 2, kv_heads, PAGE_TOKENS,
    head_dim]`: a page is one run of memory. On a CPU the system backs it as it fills."""

    def __init__(self, cache: KVCache, tokens: int) -> None:
        self.index = Pages(tokens // PAGE_TOKENS)
        self._cache = cache
        layers, pair, _, heads, _, size = cache.memory.shape
        shape = (self.index.count, layers, pair, heads, PAGE_TOKENS, size)
        self.memory = torch.empty(shape, dtype=cache.memory.dtype, device=cache.memory.device)

    def problems(self) -> list[str]:
        """What does not hold of the index, in words."""
        return self.index.problems()

    def found(self, sequence: Sequence) -> int:
        """Pages that are here behind those that it has cached."""
        return found(sequence, self.index.__contains__)

    def fill(self, sequence: Sequence, pages: int) -> None:
        """Copy that many of the pages `found` into the sequence's row, and count them as cached."""
        first = sequence.cached // PAGE_TOKENS
        numbers = self.index.use(chain(sequence, first + pages)[: first + pages], first)
        row = self._cache.pages[sequence.row, first:]
        for at, number, count in runs(numbers):
            row[at : at + count].copy_(self.memory[number : number + count])
        sequence.cached = (first + pages) * PAGE_TOKENS

    def keep(self, sequence: Sequence) -> None:
        """Copy what is missing here of the whole pages that the sequence has cached."""
        # Only whole pages: a key is a hash of a full page and the key before it, so equal keys mean equal beginnings
        # everywhere.
        whole = min(sequence.cached // PAGE_TOKENS, self.index.count)
        if not whole:
            return
        there, numbers = self.index.keep(chain(sequence, whole)[:whole])
        row = self._cache.pages[sequence.row, there:]
        for at, number, count in runs(numbers):
            self.memory[number : number + count].copy_(row[at : at + count])


def runs(numbers: list[int]) -> Iterator[tuple[int, int, int]]:
    """Consecutive numbers in one piece: (place in the list, first number, how many). Copying ten pages in one piece
    takes a third of the time, and the pages of a prompt mostly follow one another."""
    begin = 0
    for at in range(1, len(numbers) + 1):
        if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
            yield begin, numbers[begin], at - begin
            begin = at


def found(sequence: Sequence, known: Callable[[Key], bool]) -> int:
    """Known pages of what `sequence` has not cached, from the first page on that it has not whole."""
    if sequence.unscored:
        return 0
    first = at = sequence.cached // PAGE_TOKENS
    # Keys are made as they are asked for: of a prompt that nobody had before, one.
    while at < (len(sequence.tokens) - 1) // PAGE_TOKENS and known(chain(sequence, at + 1)[at]):
        at += 1
    return at - first


def chain(sequence: Sequence, pages: int) -> list[Key]:
    """The sequence's keys, at least of its first `pages` pages."""
    extend(sequence.keys, sequence.tokens, pages, sequence.root)
    return sequence.keys


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
