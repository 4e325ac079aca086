"""Replicas that pools share: how they are split, and the steps of a move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode_policy.rebalance import EVERY_S, Demand, MoveReason
from trimode_policy.sharing import REST, STUCK_S, Move, Phase, SharedPool, Split, shares, step

FEW, MANY = Demand(4, 8), Demand(150, 180)


def line(base: float, slope: float) -> Callable[[int], float | None]:
    return lambda batch: base + slope * batch


AR = SharedPool("ar", 1, 4, there=3, ready=3, pace=line(4e-3, 0.05e-3), capacity=64, first=True)
FAST = SharedPool("fast", 1, 3, there=1, ready=1, pace=line(1e-3, 0.3e-3), capacity=64)


def pools(ar: int = 3, fast: int = 1, ar_ready: int | None = None, fast_ready: int | None = None) -> list[SharedPool]:
    return [
        replace(AR, there=ar, ready=ar if ar_ready is None else ar_ready),
        replace(FAST, there=fast, ready=fast if fast_ready is None else fast_ready),
    ]


@pytest.mark.parametrize(
    ("total", "granted", "expected"),
    [
        (2, {}, {"ar": 1, "fast": 1}),
        (4, {}, {"ar": 3, "fast": 1}),  # AR-heavy at the start
        (6, {}, {"ar": 4, "fast": 2}),  # as far as bounds allow
        (4, {"ar": 1, "fast": 3}, {"ar": 1, "fast": 3}),
        (5, {"ar": 1, "fast": 3}, {"ar": 2, "fast": 3}),
        (3, {"ar": 1, "fast": 3}, {"ar": 1, "fast": 2}),
        (4, {"ar": 9, "fast": 9}, {"ar": 3, "fast": 1}),
        (4, {"gone": 3}, {"ar": 3, "fast": 1}),
    ],
)
def test_the_split_keeps_bounds_total_and_what_was_granted(
    total: int, granted: dict[str, int], expected: dict[str, int]
) -> None:
    assert shares([AR, FAST], total, granted) == expected


def test_a_move_from_its_reason_to_the_replica_that_serves() -> None:
    begun = step(Split(), pools(), 4, FEW, 100.0, release_s=60.0)
    assert begun.reason is MoveReason.PREDICTED_GAIN
    assert begun.split.targets == {"ar": 2, "fast": 1}
    assert "ar -> fast" in begun.detail

    waits = step(begun.split, pools(ar=3, ar_ready=2), 4, FEW, 110.0, release_s=60.0)
    assert (waits.reason, waits.split) == (MoveReason.IN_TRANSITION, begun.split)

    gone = step(waits.split, pools(ar=2), 4, FEW, 120.0, release_s=60.0)
    assert gone.split.targets == {"ar": 2, "fast": 1}, "what it used is not free yet"
    assert gone.split.move is not None
    assert gone.split.move.phase is Phase.RELEASING
    assert step(gone.split, pools(ar=2), 4, FEW, 179.0, release_s=60.0).split == gone.split

    joins = step(gone.split, pools(ar=2), 4, FEW, 180.0, release_s=60.0)
    assert joins.split.targets == {"ar": 2, "fast": 2}
    loading = step(joins.split, pools(ar=2, fast=2, fast_ready=1), 4, FEW, 200.0, release_s=60.0)
    assert loading.split == joins.split
    done = step(loading.split, pools(ar=2, fast=2), 4, FEW, 300.0, release_s=60.0)
    assert done.split.move is not None
    assert not done.split.move.under_way
    assert "took 200 s" in done.detail


@pytest.mark.parametrize(("took", "pause"), [(10.0, EVERY_S), (600.0, REST * 600.0)])
def test_the_pause_after_a_move_grows_with_what_it_took(took: float, pause: float) -> None:
    split = Split({"ar": 3, "fast": 1}, Move("fast", "ar", Phase.DONE, 1000.0 - took, 1000.0))
    assert step(split, pools(), 4, FEW, 1000.0 + pause - 1, release_s=0.0).reason is MoveReason.DWELL
    assert step(split, pools(), 4, FEW, 1000.0 + pause + 1, release_s=0.0).reason is not MoveReason.DWELL


def test_a_move_that_took_too_long_to_pay_is_not_repeated() -> None:
    """What the last one took is the price of the next: half an hour away for a small gain is too much."""
    near = [AR, replace(FAST, pace=line(1e-3, 0.05e-3))]
    quick = Split({"ar": 3, "fast": 1}, Move("fast", "ar", Phase.DONE, 0.0, 60.0))
    slow = Split({"ar": 3, "fast": 1}, Move("fast", "ar", Phase.DONE, 0.0, 30_000.0))
    busy, late = Demand(100, 120), 1e6
    assert step(quick, near, 4, busy, late).reason is MoveReason.PREDICTED_GAIN
    assert step(slow, near, 4, busy, late).reason is MoveReason.NOT_WORTH_IT


def test_held_shows_the_move_and_makes_none() -> None:
    shown = step(Split(), pools(), 4, FEW, 100.0, held="dry run")
    assert shown.reason is MoveReason.HELD
    assert shown.detail.startswith("dry run: ar -> fast")
    assert shown.split == Split({"ar": 3, "fast": 1})


@pytest.mark.parametrize(
    ("seen", "demand", "reason"),
    [
        (pools(), None, MoveReason.NO_DATA),
        (pools(), Demand(0, 0), MoveReason.IDLE),
        (pools(ar=2), FEW, MoveReason.IN_TRANSITION),  # one has died and is being replaced
        (pools(ar_ready=2), FEW, MoveReason.IN_TRANSITION),
        (pools(), Demand(8, 240), MoveReason.KEPT),
        ([AR, replace(FAST, pace=lambda batch: None)], FEW, MoveReason.NO_DATA),
        ([AR, replace(FAST, most=1)], FEW, MoveReason.KEPT),
        ([replace(AR, least=3), FAST], FEW, MoveReason.KEPT),
    ],
)
def test_nothing_moves(seen: list[SharedPool], demand: Demand | None, reason: MoveReason) -> None:
    taken = step(Split({"ar": 3, "fast": 1}), seen, 4, demand, 100.0)
    assert (taken.reason, taken.split) == (reason, Split({"ar": 3, "fast": 1}))


def test_a_move_that_never_ends_says_so() -> None:
    joining = Split({"ar": 2, "fast": 2}, Move("ar", "fast", Phase.JOINING, 0.0, 10.0))
    assert step(joining, pools(ar=2), 4, FEW, STUCK_S + 1).reason is MoveReason.STUCK


def test_a_pool_that_goes_takes_its_move_along() -> None:
    leaving = Split({"ar": 2, "fast": 1}, Move("ar", "fast", Phase.LEAVING, 0.0, 0.0))
    other = replace(FAST, name="other")
    assert step(leaving, [AR, other], 4, None, 10.0).split == Split({"ar": 3, "other": 1})


def test_a_total_that_is_lowered_meanwhile_shrinks_the_source_before_the_target_grows() -> None:
    releasing = Split({"ar": 2, "fast": 1}, Move("ar", "fast", Phase.RELEASING, 0.0, 0.0))
    pools = [replace(AR, there=2, ready=2), replace(FAST, there=1, ready=1)]
    waiting = step(releasing, pools, 3, None, 100.0, release_s=60.0).split
    assert (waiting.targets, waiting.move and waiting.move.phase) == ({"ar": 1, "fast": 1}, Phase.LEAVING)
    pools[0] = replace(AR, there=1, ready=1)
    gone = step(waiting, pools, 3, None, 200.0, release_s=60.0).split
    assert gone.move is not None
    assert gone.move.phase is Phase.RELEASING
    assert step(gone, pools, 3, None, 260.0, release_s=60.0).split.targets == {"ar": 1, "fast": 2}


@given(
    st.lists(
        st.tuples(st.floats(1, 400), st.sampled_from(["idle", "few", "many", "gap"]), st.booleans(), st.integers(2, 7)),
        min_size=3,
        max_size=25,
    )
)
def test_never_more_than_the_total_never_out_of_bounds_one_at_a_time(
    story: list[tuple[float, str, bool, int]],
) -> None:
    """A fleet that does what it is told, sooner or later, under a total that people change."""
    now, split = 0.0, Split()
    there = {"ar": 0, "fast": 0}
    loads = {"idle": Demand(0, 0), "few": FEW, "many": MANY, "gap": None}
    changed_at, last_total = 0.0, None
    for passed, load, obeys, wanted in story:
        total = wanted if now - changed_at > 1000 or last_total is None else last_total
        if total != last_total:
            changed_at, last_total = now, total
        now += passed
        seen = [
            replace(AR, there=there["ar"], ready=there["ar"]),
            replace(FAST, there=there["fast"], ready=there["fast"]),
        ]
        before = split.move
        taken = step(split, seen, total, loads[load], now, release_s=60.0)
        split = taken.split
        between = split.move is not None and split.move.between
        assert sum(split.targets.values()) + between == total
        assert all(pool.least <= split.targets[pool.name] <= pool.most for pool in seen)
        if before is not None and before.under_way and split.move is not None:
            assert split.move.begun == before.begun, "one at a time"
            if before.between and split.move.phase is Phase.JOINING:
                assert there[split.move.source] <= split.targets[split.move.source], "shrinks before the other grows"
        if obeys:
            there = dict(split.targets)
