"""The lab's figures of the engine, on a random decoder: what they compare is run, and alike."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from trimode_lab.engine.switches import switching, unswitched
from trimode_lab.engine.tax import ratios

PROMPTS = [[2 + i % 9 for i in range(length)] for length in (3, 17, 30)]


@pytest.fixture(scope="module", params=["rows"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_tax_is_one_where_every_cycle_takes_as_long(decoder: Any) -> None:
    ticks = count()
    found, equal = ratios(decoder.fused(), PROMPTS, 12, 20, lambda: float(next(ticks)))
    assert equal
    assert len(found) >= 20
    assert set(found) == {1.0}


def test_cycles_after_switches_accept_as_those_without(decoder: Any) -> None:
    network = decoder.fused()
    cycles = switching(network, PROMPTS, 40, 2)
    assert max(cycle.switches for cycle in cycles) >= 3
    assert sum(cycle.emitted for cycle in cycles) > len(cycles), "nothing was accepted, which shows nothing"
    assert [cycle.emitted for cycle in cycles] == [unswitched(network, cycle) for cycle in cycles]
