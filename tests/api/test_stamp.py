"""What a router says of a tier, read back by the replica."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode_api.stamp import Stamp


@given(st.integers(-(10**9) + 1, 10**9 - 1), st.integers(1, 10**6))
def test_what_is_written_is_read(priority: int, tpot_ms: int) -> None:
    stamp = Stamp(priority, tpot_ms / 1000)
    assert Stamp.read(stamp.header) == stamp


@pytest.mark.parametrize(
    ("left", "seconds"), [("1200", 1.2), ("-30", -0.03), (None, inf), ("", inf), ("1.5", inf), ("9" * 20, inf)]
)
def test_the_time_left_has_a_header_of_its_own(left: str | None, seconds: float) -> None:
    assert Stamp.read("priority=1;tpot=8", left) == Stamp(1, 0.008, seconds)


@pytest.mark.parametrize(
    "header", [None, "", "priority=1", "priority=x;tpot=8", "priority=1;tpot=8;more=1", "9" * 9999]
)
def test_what_is_written_otherwise_is_none(header: str | None) -> None:
    assert Stamp.read(header) is None
