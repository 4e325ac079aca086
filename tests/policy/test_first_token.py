"""Predicted first tokens: what is certain at the door, and what follows from it."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode_api.modes import AR, speculation
from trimode_policy.admit import RETRY_MOST_S, AdmissionLimits, AdmitReason, Outcome, QueueView, admit
from trimode_policy.first_token import (
    ENOUGH,
    MEMORY_S,
    Bounds,
    FirstToken,
    Forecast,
    PredictionError,
    Quantile,
    forecast,
    late_for_certain,
    prompt_seconds,
)
from trimode_policy.route import ReplicaView, RequestView, SloState, Staleness

STALENESS = Staleness(stale_after_s=2.0, dead_after_s=10.0)
EXACT = Bounds(1.0, 1.0)
ASK = RequestView("t", prompt_tokens=500, left_s=1.0)


def replica(name: str = "a", queued: int = 0, **changes: object) -> ReplicaView:
    """One that computes 1,000 prompt tokens a second."""
    view = ReplicaView(
        replica_id=name, pool="flex", ready=True, draining=False, age_s=0.1, in_flight=0, running=0, waiting=0,
        queued_prompt_tokens=queued, capacity=8, points=(AR, speculation(8)), prompt_tokens_per_second=1e3,
    )  # fmt: skip
    return replace(view, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("request_", "fleet", "bounds", "soonest"),
    [
        pytest.param(ASK, [replica(queued=400)], EXACT, None, id="in time"),
        pytest.param(ASK, [replica(queued=600)], EXACT, ("a", 1.1, 0.5), id="behind the prompts there"),
        pytest.param(ASK, [replica(queued=600)], Bounds(1.0, 0.5), None, id="it may pass them"),
        pytest.param(replace(ASK, prompt_tokens=900), [replica()], Bounds(1.5, 0.5), ("a", 1.35, 1.35), id="alone"),
        pytest.param(ASK, [replica(queued=900), replica("b", 700)], EXACT, ("b", 1.2, 0.5), id="the soonest"),
        pytest.param(ASK, [replica(queued=900), replica("b", 100)], EXACT, None, id="elsewhere"),
        pytest.param(ASK, [replica(queued=900), replica("b", 900, draining=True)], EXACT, ("a", 1.4, 0.5), id="drains"),
        pytest.param(ASK, [replica(queued=900), replica("b", 9, ready=False)], EXACT, ("a", 1.4, 0.5), id="not ready"),
        pytest.param(replace(ASK, held={"a": 450}), [replica(queued=600)], EXACT, None, id="it holds most of it"),
        pytest.param(ASK, [replica(queued=900, prompt_tokens_per_second=0.0)], EXACT, None, id="speed unknown"),
        pytest.param(ASK, [replica(queued=900), replica("b", 900, age_s=3.0)], EXACT, None, id="a stale report"),
        pytest.param(ASK, [replica(queued=9000)], Bounds(0.0, 0.0), None, id="nothing measured"),
        pytest.param(replace(ASK, left_s=math.inf), [replica(queued=9000)], EXACT, None, id="no objective"),
        pytest.param(replace(ASK, slo_state=SloState.RESUMED), [replica(queued=900)], EXACT, None, id="goes on"),
        pytest.param(replace(ASK, slo_state=SloState.LATE), [replica(queued=900)], EXACT, None, id="known to be late"),
        pytest.param(ASK, [], EXACT, None, id="no replica"),
    ],
)
def test_late_for_certain(
    request_: RequestView, fleet: list[ReplicaView], bounds: Bounds, soonest: tuple[str, float, float] | None
) -> None:
    found = late_for_certain(request_, fleet, STALENESS, bounds)
    assert (found is None) == (soonest is None)
    if found is not None and soonest is not None:
        assert (found.replica_id, found.earliest_s, found.alone_s) == pytest.approx(soonest)


@pytest.mark.parametrize(
    ("held", "speeds", "seconds"),
    [
        pytest.param({}, (500.0, 1500.0, 0.0), 0.5, id="mean of those known"),
        pytest.param({"a": 100, "b": 400}, (1000.0, 1000.0), 0.1, id="the most that one holds"),
        pytest.param({"a": 600}, (1000.0,), 0.0, id="all of it"),
        pytest.param({}, (0.0,), 0.0, id="unknown"),
        pytest.param({}, (), 0.0, id="no replica"),
    ],
)
def test_seconds_of_its_own_prompt(held: dict[str, int], speeds: tuple[float, ...], seconds: float) -> None:
    fleet = [replica(f"r{i}", prompt_tokens_per_second=speed) for i, speed in enumerate(speeds)]
    assert prompt_seconds(replace(ASK, held=held), fleet) == pytest.approx(seconds)


queues = st.lists(st.integers(0, 5000), max_size=6)
requests = st.builds(RequestView, prompt_tokens=st.integers(0, 5000), left_s=st.floats(0.01, 10))
bounds_ = st.builds(Bounds, st.floats(0, 4), st.floats(0, 4))


@given(requests, queues, bounds_)
def test_late_only_where_no_replica_could_have_it_in_time(ask: RequestView, queued: list[int], known: Bounds) -> None:
    fleet = [replica(f"r{i}", tokens) for i, tokens in enumerate(queued)]
    found = late_for_certain(ask, fleet, STALENESS, known)
    times = [
        max(known.own * each.own_s, known.work * each.work_s) for r in fleet if (each := forecast(ask, r)) is not None
    ]
    assert (found is not None) == (bool(times) and min(times) > ask.left_s)
    if found is not None:
        assert found.earliest_s == min(times)
        assert found.alone_s <= found.earliest_s


@given(requests, queues, bounds_, st.integers(0, 5000))
def test_monotone_in_queued_work_and_in_the_prompt(
    ask: RequestView, queued: list[int], known: Bounds, more: int
) -> None:
    def soonest(request: RequestView, extra: int) -> float:
        fleet = [replica(f"r{i}", tokens + extra) for i, tokens in enumerate(queued)]
        found = late_for_certain(request, fleet, STALENESS, known)
        return 0.0 if found is None else found.earliest_s

    assert soonest(ask, more) >= soonest(ask, 0)
    assert soonest(replace(ask, prompt_tokens=ask.prompt_tokens + more), 0) >= soonest(ask, 0)


@given(requests, queues, bounds_, st.integers(0, 9000), st.booleans(), st.randoms(use_true_random=False))
def test_more_replicas_and_another_order_never_make_it_worse(
    ask: RequestView, queued: list[int], known: Bounds, another: int, ready: bool, chance: random.Random
) -> None:
    fleet = [replica(f"r{i}", tokens) for i, tokens in enumerate(queued)]
    before = late_for_certain(ask, fleet, STALENESS, known)
    shuffled = chance.sample(fleet, len(fleet))
    same = late_for_certain(ask, shuffled, STALENESS, known)
    assert (same and same.earliest_s) == (before and before.earliest_s)
    after = late_for_certain(ask, [*fleet, replica("new", another, ready=ready)], STALENESS, known)
    if fleet and before is None:
        assert after is None
    if before is not None and after is not None:
        assert after.earliest_s <= before.earliest_s


@given(requests, queues, bounds_, st.floats(1, 10))
def test_more_time_never_makes_it_late(ask: RequestView, queued: list[int], known: Bounds, more: float) -> None:
    fleet = [replica(f"r{i}", tokens) for i, tokens in enumerate(queued)]
    if late_for_certain(ask, fleet, STALENESS, known) is None:
        assert late_for_certain(replace(ask, left_s=ask.left_s * more), fleet, STALENESS, known) is None


@pytest.mark.parametrize(("share", "sigma"), [(0.05, 0.3), (0.5, 0.3), (0.95, 0.3), (0.05, 0.8)])
def test_a_quantile_is_found_and_followed(share: float, sigma: float) -> None:
    chance, tracked = random.Random(1), Quantile(share)
    for centre in (0.7, -0.4):
        below = 0
        for turn in range(6000):
            ratio = math.exp(chance.gauss(centre, sigma))
            below += turn >= 3000 and ratio < tracked.value
            tracked.add(ratio, float(turn))
        assert below / 3000 == pytest.approx(share, abs=0.02)


def test_a_bound_takes_measurements_and_ends_without_them() -> None:
    errors = PredictionError()
    for turn in range(int(ENOUGH) + 1):
        assert errors.bounds(0.1 * turn) == Bounds(0.0, 0.0)
        assert errors.learn(Forecast(0.5, 0.8), 1.0, 1.0, 0.1 * turn)
    found = errors.bounds(2.0)
    assert 0 < found.work < 1.25
    assert 0 < found.own < 2.0
    # Whoever is refused is not measured: a bound that has become too high must not stand for ever.
    assert errors.bounds(2.0 + MEMORY_S) == Bounds(0.0, 0.0)


@pytest.mark.parametrize(
    ("known", "actual_s", "counts"),
    [
        (Forecast(0.3, 0.3), 0.5, True),
        (Forecast(0.01, 0.3), 0.5, True),
        (Forecast(0.01, 0.01), 0.05, False),  # nearly all of it is a cycle's time, not a prompt's
        (Forecast(0.3, 0.3), 0.0, False),
        (Forecast(0.3, 0.3), math.inf, False),
    ],
)
def test_only_what_prompts_took_is_learned(known: Forecast, actual_s: float, counts: bool) -> None:
    errors = PredictionError()
    assert errors.learn(known, 1.0, actual_s, 0.0) is counts
    assert errors.measured == counts
    assert (errors.own.recent > 0) == (counts and known.own_s >= 0.25)


def test_the_bound_holds_for_all_but_one_in_twenty() -> None:
    """Prompts wait for half of what is before them, more or less, and for those who decode."""
    chance, errors = random.Random(3), PredictionError()
    broken = asked = 0
    for turn in range(4000):
        known = Forecast(own := chance.uniform(0.3, 0.6), own + chance.choice([0.0, chance.uniform(0, 1)]))
        actual_s = (known.own_s + chance.random() * (known.work_s - known.own_s)) * chance.uniform(1.0, 2.0)
        found = errors.bounds(turn)
        if found.work and turn > 1000:
            asked += 1
            broken += actual_s < max(found.own * known.own_s, found.work * known.work_s)
        errors.learn(known, 1.0, actual_s, turn)
    assert asked > 2900
    assert broken / asked < 0.1  # two bounds, each broken by 5 %
    assert errors.predicted_s(Forecast(1, 1)) == pytest.approx(1.3, abs=0.25)
    assert errors.low.value < errors.middle.value < errors.high.value


CALM = QueueView(queued=0, oldest_wait_s=0.0, in_flight=3, capacity=8, drain_rate_rps=4.0, ready_replicas=2)
BEHIND = FirstToken("a", 3.6, 0.5)
ALONE = FirstToken("a", 1.35, 1.35)


@pytest.mark.parametrize(
    ("queue", "refuse", "outcome", "status", "retry", "reason"),
    [
        (replace(CALM, too_late=BEHIND), True, Outcome.REFUSE, 429, 3, AdmitReason.OBJECTIVE_OUT_OF_REACH),
        (replace(CALM, too_late=ALONE), True, Outcome.REFUSE, 429, RETRY_MOST_S, AdmitReason.OBJECTIVE_OUT_OF_REACH),
        (replace(CALM, too_late=BEHIND), False, Outcome.ACCEPT, 200, 0, AdmitReason.SERVED_LATE),
        (replace(CALM, queued=1, too_late=BEHIND), False, Outcome.QUEUE, 200, 0, AdmitReason.SERVED_LATE),
        (replace(CALM, queued=10, too_late=BEHIND), False, Outcome.REFUSE, 429, 3, AdmitReason.QUEUE_FULL),
        (replace(CALM, ready_replicas=0, too_late=BEHIND), False, Outcome.REFUSE, 503, 1, AdmitReason.NONE_READY),
        (CALM, True, Outcome.ACCEPT, 200, 0, AdmitReason.ROOM),
    ],
)
def test_what_becomes_of_them(
    queue: QueueView, refuse: bool, outcome: Outcome, status: int, retry: int, reason: AdmitReason
) -> None:
    admission = admit(ASK, queue, AdmissionLimits(10, 5.0, refuse))
    assert (admission.outcome, admission.status, admission.retry_after_s, admission.reason) == (
        outcome, status, retry, reason,
    )  # fmt: skip
    assert admission.late == (reason is AdmitReason.SERVED_LATE)
    if reason is AdmitReason.OBJECTIVE_OUT_OF_REACH:
        assert "500 tokens" in admission.detail
        assert "tier t leaves 1 s" in admission.detail
