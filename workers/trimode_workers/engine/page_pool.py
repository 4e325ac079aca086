"""Pure: pages of causal state by key (`trimode_api.prefix`): which are kept for others to find, and which go first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from collections.abc import Sequence as Seq
from typing import NamedTuple

from trimode_api.prefix import ROOT, Key


class Kept(NamedTuple):
    """A kept page's number, and the key of the page that it follows (`ROOT`: none)."""

    page: int
    before: Key


class Index:
    """What is kept: pages by key."""

    _kept: dict[Key, Kept]

    def __contains__(self, key: Key) -> bool:
        return key in self._kept

    @property
    def used(self) -> int:
        """Pages that are kept under a key."""
        return len(self._kept)

    def kept(self) -> dict[Key, Kept]:
        """All of them; of `Pages` the least recently used first."""
        return dict(self._kept)


class Pages(Index):
    """Of the page store beside rows: up to `count` pages by key, least recently used first. Chains are keys of a
    prompt's pages from the first on.

    A page is of use only together with all pages before it. So whoever uses or keeps a page uses those before it a
    moment later, and the least recently used page of all is never one that another kept page follows: dropping the
    oldest is always right, and references need not be counted. `problems` checks just that.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._kept: OrderedDict[Key, Kept] = OrderedDict()
        # The last one is taken next. Chains are dropped from their end, so their numbers are taken in order again.
        self._free = list(range(count - 1, -1, -1))

    def use(self, chain: Seq[Key], first: int) -> list[int]:
        """The pages of `chain` from its page `first` on; all of `chain` must be kept."""
        self._touch(chain)
        return [self._kept[key].page for key in chain[first:]]

    def keep(self, chain: Seq[Key]) -> tuple[int, list[int]]:
        """Make room for what is missing of `chain`, which is its end: (pages that are there, numbers of the others,
        which the caller now fills). The end of a chain longer than everything is left out."""
        chain = chain[: self.count]
        there = next((at for at, key in enumerate(chain) if key not in self._kept), len(chain))
        self._touch(chain[:there])
        missing = len(chain) - there
        while len(self._free) < missing:
            _, oldest = self._kept.popitem(last=False)
            self._free.append(oldest.page)
        pages = [self._free.pop() for _ in range(missing)]
        # From the end on, so that each page is older than the one that it follows.
        for at in range(len(chain) - 1, there - 1, -1):
            self._kept[chain[at]] = Kept(pages[at - there], chain[at - 1] if at else ROOT)
        # Once more: what has just come in must not be younger than the pages before it.
        if missing:
            self._touch(chain[:there])
        return there, pages

    def problems(self) -> list[str]:
        """What does not hold of the index, in words; nothing where all is well."""
        numbers = [kept.page for kept in self._kept.values()]
        found = []
        if sorted([*numbers, *self._free]) != list(range(self.count)):
            found.append(
                f"pages used {sorted(numbers)} and free {sorted(self._free)} are not each of {self.count} once"
            )
        younger: set[Key] = set()
        for key, kept in reversed(self._kept.items()):
            if kept.before != ROOT and kept.before not in younger:
                found.append(f"page {kept.page} follows one that is older or gone")
            younger.add(key)
        return found

    def _touch(self, chain: Seq[Key]) -> None:
        for key in reversed(chain):
            self._kept.move_to_end(key)


class PagePool(Index):
    """Of a paged cache: `total` pages, of which `most_kept` are kept at a time.

    A page is held by rows, kept under a key, or both. Held pages stay. Of those that are only kept the least recently
    held goes when a page is wanted: a row that holds a kept page holds all kept pages before it in the chain, and lets
    go of its pages from the last on, so a page never goes before those that follow it.
    """

    def __init__(self, total: int, most_kept: int) -> None:
        self.total, self.count = total, min(total, most_kept)
        self._holders = [0] * total
        self._kept: dict[Key, Kept] = {}
        self._key: dict[int, Key] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # kept and held by none, the next to go first
        self._free = list(range(total - 1, -1, -1))

    def take(self) -> int:
        """A page for one holder. IndexError where all are held: planning admits no more than there are."""
        if not self._free:
            self._forget_oldest()
        page = self._free.pop()
        self._holders[page] = 1
        return page

    def hold(self, chain: Iterable[Key]) -> list[int]:
        """The kept pages of these keys, each held once more. KeyError for one that is not kept."""
        pages = [self._kept[key].page for key in chain]
        for page in pages:
            self._holders[page] += 1
            self._idle.pop(page, None)
        return pages

    def drop(self, pages: Seq[int]) -> None:
        """Let go of a row's pages, in the order of its tokens."""
        for page in reversed(pages):
            self._holders[page] -= 1
            if self._holders[page]:
                continue
            if page in self._key:
                self._idle[page] = None
            else:
                self._free.append(page)

    def keep(self, chain: Seq[Key], pages: list[int]) -> list[int]:
        """Keep a row's first pages, which it holds, under the keys of its chain. Returns the pages that it holds from
        now on: where a key is kept already, the page that is, so that one copy stays."""
        now = list(pages)
        for at, key in enumerate(chain):
            if key in self._kept:
                if self._kept[key].page != pages[at]:
                    now[at] = self.hold([key])[0]
                    self.drop([pages[at]])
                continue
            if self.used >= self.count and not self._forget_oldest():
                break
            self._kept[key] = Kept(pages[at], chain[at - 1] if at else ROOT)
            self._key[pages[at]] = key
        return now

    def problems(self, tables: Iterable[Seq[int]] = ()) -> list[str]:
        """What does not hold, in words; nothing where all is well. `tables`: the pages of each row."""
        found = []
        holders = [0] * self.total
        for table in tables:
            for page in table:
                holders[page] += 1
        if holders != self._holders:
            found.append(f"holders are counted as {self._holders}, rows hold {holders}")
        here = [page for page in range(self.total) if self._holders[page]]
        if sorted([*here, *self._idle, *self._free]) != list(range(self.total)):
            found.append(f"pages held {here}, idle {list(self._idle)} and free {sorted(self._free)} are not each once")
        if {kept.page: key for key, kept in self._kept.items()} != self._key:
            found.append("keys and pages do not agree")
        idle = {page: at for at, page in enumerate(self._idle)}
        for kept in self._kept.values():
            before = self._kept.get(kept.before)
            if before is None and kept.before != ROOT:
                found.append(f"page {kept.page} follows one that is gone")
            elif before is not None and before.page in idle and idle[before.page] < idle.get(kept.page, self.total):
                found.append(f"page {before.page} goes before page {kept.page}, which follows it")
        return found

    def _forget_oldest(self) -> bool:
        """Free the kept page that was held the longest ago; False where all kept pages are held."""
        if not self._idle:
            return False
        page, _ = self._idle.popitem(last=False)
        del self._kept[self._key.pop(page)]
        self._free.append(page)
        return True
