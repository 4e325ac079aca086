"""What may be probed and paid for, by tables and properties."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode_api.modes import AR, OperatingPoint, speculation
from trimode_policy.curves import Estimate
from trimode_policy.probing import (
    BUDGET_SHARE,
    MAX_BUDGET_S,
    OWN_REVISIT_S,
    REPEATS_SHARE,
    REVISIT_S,
    RIVAL_S,
    ProbeBudget,
    candidate,
)

S8, S16, S32 = speculation(8), speculation(16), speculation(32)
FULL = ProbeBudget(at=0.0)
NO_REPEATS = ProbeBudget(at=0.0, repeats=0.0)


def estimate(point: OperatingPoint, pace: float, idle_s: float, seen: int = 50) -> Estimate:
    """Known well: only a pace that is really near may win."""
    return Estimate(point, 0.3, 0.3 / pace, pace, 1e-4, 0.0, seen, idle_s)


HERE, TIE = estimate(S8, 0.1, 0.0), estimate(S16, 0.1, RIVAL_S)


@pytest.mark.parametrize(
    ("known", "budget", "expected"),
    [
        pytest.param([TIE], FULL, S16, id="a tie is compared again"),
        pytest.param([TIE], NO_REPEATS, None, id="not beyond what repeats may cost"),
        pytest.param([TIE, estimate(AR, 0.5, REVISIT_S)], FULL, AR, id="another mode goes before a tie"),
        pytest.param([TIE, estimate(AR, 0.5, REVISIT_S - 1)], FULL, S16, id="once it is out of use for long"),
        pytest.param([TIE, estimate(S32, 0.5, OWN_REVISIT_S)], FULL, S32, id="so does a point of the same mode"),
        pytest.param([TIE, estimate(S32, 0.5, OWN_REVISIT_S - 1)], FULL, S16, id="after longer"),
        pytest.param([TIE, estimate(S32, 0.5, inf)], FULL, S16, id="one that never ran waits for its uncertainty"),
        pytest.param(
            [TIE, estimate(AR, 0.5, REVISIT_S)], ProbeBudget(0.31, repeats=0.3), S16, id="while there is too little"
        ),
        pytest.param(
            [estimate(S16, 0.05, RIVAL_S), estimate(AR, 0.5, REVISIT_S)], FULL, AR, id="even before a faster one"
        ),
    ],
)
def test_who_is_looked_at(known: list[Estimate], budget: ProbeBudget, expected: OperatingPoint | None) -> None:
    found = candidate(HERE, [HERE, *known], 0.05, budget, 0.0)
    assert (None if found is None else found.point) == expected


costs = st.lists(st.tuples(st.floats(0.0, 30.0), st.floats(0.0, 5.0)), max_size=60)


@given(costs)
def test_repeated_comparisons_never_keep_a_waiting_point_from_its_look(repeats: list[tuple[float, float]]) -> None:
    """Whatever they cost, two minutes of busy time are enough for any probe that waits."""
    budget, now, overdrawn = ProbeBudget(at=0.0, seconds=0.0, repeats=0.0), 0.0, 0.0
    for pause_s, cost in repeats:
        now += pause_s
        if budget.affords(1e9, now):
            return  # one that waits goes before repeats, see `candidate`
        if budget.affords(cost, now, repeat=True):
            overdrawn = max(overdrawn, cost - budget.available(now, repeat=True))
            budget = budget.pay(cost, now, inconclusive=False, repeat=True)
    waited_s = (MAX_BUDGET_S + overdrawn) / (BUDGET_SHARE * (1.0 - REPEATS_SHARE)) + 1.0
    assert budget.affords(1e9, max(now, waited_s))


@given(costs, st.lists(st.booleans(), min_size=60, max_size=60))
def test_no_more_is_spent_than_was_earned_but_for_one_overdraft(
    probes: list[tuple[float, float]], repeated: list[bool]
) -> None:
    budget, now, spent, dearest = ProbeBudget(at=0.0), 0.0, 0.0, 0.0
    for (pause_s, cost), repeat in zip(probes, repeated, strict=False):
        now += pause_s
        assert budget.available(now, repeat=True) <= budget.available(now)
        if budget.affords(cost, now, repeat):
            budget, spent, dearest = budget.pay(cost, now, False, repeat), spent + cost, max(dearest, cost)
    assert spent <= MAX_BUDGET_S + BUDGET_SHARE * now + dearest + 1e-9
