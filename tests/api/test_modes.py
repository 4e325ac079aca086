"""Operating points read and write the same text, and contradictions are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode_api.modes import AR, BLOCK_LENGTHS, Mode, OperatingPoint, diffusion, speculation

points = st.one_of(
    st.just(AR),
    st.sampled_from(BLOCK_LENGTHS).map(speculation),
    st.builds(diffusion, st.sampled_from(BLOCK_LENGTHS), st.integers(1, 100).map(lambda n: n / 100)),
)


@given(points)
def test_text_round_trip(point: OperatingPoint) -> None:
    assert OperatingPoint.parse(str(point)) == point


@pytest.mark.parametrize(
    ("point", "text"),
    [(AR, "AR"), (speculation(8), "S8"), (diffusion(32, 0.9), "D32@0.9"), (diffusion(8, 1.0), "D8@1")],
)
def test_text_is_pinned(point: OperatingPoint, text: str) -> None:
    assert str(point) == text


@pytest.mark.parametrize(
    "text", ["", "ar", "S", "S7", "S128", "D32", "D32@0", "D32@1.1", "D32@.", "S8@0.9", "AR ", "S-8"]
)
def test_wrong_text_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"not an operating point|not one of|needs a threshold"):
        OperatingPoint.parse(text)


@pytest.mark.parametrize(
    "parts", [(Mode.AR, 8, None), (Mode.AR, 1, 0.9), (Mode.SELF_SPECULATION, 8, 0.5), (Mode.DIFFUSION, 8, None)]
)
def test_contradictions_are_refused(parts: tuple[Mode, int, float | None]) -> None:
    with pytest.raises(ValueError, match=r"takes|needs"):
        OperatingPoint(*parts)


def test_only_diffusion_is_lossy() -> None:
    assert [mode for mode in Mode if not mode.lossless] == [Mode.DIFFUSION]
