"""Attainment over a window, from counters that begin anew with each router."""

from __future__ import annotations

import pytest

from trimode_api.fleet import TierState
from trimode_lab.doubles.kubernetes.fleet import fleets, view
from trimode_operator.observe.fleets import Address
from trimode_operator.status.objectives import Sample, Tally, attainment, kept, sample_of

ONE, TWO = Address("10.0.0.1", 8001), Address("10.0.0.2", 8001)
Counts = dict[tuple[Address, str], tuple[int, int]]


def samples(*counts: Counts) -> list[Sample]:
    return [Sample(10.0 * n, {k: Tally(*v) for k, v in one.items()}) for n, one in enumerate(counts)]


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        pytest.param([], None, id="nothing"),
        pytest.param([{(ONE, "a"): (100, 50)}], None, id="what was counted before we looked is of unknown age"),
        pytest.param([{(ONE, "a"): (100, 50)}, {(ONE, "a"): (100, 50)}], None, id="no answers since"),
        pytest.param([{(ONE, "a"): (0, 0)}, {(ONE, "a"): (200, 199)}], 99, id="rounded down"),
        pytest.param(
            [{(ONE, "a"): (0, 0), (TWO, "a"): (0, 0)}, {(ONE, "a"): (10, 10), (TWO, "a"): (10, 5)}],
            75,
            id="two routers",
        ),
        pytest.param([{(ONE, "a"): (50, 50)}, {(ONE, "a"): (4, 1)}], 25, id="a router that began anew"),
        pytest.param([{(ONE, "a"): (0, 0)}, {}, {(ONE, "a"): (10, 9)}], 90, id="a router that was silent for a while"),
        pytest.param([{(ONE, "b"): (0, 0)}, {(ONE, "b"): (10, 0)}], None, id="another tier"),
    ],
)
def test_attainment(history: list[Counts], expected: int | None) -> None:
    assert attainment(samples(*history), ["a"]) == {"a": expected}


def test_old_samples_go_but_the_one_to_count_from() -> None:
    found: tuple[Sample, ...] = ()
    for at in range(0, 1000, 100):
        found = kept(found, Sample(float(at), {}), window_s=300.0)
    assert [sample.at for sample in found] == [600.0, 700.0, 800.0, 900.0]


def test_samples_come_from_views() -> None:
    told = fleets(view(objectives=(TierState(name="a", answers=3, met=2),)), view())
    assert sample_of(told, 5.0) == Sample(5.0, {(ONE, "a"): Tally(3, 2)})
