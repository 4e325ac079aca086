"""From measured cycles to a roofline and to tokens per cycle, on curves whose answer is known."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimode_api.modes import AR, Mode, speculation
from trimode_policy.roofline import ModelShape, Roofline
from trimode_tools.profile.fit import Answered, Cell, fit_errors, fit_roofline, spread_of, whole_cycle_tokens
from trimode_tools.simulate.profile_file import ProfileShape
from trimode_tools.simulator.cost_model import ProfiledHardware

SHAPE = ProfileShape(parameters=8_000_000_000, layers=34, kv_heads=8, head_dim=128, bytes_per_value=2)
POINTS = (AR, speculation(8), speculation(32))
GRID = [(point, batch, context) for point in POINTS for batch in (1, 4, 16, 64, 256) for context in (200.0, 4000.0)]


def roofline(bytes_per_s: float, flops_per_s: float, overhead_s: float) -> Roofline:
    return Roofline.for_model(
        ModelShape(**SHAPE.model_dump()), bytes_per_s=bytes_per_s, flops_per_s=flops_per_s, overhead_s=overhead_s
    )


@settings(max_examples=15, deadline=None)
@given(
    st.floats(2e11, 8e12),
    st.floats(5e13, 2e15),
    st.floats(5e-5, 2e-3),
)
def test_the_fit_finds_the_roofline_that_made_the_cells(bytes_per_s: float, flops_per_s: float, over_s: float) -> None:
    truth = roofline(bytes_per_s, flops_per_s, over_s)
    cells = [Cell(point, batch, context, truth.seconds(point, batch, context)) for point, batch, context in GRID]
    found = fit_roofline(cells, SHAPE)
    typical, worst = fit_errors(cells, found)
    assert typical < 0.02
    assert worst < 0.06


def test_all_three_speeds_come_back_where_the_cells_tell_them_apart() -> None:
    truth = roofline(4e12, 6e14, 2e-4)
    cells = [Cell(point, batch, context, truth.seconds(point, batch, context)) for point, batch, context in GRID]
    found = fit_roofline(cells, SHAPE)
    assert found.bytes_per_s == pytest.approx(4e12, rel=0.02)
    assert found.flops_per_s == pytest.approx(6e14, rel=0.02)
    assert found.overhead_s == pytest.approx(2e-4, rel=0.2)


def test_one_cell_in_a_busy_moment_does_not_carry_the_fit_away() -> None:
    truth = roofline(4e12, 6e14, 2e-4)
    cells = [Cell(point, batch, context, truth.seconds(point, batch, context)) for point, batch, context in GRID]
    cells[3] = Cell(cells[3].point, cells[3].batch, cells[3].context_tokens, 3 * cells[3].seconds)
    typical, worst = fit_errors(cells, fit_roofline(cells, SHAPE))
    assert typical < 0.1
    assert worst > 1.5


def test_no_cells_no_fit() -> None:
    with pytest.raises(ValueError, match="needed is at least one"):
        fit_roofline([], SHAPE)


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=40),
    st.floats(1.0, 16.0),
)
def test_whole_cycles_come_out_as_counted(lengths: list[int], tokens: float) -> None:
    answers = [Answered(length, ceil(length / tokens)) for length in lengths]
    found = whole_cycle_tokens(answers, 16)
    assert sum(ceil(answer.tokens / found) for answer in answers) == sum(answer.cycles for answer in answers)


def test_short_answers_do_not_make_a_draft_look_short() -> None:
    """Four tokens at once are an answer: what the block would have held is not known, but it held those."""
    assert whole_cycle_tokens([Answered(4, 1)] * 3, 16) == pytest.approx(4.0)
    assert whole_cycle_tokens([Answered(9, 2)], 8) == pytest.approx(4.5)


def test_the_spread_is_that_of_a_turn_not_of_the_points() -> None:
    assert spread_of([(1.0, 1.0, 1.0), (9.0, 9.0, 9.0)]) == 0.0
    assert spread_of([(0.9, 1.0, 1.1)] * 10) == pytest.approx(1.4826 * 0.0953, rel=0.02)
    assert spread_of([(1.0, 5.0)]) == 0.0


class TestProfiledHardware:
    ROOFLINE = roofline(4e12, 6e14, 2e-4)

    def test_measured_cycles_are_kept(self) -> None:
        cycles = [(AR, 1, 100.0, 0.01), (AR, 8, 100.0, 0.02), (AR, 1, 900.0, 0.03), (AR, 8, 900.0, 0.07)]
        found = ProfiledHardware.measured(self.ROOFLINE, cycles)
        for point, batch, context, seconds in cycles:
            assert found.seconds(point, batch, context) == pytest.approx(seconds)
        assert 0.01 < found.seconds(AR, 3, 100.0) < 0.02
        assert 0.02 < found.seconds(AR, 8, 500.0) < 0.07
        assert found.seconds(speculation(8), 4, 100.0) == self.ROOFLINE.seconds(speculation(8), 4, 100.0)

    def test_beyond_what_was_measured_the_roofline_carries_on(self) -> None:
        base = self.ROOFLINE.seconds(AR, 64, 100.0)
        found = ProfiledHardware.measured(self.ROOFLINE, [(AR, 64, 100.0, 2 * base)])
        assert found.seconds(AR, 1, 100.0) == pytest.approx(2 * self.ROOFLINE.seconds(AR, 1, 100.0))
        assert found.seconds(AR, 512, 5000.0) == pytest.approx(2 * self.ROOFLINE.seconds(AR, 512, 5000.0))

    def test_prompts_cost_what_was_measured_in_that_mode(self) -> None:
        prompts = [
            (Mode.AR, 32, 0.001),
            (Mode.AR, 256, 0.004),
            (Mode.SELF_SPECULATION, 32, 0.003),
            (Mode.SELF_SPECULATION, 256, 0.006),
        ]
        found = ProfiledHardware.measured(self.ROOFLINE, [], prompts)
        assert found.prefill_seconds(32, AR) == pytest.approx(0.001)
        assert found.prefill_seconds(144, AR) == pytest.approx(0.0025)
        assert found.prefill_seconds(480, AR) == pytest.approx(0.007)
        assert found.prefill_seconds(256, speculation(32)) == pytest.approx(0.006)
        assert found.prefill_seconds(256) == found.prefill_seconds(256, speculation(8))
        assert found.prefill_seconds(1, AR) >= 0

    def test_without_measured_prompts_the_roofline_is_asked(self) -> None:
        found = ProfiledHardware.measured(self.ROOFLINE, [(AR, 1, 100.0, 0.01)], [(Mode.AR, 32, 0.5)])
        assert found.prefill_seconds(2000, AR) == self.ROOFLINE.prefill_seconds(2000)
