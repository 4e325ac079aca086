from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode_policy.admit import (
    RETRY_MOST_S,
    RETRY_UNKNOWN_S,
    AdmissionLimits,
    AdmitReason,
    Outcome,
    QueueView,
    admit,
    retry_after_seconds,
)
from trimode_policy.route import RequestView

LIMITS = AdmissionLimits(max_queued=10, max_wait_s=5.0)
CALM = QueueView(queued=0, oldest_wait_s=0.0, in_flight=3, capacity=8, drain_rate_rps=4.0, ready_replicas=2)
FULL = replace(CALM, in_flight=8)
ASLEEP = replace(CALM, in_flight=0, capacity=0, ready_replicas=0)
ANY = RequestView()


@pytest.mark.parametrize(
    ("queue", "outcome", "status", "retry", "reason"),
    [
        (CALM, Outcome.ACCEPT, 200, 0, AdmitReason.ROOM),
        (replace(CALM, queued=4), Outcome.ACCEPT, 200, 0, AdmitReason.ROOM),
        (replace(CALM, queued=5), Outcome.QUEUE, 200, 0, AdmitReason.WAIT_FOR_ROOM),
        (FULL, Outcome.QUEUE, 200, 0, AdmitReason.WAIT_FOR_ROOM),
        (replace(FULL, queued=10), Outcome.REFUSE, 429, 3, AdmitReason.QUEUE_FULL),
        (replace(FULL, queued=9, drain_rate_rps=1.0), Outcome.REFUSE, 429, 10, AdmitReason.WAIT_TOO_LONG),
        (replace(FULL, queued=9, drain_rate_rps=1.0, spare=1), Outcome.ACCEPT, 200, 0, AdmitReason.SPILLS),
        (replace(FULL, queued=9, drain_rate_rps=100.0, spare=1), Outcome.QUEUE, 200, 0, AdmitReason.WAIT_FOR_ROOM),
        (replace(FULL, queued=9, drain_rate_rps=100.0), Outcome.QUEUE, 200, 0, AdmitReason.WAIT_FOR_ROOM),
        (replace(CALM, ready_replicas=0), Outcome.REFUSE, 503, 1, AdmitReason.NONE_READY),
        (replace(ASLEEP, waking=True), Outcome.QUEUE, 200, 0, AdmitReason.WAKES_POOL),
        (replace(ASLEEP, waking=True, queued=9), Outcome.QUEUE, 200, 0, AdmitReason.WAKES_POOL),
        (replace(ASLEEP, waking=True, queued=10), Outcome.REFUSE, 429, 3, AdmitReason.QUEUE_FULL),
        (replace(FULL, queued=1, drain_rate_rps=0.0), Outcome.QUEUE, 200, 0, AdmitReason.WAIT_FOR_ROOM),
        (
            replace(FULL, queued=1, drain_rate_rps=0.0, oldest_wait_s=6.0),
            Outcome.REFUSE,
            429,
            RETRY_UNKNOWN_S,
            AdmitReason.WAIT_TOO_LONG,
        ),
        (replace(FULL, queued=10, queued_below=2), Outcome.QUEUE, 200, 0, AdmitReason.DISPLACES_LOWER),
    ],
)
def test_cases(queue: QueueView, outcome: Outcome, status: int, retry: int, reason: AdmitReason) -> None:
    admission = admit(ANY, queue, LIMITS)
    assert (admission.outcome, admission.status, admission.retry_after_s, admission.reason) == (
        outcome,
        status,
        retry,
        reason,
    )
    assert admission.detail


def test_lower_priority_ahead_in_the_queue_is_no_reason_to_wait() -> None:
    slow = replace(FULL, queued=9, drain_rate_rps=1.0)
    assert admit(ANY, slow, LIMITS).outcome is Outcome.REFUSE
    assert admit(ANY, replace(slow, queued_below=8), LIMITS).outcome is Outcome.QUEUE


def test_who_would_be_late_for_certain_is_refused_at_the_door() -> None:
    """Even if every request that ends made room for one of those ahead."""
    busy = replace(FULL, queued=6, drain_rate_rps=4.0)
    ask = RequestView(tier="premium", left_s=0.5)
    refused = admit(ask, busy, LIMITS)
    assert (refused.outcome, refused.status, refused.reason) == (
        Outcome.REFUSE,
        429,
        AdmitReason.OBJECTIVE_OUT_OF_REACH,
    )
    assert refused.retry_after_s == 2
    assert "premium" in refused.detail
    assert admit(ask, replace(busy, ahead=0), LIMITS).outcome is Outcome.QUEUE  # those of other tiers are not ahead
    assert admit(replace(ask, left_s=5.0), busy, LIMITS).outcome is Outcome.QUEUE
    assert admit(ask, replace(busy, drain_rate_rps=0.0), LIMITS).outcome is Outcome.QUEUE  # nothing is known


@given(st.floats(0.01, 10), st.floats(0.01, 10), st.integers(0, 30), st.floats(0.1, 50))
def test_a_looser_objective_is_never_refused_where_a_stricter_one_is_not(
    strict: float, more: float, ahead: int, rate: float
) -> None:
    queue = replace(FULL, queued=ahead, drain_rate_rps=rate)
    if admit(RequestView(left_s=strict), queue, LIMITS).outcome is not Outcome.REFUSE:
        assert admit(RequestView(left_s=strict + more), queue, LIMITS).outcome is not Outcome.REFUSE


@pytest.mark.parametrize(
    ("queued", "rate", "seconds"), [(0, 100.0, 1), (9, 1.0, 10), (1000, 0.1, RETRY_MOST_S), (5, 0.0, RETRY_UNKNOWN_S)]
)
def test_retry_after(queued: int, rate: float, seconds: int) -> None:
    assert retry_after_seconds(replace(FULL, queued=queued, drain_rate_rps=rate)) == seconds


@pytest.mark.parametrize(("field", "value"), [("max_queued", -1), ("max_wait_s", -0.1), ("max_wait_s", math.nan)])
def test_limits_refuse_nonsense_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        AdmissionLimits(**{field: value})  # type: ignore[arg-type]


def test_default_limits() -> None:
    assert AdmissionLimits() == AdmissionLimits(max_queued=256, max_wait_s=30.0)


counts = st.integers(0, 40)
queues = st.builds(
    QueueView, queued=counts, oldest_wait_s=st.floats(0, 100), in_flight=counts, capacity=counts,
    drain_rate_rps=st.one_of(st.just(0.0), st.just(math.nan), st.floats(1e-300, 1e6)), ready_replicas=st.integers(0, 3),
    queued_below=counts,
)  # fmt: skip
limits = st.builds(AdmissionLimits, max_queued=st.integers(0, 30), max_wait_s=st.floats(0, 60))


@given(queues, limits)
def test_a_refusal_says_when_to_come_back_and_nothing_else_does(queue: QueueView, limit: AdmissionLimits) -> None:
    admission = admit(ANY, queue, limit)
    if admission.outcome is Outcome.REFUSE:
        assert admission.status in (429, 503)
        assert (admission.status == 503) == (queue.ready_replicas == 0)
        assert 1 <= admission.retry_after_s <= RETRY_MOST_S
    else:
        assert (admission.status, admission.retry_after_s) == (200, 0)


@given(queues, limits)
def test_nobody_is_refused_while_there_is_room(queue: QueueView, limit: AdmissionLimits) -> None:
    if queue.ready_replicas and queue.in_flight + queue.queued < queue.capacity:
        assert admit(ANY, queue, limit).outcome is Outcome.ACCEPT


@given(queues, limits, st.integers(0, 40), st.integers(0, 40), st.floats(0, 1), st.floats(1, 10))
def test_less_load_never_refuses_what_more_would_take(
    queue: QueueView, limit: AdmissionLimits, fewer: int, done: int, share: float, faster: float
) -> None:
    queue = replace(queue, queued_below=0)
    lighter = replace(
        queue,
        queued=max(0, queue.queued - fewer),
        in_flight=max(0, queue.in_flight - done),
        oldest_wait_s=queue.oldest_wait_s * share,
        drain_rate_rps=queue.drain_rate_rps * faster,
    )
    rank = {Outcome.REFUSE: 0, Outcome.QUEUE: 1, Outcome.ACCEPT: 2}
    assert rank[admit(ANY, lighter, limit).outcome] >= rank[admit(ANY, queue, limit).outcome]


@given(queues, limits, st.integers(1, 40))
def test_no_priority_inversion(queue: QueueView, limit: AdmissionLimits, outranked: int) -> None:
    """Under the same queue, one that outranks more of it is never treated worse."""
    rank = {Outcome.REFUSE: 0, Outcome.QUEUE: 1, Outcome.ACCEPT: 2}
    higher = replace(queue, queued_below=queue.queued_below + outranked)
    assert rank[admit(ANY, higher, limit).outcome] >= rank[admit(ANY, queue, limit).outcome]


@given(queues, limits, st.floats(0.1, 10))
def test_the_unit_of_time_does_not_matter(queue: QueueView, limit: AdmissionLimits, unit: float) -> None:
    scaled = replace(queue, oldest_wait_s=queue.oldest_wait_s * unit, drain_rate_rps=queue.drain_rate_rps / unit)
    other = replace(limit, max_wait_s=limit.max_wait_s * unit)
    waits = (queue.queued - queue.queued_below + 1) / queue.drain_rate_rps if queue.drain_rate_rps > 0 else 0.0
    near = math.isclose(max(waits, 0), limit.max_wait_s, rel_tol=1e-6) or math.isclose(
        queue.oldest_wait_s, limit.max_wait_s, rel_tol=1e-6
    )
    if not near:
        assert admit(ANY, scaled, other).outcome is admit(ANY, queue, limit).outcome
