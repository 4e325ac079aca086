"""Keys of beginnings: equal for equal tokens, everywhere and in every version."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trimode_api.prefix import PAGE_TOKENS, extend, page_key, prefix_keys, root_of

tokens = st.lists(st.integers(0, 2**32 - 1), max_size=5 * PAGE_TOKENS)


def test_keys_are_pinned() -> None:
    """Replicas of different versions serve one fleet."""
    first, second = prefix_keys(list(range(2 * PAGE_TOKENS + 5)))
    assert first.hex() == "1b0cd756b8a49da656091d1fcc620279"
    assert second.hex() == "23c42dc62d8010a50554cd07c5d1c92d"
    assert page_key(first, range(PAGE_TOKENS, 2 * PAGE_TOKENS)) == second


@given(tokens, tokens, st.integers(0, 5))
def test_equal_keys_mean_equal_beginnings(one: list[int], other: list[int], alike: int) -> None:
    other = one[: alike * PAGE_TOKENS] + other
    a, b = prefix_keys(one), prefix_keys(other)
    assert len(a) == len(one) // PAGE_TOKENS
    for pages, (x, y) in enumerate(zip(a, b, strict=False), 1):
        assert (x == y) is (one[: pages * PAGE_TOKENS] == other[: pages * PAGE_TOKENS])
    assert prefix_keys(one, 2) == a[:2]


def test_a_salt_makes_other_keys() -> None:
    some = list(range(2 * PAGE_TOKENS))
    by_salt = []
    for salt in ("", "a", "b"):
        keys: list[bytes] = []
        extend(keys, some, 2, root_of(salt))
        by_salt.append(keys)
    assert by_salt[0] == prefix_keys(some)
    assert len({key for keys in by_salt for key in keys}) == 6


@given(tokens, st.integers(0, 5))
def test_keys_may_be_made_bit_by_bit(some: list[int], cut: int) -> None:
    whole = prefix_keys(some)
    keys = whole[:cut]
    extend(keys, some, len(whole))
    assert keys == whole
