"""The index of the page store, against a model of it that is a list."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimode_api.prefix import PAGE_TOKENS, prefix_keys
from trimode_workers.engine.invariants import check_pages
from trimode_workers.engine.page_pool import Kept, Pages
from trimode_workers.errors import InvariantBroken


def chain(*pages: int) -> list[bytes]:
    """Keys of a prompt whose pages hold one number each."""
    return prefix_keys([page for page in pages for _ in range(PAGE_TOKENS)])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    count=st.integers(0, 7),
    steps=st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 2), max_size=6)), max_size=40),
)
def test_pages_hold_what_was_put_there_and_the_oldest_leave(count: int, steps: list[tuple[bool, list[int]]]) -> None:
    pages, memory, order = Pages(count), dict.fromkeys(range(count), b""), list[bytes]()
    for keeping, numbers in steps:
        keys = chain(*numbers)
        if keeping:
            there, new = pages.keep(keys)
            keys = keys[:count]
            assert len(new) == len(keys) - there
            assert keys[:there] == [key for key in keys if key in order]
            memory.update(zip(new, keys[there:], strict=True))
        else:
            keys = keys[: next((i for i, key in enumerate(keys) if key not in pages), len(keys))]
            assert [memory[page] for page in pages.use(keys, len(keys) // 2)] == keys[len(keys) // 2 :]
        # The model: most recent last, the beginning of a prompt after its end.
        order = [key for key in order if key not in keys] + keys[::-1]
        order = order[max(0, len(order) - count) :]
        kept = pages.kept()
        assert list(kept) == order
        assert {key: memory[k.page] for key, k in kept.items()} == {key: key for key in order}
        assert pages.used == len(order)
        check_pages(pages.problems())


def damage_twice(pages: Pages) -> None:
    pages._free.append(0)


def damage_lost(pages: Pages) -> None:
    pages._free.pop()


def damage_order(pages: Pages) -> None:
    pages._kept.move_to_end(next(iter(pages._kept)))


def damage_orphan(pages: Pages) -> None:
    key = next(reversed(pages._kept))
    pages._free.append(pages._kept.pop(key).page)


def damage_shared(pages: Pages) -> None:
    first, second = list(pages._kept)[:2]
    pages._free.append(pages._kept[first].page)
    pages._kept[first] = Kept(pages._kept[second].page, pages._kept[first].before)


@pytest.mark.parametrize("damage", [damage_twice, damage_lost, damage_order, damage_orphan, damage_shared])
def test_the_checker_sees_damage(damage: Any) -> None:
    pages = Pages(8)
    pages.keep(chain(1, 2, 3))
    pages.keep(chain(1, 5))
    check_pages(pages.problems())
    damage(pages)
    with pytest.raises(InvariantBroken, match="page store: page"):
        check_pages(pages.problems())
