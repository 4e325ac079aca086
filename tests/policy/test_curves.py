from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode_api.modes import AR, diffusion, quadratic, speculation
from trimode_policy.curves import Curves, Observation
from trimode_policy.roofline import Roofline
from trimode_policy.speed import bucket_of

S8, S16, S32, D32 = speculation(8), speculation(16), speculation(32), diffusion(32, 0.9)
POINTS = (AR, S8, S16, S32)


def feed(curves: Curves, point: object, batch: int, seconds: float, tokens: float, cycles: int, now: float) -> float:
    """`cycles` cycles of `seconds` each; the time after them."""
    for _ in range(cycles):
        now += seconds
        curves.observe(Observation(point, batch, 100.0, 0, seconds, round(tokens * batch)), now)  # type: ignore[arg-type]
    return now


def test_the_prior_answers_before_anything_is_measured(tiny_prior: Roofline) -> None:
    curves = Curves(POINTS, tiny_prior)
    assert curves.cycle_seconds(S8, 4, 100.0) == pytest.approx(tiny_prior.seconds(S8, 4, 100.0))
    assert curves.tokens_per_cycle(S8) == pytest.approx(4.2)
    assert curves.tokens_per_second(AR, 4, 0.0) == pytest.approx(4 / tiny_prior.seconds(AR, 4, 0.0))
    assert curves.observed_cycles(S8) == 0
    assert curves.idle_seconds(S8, 5.0) == math.inf


def test_measurements_are_believed(tiny_prior: Roofline) -> None:
    curves = Curves(POINTS, tiny_prior)
    feed(curves, AR, 8, 0.030, 1, 200, 0.0)
    assert curves.cycle_seconds(AR, 8, 100.0) == pytest.approx(0.030, rel=0.02)
    now = feed(curves, S8, 8, 0.070, 6, 200, 10.0)
    assert curves.cycle_seconds(S8, 8, 100.0) == pytest.approx(0.070, rel=0.02)
    assert curves.tokens_per_cycle(S8) == pytest.approx(6.0, rel=0.05)
    assert curves.observed_cycles(S8) == 200
    assert curves.idle_seconds(AR, now) == pytest.approx(now - 6.0)


@pytest.mark.parametrize("factor", [0.02, 50.0])
def test_a_prior_wrong_by_any_common_factor_is_overcome_at_once(tiny_prior: Roofline, factor: float) -> None:
    curves = Curves(POINTS, tiny_prior)
    feed(curves, AR, 1, factor * tiny_prior.seconds(AR, 1, 100.0), 1, 5, 0.0)
    expected = factor * tiny_prior.seconds(S8, 1, 100.0)
    assert curves.cycle_seconds(S8, 1, 100.0) == pytest.approx(expected, rel=0.2)


def test_one_tenfold_cycle_moves_little(tiny_prior: Roofline) -> None:
    curves = Curves(POINTS, tiny_prior)
    now = feed(curves, S8, 8, 0.010, 5, 100, 0.0)
    feed(curves, S8, 8, 0.100, 5, 1, now)
    assert curves.cycle_seconds(S8, 8, 100.0) == pytest.approx(0.010, rel=0.1)


@pytest.mark.parametrize("at", [0, 1, 3])
def test_an_outlier_among_the_first_cycles_is_got_over(tiny_prior: Roofline, at: int) -> None:
    curves = Curves(POINTS, tiny_prior)
    now = 0.0
    for i in range(12):
        now = feed(curves, S8, 8, 0.100 if i == at else 0.010, 5, 1, now)
    assert curves.cycle_seconds(S8, 8, 100.0) == pytest.approx(0.010, rel=0.25)


def test_a_sustained_shift_is_learned_within_thirty_cycles_and_resets_trust(tiny_prior: Roofline) -> None:
    curves = Curves(POINTS, tiny_prior)
    now = feed(curves, AR, 8, 0.003, 1, 50, 0.0)
    now = feed(curves, S8, 8, 0.010, 5, 300, now)
    sure = {e.point: e.variance for e in curves.estimates(POINTS, 8, 100.0, now)}
    now = feed(curves, S8, 8, 0.030, 5, 30, now)
    assert curves.cycle_seconds(S8, 8, 100.0) == pytest.approx(0.030, rel=0.1)
    assert curves.alarms == 1
    stddev = {e.point: e.variance for e in curves.estimates(POINTS, 8, 100.0, now)}
    assert stddev[AR] > 3 * sure[AR]


def test_noise_alone_raises_no_alarm(tiny_prior: Roofline) -> None:
    curves, rng, now = Curves(POINTS, tiny_prior), random.Random(1), 0.0
    for _ in range(20_000):
        now = feed(curves, S8, 8, 0.010 * math.exp(rng.gauss(0, 0.2)), rng.choice((3, 5, 7)), 1, now)
    assert curves.alarms == 0


def test_what_slows_the_running_point_slows_the_idle_ones(tiny_prior: Roofline) -> None:
    curves = Curves(POINTS, tiny_prior)
    now = feed(curves, AR, 8, 0.003, 1, 50, 0.0)
    now = feed(curves, S8, 8, 0.010, 5, 100, now)
    feed(curves, S8, 8, 0.015, 5, 200, now)
    assert curves.cycle_seconds(AR, 8, 100.0) == pytest.approx(0.0045, rel=0.12)


def test_cycles_with_prefill_do_not_teach_seconds_while_there_are_clean_ones(tiny_prior: Roofline) -> None:
    curves = Curves(POINTS, tiny_prior)
    now = feed(curves, S8, 8, 0.010, 5, 50, 0.0)
    for _ in range(100):
        now += 0.015
        curves.observe(Observation(S8, 8, 100.0, 128, 0.015, 40), now)
    assert curves.cycle_seconds(S8, 8, 100.0) == pytest.approx(0.010, rel=0.02)


def test_without_clean_cycles_prefill_is_subtracted(tiny_prior: Roofline) -> None:
    curves = Curves(POINTS, tiny_prior)
    base = tiny_prior.seconds(S8, 8, 100.0)
    now = feed(curves, S8, 8, base, 5, 50, 0.0)
    prefill = tiny_prior.prefill_seconds(256)
    for _ in range(400):
        now += 1.3 * base + prefill
        curves.observe(Observation(S8, 8, 100.0, 256, 1.3 * base + prefill, 40), now)
    assert curves.cycle_seconds(S8, 8, 100.0) == pytest.approx(1.3 * base, rel=0.2)


def test_acceptance_of_one_block_length_tells_of_the_others(tiny_prior: Roofline) -> None:
    easy, hard = Curves(POINTS, tiny_prior), Curves(POINTS, tiny_prior)
    feed(easy, S8, 16, 0.010, 7.0, 200, 0.0)
    feed(hard, S8, 16, 0.010, 2.0, 200, 0.0)
    assert easy.tokens_per_cycle(S32) > 12 > 3 > hard.tokens_per_cycle(S32)
    assert hard.tokens_per_cycle(S8) <= hard.tokens_per_cycle(S16) <= hard.tokens_per_cycle(S32)


def test_ar_always_yields_one_token(tiny_prior: Roofline) -> None:
    curves = Curves(POINTS, tiny_prior)
    feed(curves, AR, 4, 0.002, 0.5, 50, 0.0)
    assert curves.tokens_per_cycle(AR) == 1.0


def test_diffusion_learns_what_its_blocks_yield(tiny_prior: Roofline) -> None:
    curves = Curves((AR, D32), tiny_prior)
    feed(curves, D32, 2, 0.050, 20, 300, 0.0)
    assert curves.tokens_per_cycle(D32) == pytest.approx(20, rel=0.02)


def test_an_unmeasured_batch_leans_on_forwards_of_the_same_size(tiny_prior: Roofline) -> None:
    curves = Curves(POINTS, tiny_prior)
    now = feed(curves, AR, 1, tiny_prior.seconds(AR, 1, 100.0), 1, 20, 0.0)
    twice = 2 * tiny_prior.seconds(S32, 8, 100.0)  # 256 tokens in a forward
    feed(curves, S32, 8, twice, 7, 50, now)
    scale = curves.cycle_seconds(AR, 1, 100.0) / tiny_prior.seconds(AR, 1, 100.0)  # type: ignore[operator]
    same_size = curves.cycle_seconds(S16, 16, 100.0) / (scale * tiny_prior.seconds(S16, 16, 100.0))  # type: ignore[operator]
    assert same_size > 1.5


@pytest.mark.parametrize(
    "bad",
    [
        Observation(S8, 0, 0.0, 0, 0.01, 0),
        Observation(S8, 4, 0.0, 0, 0.0, 9),
        Observation(S8, 4, 0.0, 0, math.nan, 9),
    ],
)
def test_what_makes_no_sense_teaches_nothing(tiny_prior: Roofline, bad: Observation) -> None:
    curves = Curves(POINTS, tiny_prior)
    before = curves.estimates(POINTS, 4, 100.0, 1.0)
    curves.observe(bad, 1.0)
    assert curves.estimates(POINTS, 4, 100.0, 1.0) == before
    assert curves.observed_cycles(S8) == 0


def test_no_prior_and_no_measurement_is_no_prediction() -> None:
    curves = Curves(POINTS, None)
    assert curves.cycle_seconds(S8, 4, 0.0) is None
    assert curves.tokens_per_second(S8, 4, 0.0) is None
    feed(curves, S8, 4, 0.010, 5, 30, 0.0)
    assert curves.cycle_seconds(S8, 4, 0.0) == pytest.approx(0.010, rel=0.05)
    assert curves.cycle_seconds(S16, 4, 0.0) is None


@pytest.mark.parametrize(("batch", "context"), [(0, 0.0), (-1, 0.0), (4, math.nan), (4, -1.0), (4, math.inf)])
def test_no_prediction_for_a_load_that_makes_no_sense(tiny_prior: Roofline, batch: int, context: float) -> None:
    assert Curves(POINTS, tiny_prior).cycle_seconds(AR, batch, context) is None


def test_an_unannounced_point_is_learned(tiny_prior: Roofline) -> None:
    curves = Curves((AR,), tiny_prior)
    feed(curves, S16, 2, 0.020, 6, 20, 0.0)
    assert curves.observed_cycles(S16) == 20


@pytest.mark.parametrize(("batch", "bucket"), [(1, 0), (2, 1), (3, 2), (5, 2), (6, 3), (48, 6), (64, 6), (10**9, 15)])
def test_buckets_are_the_nearest_power_of_two(batch: int, bucket: int) -> None:
    assert bucket_of(batch) == bucket


observations = st.builds(
    Observation,
    st.sampled_from((*POINTS, D32)),
    st.integers(0, 300),
    st.floats(0, 1e5),
    st.sampled_from((0, 0, 0, 64)),
    st.one_of(st.floats(1e-6, 1e3), st.sampled_from((0.0, -1.0, math.inf, math.nan))),
    st.integers(0, 10_000),
)


@given(st.lists(st.tuples(observations, st.floats(-1e6, 1e9)), max_size=60), st.booleans())
def test_whatever_happens_predictions_stay_finite_and_positive(
    events: list[tuple[Observation, float]], with_prior: bool
) -> None:
    prior = Roofline(1e10, 8e10, 2e-3, 7e6, 3.5e6, 2048) if with_prior else None
    curves = Curves(POINTS, prior)
    for observation, now in events:
        curves.observe(observation, now)
        for estimate in curves.estimates((*POINTS, D32), 16, 100.0, now):
            assert 0 < estimate.pace < math.inf
            assert 0 <= estimate.variance < math.inf
            assert 0 < estimate.tokens <= estimate.point.block_length


def test_a_few_unlucky_cycles_of_a_longer_block_do_not_outweigh_a_well_known_shorter_one(tiny_prior: Roofline) -> None:
    curves = Curves(POINTS, tiny_prior)
    now = feed(curves, S16, 1, 0.010, 1, 8, 0.0)
    feed(curves, S8, 1, 0.006, 5, 300, now)
    assert curves.tokens_per_cycle(S16) >= 0.97 * curves.tokens_per_cycle(S8)


def test_longer_blocks_yield_no_less_only_among_those_that_draft_alike(tiny_prior: Roofline) -> None:
    quick, stepped = quadratic(32), speculation(32, 0.9)
    curves = Curves((AR, S8, S32, quick, stepped), tiny_prior)
    before = [curves.tokens_per_cycle(point) for point in (quick, stepped)]
    feed(curves, S8, 8, 0.01, 7.9, 300, 0.0)
    assert curves.tokens_per_cycle(S32) >= curves.tokens_per_cycle(S8) - 0.2
    # All of them learn that drafts are good; what S8 in particular shows is no bound for the others.
    assert all(
        after > known for after, known in zip(map(curves.tokens_per_cycle, (quick, stepped)), before, strict=True)
    )
    now = feed(curves, quick, 8, 0.01, 2.0, 300, 10.0)
    assert curves.tokens_per_cycle(quick) == pytest.approx(2.0, rel=0.1)
    feed(curves, S8, 8, 0.01, 7.9, 5, now)
    assert curves.tokens_per_cycle(quick) == pytest.approx(2.0, rel=0.25)
