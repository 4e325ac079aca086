from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode_api.modes import AR, BLOCK_LENGTHS, diffusion, quadratic, speculation
from trimode_policy.acceptance import expected_tokens, log_odds_for, prior_tokens, tokens_slope

lengths = st.sampled_from(BLOCK_LENGTHS)


@pytest.mark.parametrize(("chance", "length", "tokens"), [(0.5, 4, 1.875), (0.8, 8, 4.161), (0.5, 64, 2.0)])
def test_the_formula(chance: float, length: int, tokens: float) -> None:
    from math import log

    assert expected_tokens(log(chance / (1 - chance)), length) == pytest.approx(tokens, abs=1e-3)


@given(st.floats(-50, 50), lengths)
def test_tokens_are_between_one_and_the_block(odds: float, length: int) -> None:
    assert 1.0 <= expected_tokens(odds, length) <= length


@given(st.floats(-6, 6), st.floats(0.01, 2), lengths)
def test_more_odds_are_more_tokens(odds: float, more: float, length: int) -> None:
    assert expected_tokens(odds + more, length) > expected_tokens(odds, length)
    assert tokens_slope(odds, length) > 0


@given(st.floats(1.05, 0.95 * 8))
def test_the_inverse(tokens: float) -> None:
    assert expected_tokens(log_odds_for(tokens, 8), 8) == pytest.approx(tokens, rel=1e-6)


@given(st.floats(-4, 4))
def test_a_shared_shift_keeps_the_order_of_block_lengths(shift: float) -> None:
    tokens = [expected_tokens(log_odds_for(prior_tokens(speculation(b)), b) + shift, b) for b in BLOCK_LENGTHS]
    assert tokens == sorted(tokens)


def test_priors() -> None:
    assert prior_tokens(AR) == 1.0
    assert [prior_tokens(speculation(b)) for b in (8, 16, 32)] == [4.2, 5.7, 7.6]
    assert prior_tokens(quadratic(8)) == prior_tokens(speculation(8, 0.9)) == prior_tokens(speculation(8))
    assert 16 < prior_tokens(diffusion(32, 0.9)) <= 32
