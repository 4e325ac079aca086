"""Tokens a request gains per cycle: the acceptance model and its priors.

Belongs here: the formula, its inverse and the prior by block length. What is learned online is in `curves`.

A draft token is taken to be right with one chance `a`, independently of the others. A block of B (the seed and
B - 1 drafts) then yields `1 + a + ... + a^(B-1) = (1 - a^B) / (1 - a)` tokens per cycle (Leviathan, Kalman,
Matias: Fast Inference from Transformers via Speculative Decoding, 2023, equation 1, with gamma = B - 1).
Real text has easy and hard stretches, so longer blocks do better than one `a` says: each block length has its own
prior log-odds, and what is learned is a shift of log-odds that all lengths share. That keeps the order of the
lengths: more tokens from one block length never means fewer from another.
"""

from __future__ import annotations

from math import exp

from trimode_api.modes import Mode, OperatingPoint

PRIOR_TOKENS = {4: 2.9, 8: 4.2, 16: 5.7, 32: 7.6, 64: 9.0}
"""Tokens per cycle by block length before anything is measured.

8 to 32: averages on SPEED-Bench for the 8B model (4.17, 5.68, 7.60); 4 and 64 extrapolated.
"""

MAX_LOG_ODDS = 9.0
"""Log-odds are bounded by this; the block length bounds the yield anyway."""


def expected_tokens(log_odds: float, block_length: int) -> float:
    """Tokens per request and cycle, in [1, block_length], at these log-odds of one draft token being right."""
    # Without a bound a run of perfect drafts would bring the chance to 1, where the formula is 0 / 0.
    bounded = MAX_LOG_ODDS if log_odds > MAX_LOG_ODDS else max(log_odds, -MAX_LOG_ODDS)
    chance = 1.0 / (1.0 + exp(-bounded))
    return float((1.0 - chance**block_length) / (1.0 - chance))


def tokens_slope(log_odds: float, block_length: int) -> float:
    """Derivative of `expected_tokens` by the log-odds, by central difference."""
    step = 1e-3
    return (expected_tokens(log_odds + step, block_length) - expected_tokens(log_odds - step, block_length)) / (
        2 * step
    )


def log_odds_for(tokens: float, block_length: int) -> float:
    """The log-odds that yield `tokens` per cycle; values outside (1, block_length) give the nearest end."""
    # Bisection: the formula has no closed inverse, and this runs once per point when an engine starts.
    low, high = -MAX_LOG_ODDS, MAX_LOG_ODDS
    for _ in range(60):
        middle = (low + high) / 2
        if expected_tokens(middle, block_length) < tokens:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def prior_tokens(point: OperatingPoint) -> float:
    """Tokens per request and cycle of `point` before anything is measured.

    AR yields 1, a diffusion block all of its tokens (answers that end inside it make it less, which is learned).
    """
    if point.mode is Mode.AR:
        return 1.0
    # Not by the formula: a diffusion block has no drafts that could be refused, it commits what it denoised.
    if point.mode is Mode.DIFFUSION:
        return 0.9 * point.block_length
    return PRIOR_TOKENS[point.block_length]
