"""Pure: which pages of causal state are kept, and which go first.

Belongs here: the index of the page store, keys (`trimode_api.prefix`) to page numbers. It knows no tensors.

A page is of use only together with all pages before it. So whoever uses or keeps a page uses those before it a moment
later, and the least recently used page of all is never one that another kept page follows: dropping the oldest is
always right, and nobody has to count references. `problems` checks just that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence as Seq
from typing import NamedTuple

from trimode_api.prefix import ROOT, Key


class Kept(NamedTuple):
    """A kept page's number, and the key of the page that it follows (`ROOT`: none)."""

    page: int
    before: Key


class Pages:
    """Up to `count` pages by key, least recently used first. Chains are keys of a prompt's pages from the first on."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._kept: OrderedDict[Key, Kept] = OrderedDict()
        # The last one is taken next. Chains are dropped from their end, so their numbers are taken in order again.
        self._free = list(range(count - 1, -1, -1))

    def __contains__(self, key: Key) -> bool:
        return key in self._kept

    @property
    def used(self) -> int:
        """Pages that hold something."""
        return len(self._kept)

    def kept(self) -> dict[Key, Kept]:
        """All of them, least recently used first."""
        return dict(self._kept)

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
        for at in range(len(chain) - 1, there - 1, -1):
            self._kept[chain[at]] = Kept(pages[at - there], chain[at - 1] if at else ROOT)
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
