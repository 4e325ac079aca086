"""Acceptance by workload: requests that say what they are teach how well their kind is drafted."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode_api.modes import AR, OperatingPoint, speculation
from trimode_policy.curves import Curves, Observation
from trimode_policy.gain import OTHER, WORKLOADS
from trimode_policy.roofline import Roofline

S8, S16 = speculation(8), speculation(16)


def cycle(point: OperatingPoint, *workloads: tuple[str, int, int], others: tuple[int, int] = (0, 0)) -> Observation:
    """`others`: requests and tokens of those that name no workload."""
    requests = others[0] + sum(count for _, count, _ in workloads)
    tokens = others[1] + sum(gained for _, _, gained in workloads)
    return Observation(point, requests, 200.0, 0, 0.01, tokens, workloads)


def taught(prior: Roofline, cycles: int = 400) -> Curves:
    """Code gains about 10 tokens a cycle and chat 3, four requests of each at once."""
    curves, rng = Curves((AR, S8, S16), prior), random.Random(0)
    for number in range(cycles):
        gains = [("coding", 4, 4 * rng.randint(8, 12)), ("chat", 4, 4 * rng.randint(2, 4))]
        curves.observe(cycle(S16, *gains), 0.01 * number)
    return curves


def test_what_is_predicted_follows_the_mix(tiny_prior: Roofline) -> None:
    curves = taught(tiny_prior)
    for mix, tokens in (({"coding": 8}, 10.0), ({"chat": 8}, 3.0), ({"coding": 4, "chat": 4}, 6.0)):
        curves.serves(mix)
        assert curves.tokens_per_cycle(S16) == pytest.approx(tokens, rel=0.15)
    assert curves.workload_tokens(S16) == pytest.approx({"coding": 10.0, "chat": 3.0}, rel=0.15)
    assert curves.workload_tokens(AR) == {}


def test_what_is_learned_at_one_block_length_says_something_of_the_others(tiny_prior: Roofline) -> None:
    curves = taught(tiny_prior)
    by_workload = curves.workload_tokens(S8)
    assert by_workload["coding"] > 1.5 * by_workload["chat"]


def test_those_that_name_nothing_are_predicted_as_ever(tiny_prior: Roofline) -> None:
    plain, tagged = Curves((AR, S16), tiny_prior), Curves((AR, S16), tiny_prior)
    for number in range(100):
        plain.observe(cycle(S16, others=(4, 24)), 0.01 * number)
        tagged.observe(cycle(S16, others=(4, 24)), 0.01 * number)
        tagged.serves({"": 4})
    assert plain.tokens_per_cycle(S16) == tagged.tokens_per_cycle(S16)
    tagged.serves({})
    assert plain.tokens_per_cycle(S16) == tagged.tokens_per_cycle(S16)


def test_names_do_not_grow_without_bound(tiny_prior: Roofline) -> None:
    curves = Curves((AR, S16), tiny_prior)
    for number in range(100):
        curves.observe(cycle(S16, (f"w{number}", 1, 5)), 0.01 * number)
    known = curves.workload_tokens(S16)
    assert len(known) == WORKLOADS + 1
    assert OTHER in known


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(1, 64), st.integers(0, 16)), max_size=60))
def test_predictions_stay_within_the_block(story: list[tuple[str, int, int]]) -> None:
    curves = Curves((AR, S16), None)
    for number, (name, requests, gained) in enumerate(story):
        curves.observe(cycle(S16, (name, requests, requests * gained)), float(number))
        assert 1.0 <= curves.tokens_per_cycle(S16) <= 16.0
        assert all(1.0 <= tokens <= 16.0 for tokens in curves.workload_tokens(S16).values())
