"""The engine's pure decisions, by tables and random cases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import trimode_workers
from trimode_api.modes import AR, speculation
from trimode_workers.engine.cache import KVCache
from trimode_workers.engine.commit import commit
from trimode_workers.engine.messages import Finish, Submit
from trimode_workers.engine.plan import Limits, Moment, groups, schedule, swaps
from trimode_workers.engine.rows import line_up
from trimode_workers.engine.sequence import Sequence
from trimode_workers.model.config import ModelConfig

TINY = Path(trimode_workers.__file__).parent / "tiny"
LIMITS = Limits(capacity=200, context=100, growth=8, prefill_budget=32, rows=4)


def at(tokens_per_s: float = 0.0, piece: int = 32) -> Callable[[], Moment]:
    return lambda: Moment(0.0, tokens_per_s, piece)


UNKNOWN = at()
"""No prompt was computed yet: they go by priority and age."""


def sequence(arrival: int, tokens: int = 10, cached: int | None = None, row: int = -1, priority: int = 0) -> Sequence:
    request = Submit(str(arrival), [5] * tokens, 50, priority=priority)
    made = Sequence.of(request, None, arrival, 100, frozenset())
    made.cached, made.row = tokens - 1 if cached is None else cached, row
    return made


def test_priority_comes_before_a_clients_own_order_and_that_before_arrival() -> None:
    wanted = [(5, 0, 9), (1, -3, 8), (1, 0, 2), (1, 0, 7), (1, 4, 1), (0, -9, 0)]
    made = []
    for priority, order, arrival in reversed(wanted):
        request = Submit(str(arrival), [5], 50, priority=priority, order=order)
        made.append(Sequence.of(request, None, arrival, 100, frozenset()))
    found = sorted(made, key=lambda s: s.urgency)
    assert [(s.priority, s.order, s.arrival) for s in found] == wanted


def names(found: Any) -> list[str]:
    return [s.request_id for s in found]


@pytest.mark.parametrize(
    ("proposed", "room", "kept", "finish"),
    [
        ([7, 8], 5, [7, 8], None),
        ([7, 8], 2, [7, 8], Finish.LENGTH),
        ([7, 8, 9], 2, [7, 8], Finish.LENGTH),
        ([7, 1, 9], 5, [7], Finish.STOP),
        ([1], 5, [], Finish.STOP),
        ([7, 1], 2, [7], Finish.STOP),
        ([7, 8, 1], 2, [7, 8], Finish.LENGTH),
    ],
)
def test_commit(proposed: list[int], room: int, kept: list[int], finish: Finish | None) -> None:
    assert commit(proposed, room, frozenset({1})) == (kept, finish)


@pytest.mark.parametrize(
    ("proposed", "room", "kept"), [([5, 7, 3], 9, [5, 7]), ([5, 1, 7], 9, [5]), ([5, 7], 1, [5]), ([7], 1, [7])]
)
def test_an_end_that_is_shown_is_the_last_token(proposed: list[int], room: int, kept: list[int]) -> None:
    tokens, finish = commit(proposed, room, frozenset({1, 7}), frozenset({7}))
    assert tokens == kept
    assert finish is (Finish.LENGTH if proposed == [5, 7] else Finish.STOP)


def test_all_that_runs_and_fits_decodes() -> None:
    running = [sequence(i, row=i) for i in range(3)]
    todo = schedule(running, [], LIMITS, UNKNOWN)
    assert (todo.preempt, todo.admit, todo.prefill, names(todo.decode)) == ((), (), (), ["0", "1", "2"])


def test_the_queue_is_admitted_in_order_and_a_large_head_blocks() -> None:
    running = [sequence(0, tokens=80)]
    waiting = [sequence(1, tokens=99, cached=0), sequence(2, tokens=2, cached=0)]
    assert names(schedule(running, waiting, LIMITS, UNKNOWN).admit) == []
    assert names(schedule(running, waiting[1:], LIMITS, UNKNOWN).admit) == ["2"]


def test_an_idle_engine_admits_whatever_was_accepted() -> None:
    waiting = [sequence(1, tokens=99, cached=0)]
    limits = Limits(capacity=100, context=100, growth=64, prefill_budget=32, rows=4)
    assert names(schedule([], waiting, limits, UNKNOWN).admit) == ["1"]


def test_rows_limit_admission() -> None:
    waiting = [sequence(i, tokens=2, cached=0) for i in range(9)]
    assert names(schedule([], waiting, LIMITS, UNKNOWN).admit) == ["0", "1", "2", "3"]


def test_the_least_urgent_leave_first_but_never_all() -> None:
    running = [sequence(0, 70), sequence(1, 70, priority=1), sequence(2, 70), sequence(3, 70, priority=1)]
    assert names(schedule(running, [], LIMITS, UNKNOWN).preempt) == ["2", "0"]
    tight = Limits(capacity=10, context=100, growth=8, prefill_budget=32, rows=4)
    assert names(schedule(running, [sequence(4)], tight, UNKNOWN).decode) == ["1"]
    assert schedule(running, [sequence(4)], tight, UNKNOWN).admit == ()


def test_the_prefill_budget_goes_to_the_most_urgent() -> None:
    behind = [sequence(0, 30, cached=0), sequence(1, 20, cached=0), sequence(2, 20, cached=0, priority=1)]
    shares = {s.request_id: tokens for s, _, tokens in schedule(behind, [], LIMITS, at(piece=40)).prefill}
    assert shares == {"2": 19, "0": 21}
    todo = schedule(behind, [], LIMITS, UNKNOWN)
    assert names(todo.decode) == ["2"]


def test_a_short_prompt_passes_a_long_one_that_is_half_computed() -> None:
    long, short = sequence(0, 90, cached=40, row=0), sequence(1, 10, cached=0)
    long.due, short.due = 1.0, 0.9
    todo = schedule([long], [short], LIMITS, at(1000.0))
    assert [(s.request_id, tokens) for s, _, tokens in todo.prefill] == [("1", 9), ("0", 23)]
    long.due = 0.05  # the time that it needs
    todo = schedule([long], [short], LIMITS, at(1000.0))
    assert [(s.request_id, tokens) for s, _, tokens in todo.prefill] == [("0", 32)]


def test_a_late_prompt_yields_but_has_a_row_and_a_part_of_each_piece() -> None:
    late, running = sequence(0, 40, cached=0), [sequence(i, 99, cached=0, row=i) for i in (1, 2, 3)]
    late.due, late.arrived = -1.0, -2.0
    waiting = [late, sequence(4, 10, cached=0)]
    for each in (*running, waiting[1]):
        each.due = 10.0
    todo = schedule(running, waiting, Limits(900, 100, 8, 32, 4), at(1000.0))
    assert names(todo.admit) == ["0"], "the last row is for the one that has yielded for longest"
    assert [(s.request_id, tokens) for s, _, tokens in todo.prefill] == [("1", 28), ("0", 4)]


def test_one_in_the_middle_of_its_answer_goes_first() -> None:
    resumed, urgent = sequence(0, 30, cached=0), sequence(1, 30, cached=0, priority=9)
    resumed.begin, urgent.due = 20, 0.1
    todo = schedule([], [urgent, resumed], LIMITS, at(1000.0))
    assert [(s.request_id, tokens) for s, _, tokens in todo.prefill] == [("0", 29), ("1", 3)]


def test_groups_are_by_point_and_in_row_order() -> None:
    rows = [sequence(i, row=3 - i) for i in range(4)]
    pinned = speculation(8)
    found = groups(rows, lambda s: pinned if s.arrival % 2 else AR)
    assert [(p, [s.row for s in members]) for p, members in found] == [(pinned, [0, 2]), (AR, [1, 3])]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_swaps_line_groups_up_and_touch_nobody_else(assigned: list[int]) -> None:
    members = [[row for row, group in enumerate(assigned) if group == g] for g in range(4)]
    holds = dict(enumerate(assigned))
    wanted = sorted(assigned)
    misplaced = sum(a != b for a, b in zip(assigned, wanted, strict=True))
    done = swaps(members)
    for a, b in done:
        holds[a], holds[b] = holds[b], holds[a]
    assert [holds[row] for row in range(len(assigned))] == wanted
    assert len(done) <= max(0, misplaced - 1) or misplaced == 0


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    running=st.lists(st.tuples(st.integers(1, 99), st.floats(0, 1), st.integers(0, 2)), max_size=4),
    waiting=st.lists(st.tuples(st.integers(1, 99), st.integers(0, 2)), max_size=6),
    capacity=st.integers(100, 400),
    budget=st.integers(1, 120),
)
def test_any_schedule_keeps_the_limits(running: Any, waiting: Any, capacity: int, budget: int) -> None:
    limits = Limits(capacity, 100, 8, budget, 4)
    live = [sequence(i, n, cached=int(share * (n - 1)), row=i, priority=p) for i, (n, share, p) in enumerate(running)]
    queue = sorted((sequence(10 + i, n, 0, priority=p) for i, (n, p) in enumerate(waiting)), key=lambda s: s.urgency)
    todo = schedule(live, queue, limits, at(piece=budget))
    kept = [s for s in live if s not in todo.preempt] + list(todo.admit)
    assert list(todo.admit) == queue[: len(todo.admit)]
    assert len(kept) <= 4
    assert len(kept) <= 1 or sum(min(len(s.tokens) + 8, 100) for s in kept) <= capacity
    assert sum(tokens for _, _, tokens in todo.prefill) <= budget
    assert all(0 < tokens <= s.missing and s in kept for s, _, tokens in todo.prefill)
    assert kept == [] or todo.prefill or todo.decode, "nothing moves"
    assert bool(kept) or not (live or queue)


@pytest.mark.parametrize(
    ("step", "rows"), [(0, [*range(25)]), (9, [0, 1, 2, *range(4, 26)])], ids=["one span: moved", "spans: left alone"]
)
def test_rows_move_only_where_attention_then_reads_them_without_a_copy(step: int, rows: list[int]) -> None:
    """A prompt has row 3 in the midst of those who decode. They are of one length, or of such that differ."""
    config = ModelConfig.from_folder(TINY)
    cache = KVCache(config, 26, 400, torch.float32, torch.device("cpu"))
    decoding = [sequence(i, tokens=20 + step * i, row=i if i < 3 else i + 1) for i in range(25)]
    prompt = sequence(25, tokens=30, cached=0, row=3)
    line_up(cache, [*decoding, prompt], [decoding])
    assert sorted(s.row for s in decoding) == rows
    assert prompt.row not in rows
