"""The order of prompts and the size of their pieces: tables, and what holds in random cases."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode_policy.prompt_order import (
    LARGEST_PIECE,
    YIELDING_SHARE,
    DecodeView,
    PromptView,
    piece_tokens,
    prompt_order,
    yielding_share,
)

SPEED = 1000.0


@pytest.mark.parametrize(
    ("prompts", "turns"),
    [
        pytest.param([PromptView(800, 1.5, 0.2), PromptView(50, 1.4, 0.0)], [1, 0], id="short passes a long one"),
        pytest.param([PromptView(800, 0.9, 0.2), PromptView(150, 1.4, 0.0)], [0, 1], id="but not where that costs it"),
        pytest.param([PromptView(900, 0.5, 0.5), PromptView(700, 1.0, 0.0)], [1, 0], id="a lost one yields"),
        pytest.param([PromptView(10, -1.0, 2.0), PromptView(700, 1.0, 0.0)], [1, 0], id="an overdue one yields"),
        pytest.param([PromptView(10, inf, 9.0, 9), PromptView(700, 1.0, 0.0)], [1, 0], id="no objective"),
        pytest.param([PromptView(700, 1.0, 0.0, 9), PromptView(700, 5.0, 0.0, 0, True)], [1, 0], id="begun first"),
        pytest.param([PromptView(600, 1.0, 0.1), PromptView(600, 1.0, 0.0, 9)], [1, 0], id="lower tier yields"),
        pytest.param([PromptView(600, 1.0, 0.0), PromptView(500, 1.0, 0.0)], [1, 0], id="longer yields"),
    ],
)
def test_order(prompts: list[PromptView], turns: list[int]) -> None:
    assert prompt_order(prompts, SPEED).turns == turns


def test_without_a_speed_they_go_by_priority_and_age() -> None:
    prompts = [PromptView(5, 1.0, 0.0), PromptView(900, 0.1, 3.0), PromptView(9, inf, 1.0, 2)]
    assert prompt_order(prompts, 0.0).turns == [2, 1, 0]


def test_who_yields_for_longest_has_memory_before_those_that_come_in_time() -> None:
    prompts = [
        PromptView(10, 1.0, 0.0),
        PromptView(9000, 0.5, 4.0),
        PromptView(9000, 0.5, 5.0),
        PromptView(5, 1, 1, 0, True),
    ]
    order = prompt_order(prompts, SPEED)
    assert order.turns == [3, 0, 2, 1]
    assert order.rows == [3, 2, 0, 1]


views = st.builds(
    PromptView,
    tokens=st.integers(1, 3000),
    left_s=st.one_of(st.floats(-2.0, 5.0), st.just(inf)),
    waited_s=st.floats(0.0, 20.0),
    priority=st.integers(0, 2),
    begun=st.booleans(),
)


@given(st.lists(views, max_size=12), st.floats(0.0, 5000.0))
def test_each_has_one_turn_and_those_in_time_are(prompts: list[PromptView], speed: float) -> None:
    order = prompt_order(prompts, speed)
    assert sorted(order.turns) == sorted(order.rows) == list(range(len(prompts)))
    assert all(prompts[i].begun for i in order.turns[: order.begun])
    total = 0
    for i in order.turns[order.begun : order.yielding]:
        total += prompts[i].tokens
        assert total <= prompts[i].left_s * speed * (1 + 1e-9), "it was promised to be in time"
    if speed > 0 and order.yielding < len(prompts):
        waited = [prompts[i].waited_s for i in order.turns[order.yielding :]]
        assert waited[0] == max(waited)


@given(st.lists(views, min_size=1, max_size=12), st.floats(1.0, 5000.0), st.data())
def test_less_slack_never_means_a_later_turn(prompts: list[PromptView], speed: float, data: st.DataObject) -> None:
    before = prompt_order(prompts, speed)
    place = data.draw(st.integers(0, len(prompts) - 1))
    hurried = list(prompts)
    hurried[place] = prompts[place]._replace(left_s=data.draw(st.floats(-2.0, 5.0)))
    after = prompt_order(hurried, speed)
    if hurried[place].left_s > prompts[place].left_s:
        before, after, prompts, hurried = after, before, hurried, prompts
    kept = set(before.turns[before.begun : before.yielding])
    if place in kept and kept == set(after.turns[after.begun : after.yielding]):
        assert after.turns.index(place) <= before.turns.index(place)


@given(st.integers(1, 4000), st.lists(st.integers(1, 4000), min_size=1, max_size=5), st.integers(1, 300))
def test_nobody_starves_under_a_flood(own: int, older: list[int], budget: int) -> None:
    """Prompts that can be in time come in every cycle, more than a piece of them; one that cannot is done within the
    cycles that its part of each piece takes it and those that came before it."""
    late = [PromptView(tokens, -1.0, 100.0 - i) for i, tokens in enumerate([*older, own])]
    bound = sum(-(-p.tokens // yielding_share(budget)) for p in late)
    for _ in range(bound):
        flood = [PromptView(budget, 10.0, 0.0, 9) for _ in range(3)]
        prompts = [*late, *flood]
        order = prompt_order(prompts, 1e6)
        assert order.yielding == len(flood)
        first = order.turns[order.yielding]
        assert first == 0, "the oldest goes first"
        spent = min(late[0].tokens, yielding_share(budget))
        late[0] = late[0]._replace(tokens=late[0].tokens - spent)
        late = [p for p in late if p.tokens]
        if not late:
            break
    assert not late


def test_a_part_of_each_piece_is_for_the_oldest() -> None:
    assert [yielding_share(n) for n in (1, YIELDING_SHARE, 256)] == [1, 1, 32]


@pytest.mark.parametrize(
    ("decoding", "tokens"),
    [
        ([], 100),
        ([DecodeView(0.0, 5, 1.0)], 100),
        ([DecodeView(0.1, 5, 0.3)], 100),  # 0.4 s less 0.3 less a cycle of 0.05: 50 tokens, but the budget is the least
        ([DecodeView(0.1, 5, 0.24)], 110),
        ([DecodeView(0.1, 50, 0.3)], 150),
        ([DecodeView(0.1, 50, 0.3), DecodeView(0.1, 5, 0.24)], 110),
    ],
)
def test_piece(decoding: list[DecodeView], tokens: int) -> None:
    assert piece_tokens(100, decoding, 0.05, SPEED) == tokens


@pytest.mark.parametrize(("emitted", "tokens"), [(1, 2048), (2, 2400), (9, 3072)])
def test_a_large_budget_is_used_as_far_as_the_pace_allows(emitted: int, tokens: int) -> None:
    """2,048 tokens take 51 ms, beside objectives of 50 ms per token: 40 less a cycle of 20 leave 800."""
    piece = piece_tokens(2048, [DecodeView(0.05, emitted, 0.0)], 0.02, 40_000.0)
    assert piece == pytest.approx(tokens, abs=1)


def test_who_is_late_already_makes_no_piece_smaller_than_the_budget() -> None:
    late = DecodeView(0.05, 10, 60.0)
    assert piece_tokens(2048, [late, DecodeView(0.05, 90, 0.0)], 0.02, 40_000.0) == 2048
    assert piece_tokens(100, [late], 0.02, 40_000.0) == 100


def test_a_cycle_of_many_tokens_takes_as_many_of_prompts() -> None:
    assert piece_tokens(100, [], 0.02, SPEED, decoded=400) == 400
    assert piece_tokens(100, [DecodeView(0.1, 5, 0.4)], 0.05, SPEED, decoded=400) == 400


decoders = st.builds(DecodeView, st.floats(0.001, 0.1), st.floats(1.0, 500.0), st.floats(0.0, 20.0))


@given(st.integers(1, 4096), st.lists(decoders, max_size=6), decoders, st.floats(0.0, 0.5), st.floats(0.0, 1e5))
def test_more_who_decode_never_lengthen_a_piece(
    budget: int, decoding: list[DecodeView], one_more: DecodeView, cycle_s: float, speed: float
) -> None:
    piece = piece_tokens(budget, decoding, cycle_s, speed)
    assert budget <= piece <= max(budget, int(LARGEST_PIECE * budget))
    if decoding:
        assert piece_tokens(budget, [*decoding, one_more], cycle_s, speed) <= piece
