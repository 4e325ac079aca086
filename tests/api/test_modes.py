"""Operating points read and write the same text, and contradictions are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode_api.modes import AR, BLOCK_LENGTHS, Mode, OperatingPoint, diffusion, quadratic, speculation

thresholds = st.integers(1, 100).map(lambda n: n / 100)
points = st.one_of(
    st.just(AR),
    st.builds(speculation, st.sampled_from(BLOCK_LENGTHS), st.none() | thresholds),
    st.sampled_from(BLOCK_LENGTHS[:-1]).map(quadratic),
    st.builds(diffusion, st.sampled_from(BLOCK_LENGTHS), thresholds),
)


@given(points)
def test_text_round_trip(point: OperatingPoint) -> None:
    assert OperatingPoint.parse(str(point)) == point


@pytest.mark.parametrize(
    ("point", "text"),
    [
        (AR, "AR"),
        (speculation(8), "S8"),
        (speculation(16, 0.9), "S16@0.9"),
        (quadratic(8), "Q8"),
        (diffusion(32, 0.9), "D32@0.9"),
        (diffusion(8, 1.0), "D8@1"),
    ],
)
def test_text_is_pinned(point: OperatingPoint, text: str) -> None:
    assert str(point) == text


@pytest.mark.parametrize(
    "text",
    ["", "ar", "S", "S7", "S128", "D32", "D32@0", "D32@1.1", "D32@.", "S8@0", "Q8@0.9", "Q64", "AR@1", "AR ", "S-8"],
)
def test_wrong_text_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"not an operating point|not one of|needs a threshold|takes"):
        OperatingPoint.parse(text)


@pytest.mark.parametrize(
    "parts",
    [
        (Mode.AR, 8, None),
        (Mode.AR, 1, 0.9),
        (Mode.SELF_SPECULATION, 8, 1.5),
        (Mode.QUADRATIC, 8, 0.5),
        (Mode.DIFFUSION, 8, None),
    ],
)
def test_contradictions_are_refused(parts: tuple[Mode, int, float | None]) -> None:
    with pytest.raises(ValueError, match=r"takes|needs"):
        OperatingPoint(*parts)


def test_only_diffusion_is_lossy() -> None:
    assert [mode for mode in Mode if not mode.lossless] == [Mode.DIFFUSION]


def test_a_forward_of_a_quadratic_point_is_wide() -> None:
    assert [point.width for point in (AR, speculation(8), speculation(8, 0.9), quadratic(8))] == [1, 8, 8, 72]
    assert [point.forwards_per_cycle for point in (AR, speculation(8), quadratic(8))] == [1, 2, 1]


@given(st.lists(points))
def test_points_of_all_kinds_have_an_order(some: list[OperatingPoint]) -> None:
    backwards = list(reversed(some))
    assert sorted(some) == sorted(backwards)
