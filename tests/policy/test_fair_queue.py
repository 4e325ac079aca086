"""Who goes next: order, tenants in turn, who is late, kinds that found no place, tickets that leave."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode_policy.fair_queue import FIRST_IN_LINE, PROMPT_WEIGHT, FairQueue

LONG = 1e9


def order(
    queue: FairQueue[str] | FairQueue[int], late: frozenset[object] = frozenset(), most: int = 10**6
) -> list[object]:
    """Whom it would serve, one after the other; what was offered beyond `most` stays."""
    served: list[object] = []

    def place(item: object) -> bool:
        if len(served) == most:
            return False
        served.append(item)
        return True

    queue.offer(lambda item: item in late, place)
    return served


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans(), st.sampled_from(["x", "y", None])), max_size=60)
)
def test_late_ones_last_then_priority_then_age(people: list[tuple[int, bool, bool, str | None]]) -> None:
    queue: FairQueue[int] = FairQueue()
    tickets = [
        queue.enter(index, priority, float(index), LONG, kind=kind)
        for index, (priority, _, _, kind) in enumerate(people)
    ]
    for ticket, (_, leaves, _, _) in zip(tickets, people, strict=True):
        if leaves:
            queue.leave(ticket)
            queue.leave(ticket)
    stay = [index for index, person in enumerate(people) if not person[1]]
    late = frozenset(index for index in stay if people[index][2])
    assert len(queue) == len(stay)
    assert queue.oldest() == (float(min(stay)) if stay else None)
    by_turn = sorted(stay, key=lambda index: (-people[index][0], index))
    last = queue.last()
    assert (last.item if last else None) == (by_turn[-1] if by_turn else None)
    for priority in range(4):
        assert queue.at(priority) == sum(people[index][0] == priority for index in stay)
        assert queue.below(priority) == sum(people[index][0] < priority for index in stay)
    assert order(queue, late, most=0) == []  # offering in vain changes nothing
    assert order(queue, late) == sorted(stay, key=lambda index: (index in late, -people[index][0], index))
    assert len(queue) == 0


def test_one_that_finds_no_place_closes_its_kind_only() -> None:
    queue: FairQueue[str] = FairQueue()
    for name, kind in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("odd1", None), ("odd2", None)]:
        queue.enter(name, 0, 0.0, LONG, kind=kind)
    tried: list[str] = []

    def place(item: str) -> bool:
        tried.append(item)
        return item.startswith("b")

    queue.offer(lambda item: False, place)
    assert tried == ["a1", "b1", "odd1", "odd2"]
    assert [ticket.item for ticket in queue] == ["a1", "a2", "odd1", "odd2"]


def test_who_leaves_while_others_are_placed_is_not_offered() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.enter("first", 0, 0.0, LONG, kind="k")
    gone = queue.enter("gone", 0, 1.0, LONG, kind="k")
    queue.enter("third", 0, 2.0, LONG, kind="k")
    served: list[str] = []

    def place(item: str) -> bool:
        queue.leave(gone)
        served.append(item)
        return True

    queue.offer(lambda item: False, place)
    assert served == ["first", "third"]


@pytest.mark.parametrize("kind", ["one", None])
def test_tickets_that_left_are_forgotten(kind: str | None) -> None:
    queue: FairQueue[int] = FairQueue()
    queue.enter(-1, 0, 0.0, LONG, kind=kind)
    for index in range(10_000):
        queue.leave(queue.enter(index, 0, float(index), 0.0, kind=kind))
    assert sum(map(len, queue._heaps.values())) < 200
    assert order(queue) == [-1]


def test_waiting_ends_at_its_time() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.enter("a", 0, 0.0, 2.0)
    queue.enter("b", 5, 1.0, 3.0)
    assert [ticket.item for ticket in queue.expired(2.0)] == ["a"]
    assert order(queue) == ["b"]


@given(st.lists(st.sampled_from("abc"), max_size=40), st.integers(0, 40))
def test_tenants_take_turns(arrivals: list[str], served: int) -> None:
    """Among tenants that wait, nobody is served more than one request ahead of another."""
    queue: FairQueue[str] = FairQueue()
    for index, tenant in enumerate(arrivals):
        queue.enter(tenant, 0, float(index), LONG, tenant=tenant, kind="k")
    left, got = Counter(arrivals), Counter[object]()
    for _ in range(min(served, len(arrivals))):
        (item,) = order(queue, most=1)
        got[item] += 1
        left[str(item)] -= 1
        for tenant in "abc":
            assert not left[tenant] or max(got.values()) - got[tenant] <= 1


def test_a_flood_does_not_delay_a_newcomer() -> None:
    queue: FairQueue[str] = FairQueue()
    for index in range(50):
        queue.enter(f"flood-{index}", 0, 0.0, LONG, tenant="flood", kind="k")
    order(queue, most=10)
    queue.enter("newcomer", 0, 1.0, LONG, tenant="other", kind="k")
    assert "newcomer" in order(queue, most=2)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-2, 2), st.booleans()), max_size=40), st.booleans())
def test_the_lowest_order_of_a_tenant_goes_first(people: list[tuple[int, int, bool]], named: bool) -> None:
    queue: FairQueue[int] = FairQueue()
    tickets = [
        queue.enter(index, priority, float(index), LONG, tenant="t" if named else "", kind="k", order=wanted)
        for index, (priority, wanted, _) in enumerate(people)
    ]
    for ticket, (_, _, leaves) in zip(tickets, people, strict=True):
        if leaves:
            queue.leave(ticket)
    stay = [index for index, person in enumerate(people) if not person[2]]
    by_turn = sorted(stay, key=lambda index: (-people[index][0], people[index][1], index))
    last = queue.last()
    assert (last.item if last else None) == (by_turn[-1] if by_turn else None)
    assert order(queue) == by_turn


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(-2, 2), st.integers(0, 4)), max_size=20),
    st.sampled_from(["k", None]),
)
def test_an_order_moves_nobody_elses_turn(people: list[tuple[str, int, int]], kind: str | None) -> None:
    """Which tenant is served when does not depend on the orders, though others are served and leave meanwhile."""
    served: list[list[str]] = []
    for ordered in (False, True):
        queue: FairQueue[str] = FairQueue()
        turns: list[str] = []
        for index, (tenant, wanted, serve) in enumerate(people):
            queue.enter(tenant, 0, float(index), LONG, tenant=tenant, kind=kind, order=wanted * ordered)
            turns += map(str, order(queue, most=serve // 2))
        served.append(turns + [str(item) for item in order(queue)])
    assert served[0] == served[1]


def test_tickets_that_were_passed_are_not_kept_twice() -> None:
    queue: FairQueue[int] = FairQueue()
    for index in range(300):
        queue.enter(index, 0, float(index), LONG, tenant="t", kind="k", order=-index)
    assert sum(map(len, queue._heaps.values())) < 1000
    late = frozenset({299, 298})
    assert order(queue, late) == [*range(297, -1, -1), 299, 298]


def test_priority_goes_before_turns() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.enter("low", 0, 0.0, LONG, tenant="a")
    for _ in range(3):
        queue.enter("high", 5, 1.0, LONG, tenant="b")
    assert order(queue) == ["high", "high", "high", "low"]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.integers(0, 40)), max_size=40))
def test_a_long_prompt_is_passed_for_as_long_as_it_yields_and_no_longer(people: list[tuple[int, int, int]]) -> None:
    """`people`: priority, time since the one before, and what each yields."""
    queue: FairQueue[int] = FairQueue()
    now, came = 0, list[tuple[int, int, int]]()
    for index, (priority, pause, yields) in enumerate(people):
        now += pause
        before = [i for i, (p, since, own) in enumerate(came) if p == priority and since + own <= now + yields]
        assert queue.ahead(priority, float(now), prompt_s=yields / PROMPT_WEIGHT) == len(before)
        queue.enter(index, priority, float(now), LONG, kind="k", prompt_s=yields / PROMPT_WEIGHT)
        came.append((priority, now, yields))
    served = order(queue)
    for turn, index in enumerate(served):
        priority, since, yields = came[int(str(index))]
        passed_by = [came[int(str(other))] for other in served[:turn] if int(str(other)) > int(str(index))]
        assert all(p > priority or at < since + yields for p, at, _ in passed_by)


def test_a_flood_is_not_ahead_of_a_newcomer_and_broken_streams_are() -> None:
    queue: FairQueue[str] = FairQueue()
    for index in range(50):
        queue.enter(f"flood-{index}", 0, 0.0, LONG, tenant="flood", kind="k")
    queue.enter("broken", FIRST_IN_LINE, 0.0, LONG)
    assert queue.ahead(0, 1.0, tenant="flood") == 51
    assert queue.ahead(0, 1.0, tenant="other") == 2
    order(queue, most=11)
    assert queue.ahead(0, 1.0, tenant="flood") == 40
