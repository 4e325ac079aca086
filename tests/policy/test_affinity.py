"""What a router remembers of where prompts went, and what `route` makes of it."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from trimode_api.modes import AR
from trimode_policy.affinity import HOLDERS, Beginnings
from trimode_policy.route import AFFINITY, ReplicaView, RequestView, RouteReason, SloState, Staleness, route

STALENESS = Staleness(stale_after_s=2.0, dead_after_s=10.0)
ASK = RequestView(tier="standard", prompt_tokens=1000)


def replica(name: str, load: int = 0, **changes: object) -> ReplicaView:
    view = ReplicaView(
        replica_id=name, pool="flex", ready=True, draining=False, age_s=0.1, in_flight=load, running=load, waiting=0,
        queued_prompt_tokens=0, capacity=64, points=(AR,), rows={"standard": 40, "premium": 10},
        reserved_for="standard", prompt_tokens_per_second=10_000.0,
    )  # fmt: skip
    return replace(view, **changes)  # type: ignore[arg-type]


def test_the_longest_beginning_tells_what_is_held() -> None:
    memory = Beginnings()
    memory.sent([(256, 1), (512, 2)], "a")
    memory.sent([(256, 1)], "b")
    assert memory.held([(256, 1), (512, 2), (1024, 3)]) == {"a": 512, "b": 256}
    assert memory.held([(256, 9), (512, 2)]) == {}
    assert memory.held([]) == {}


def test_memory_is_bounded_and_what_is_used_stays() -> None:
    memory = Beginnings(most=100)
    for number in range(1000):
        memory.sent([(256, 0)], f"r{number % 50}")
        memory.sent([(256, number + 1)], "a")
    assert len(memory) == 100
    assert set(memory.held([(256, 0)])) == {f"r{number}" for number in range(50 - HOLDERS, 50)}
    assert memory.held([(256, 1)]) == {}


def test_who_has_the_beginning_is_preferred_while_its_load_stays_within_the_guard() -> None:
    ask, guard = replace(ASK, held={"a": 1000}), int(AFFINITY * 40)
    warm = route(ask, [replica("a", guard - 1), replica("b", 0)], STALENESS, 0)
    assert (warm.replica_id, warm.reason) == ("a", RouteReason.PREFIX_HELD)
    assert "1000 of 1000 tokens known" in warm.detail
    assert route(ask, [replica("a", guard + 1), replica("b", 0)], STALENESS, 0).replica_id == "b"
    half = replace(ASK, held={"a": 500})
    assert route(half, [replica("a", guard // 2 - 1), replica("b", 0)], STALENESS, 0).replica_id == "a"
    assert route(half, [replica("a", guard - 1), replica("b", 0)], STALENESS, 0).replica_id == "b"


def test_what_is_held_need_not_be_waited_for() -> None:
    ask = replace(ASK, prompt_tokens=9_000, left_s=0.5)
    assert route(ask, [replica("a", 1, queued_prompt_tokens=100)], STALENESS, 0).replica_id is None
    assert route(replace(ask, held={"a": 8_000}), [replica("a", 1, queued_prompt_tokens=100)], STALENESS, 0).replica_id


fleets = st.lists(
    st.builds(
        replica, st.text("abcd", min_size=1, max_size=2), st.integers(0, 70), ready=st.booleans(),
        age_s=st.sampled_from((0.0, 3.0, 10.1)), reserved_for=st.sampled_from((None, "standard", "premium")),
        queued_prompt_tokens=st.sampled_from((0, 100, 50_000)),
    ),
    max_size=6, unique_by=lambda r: r.replica_id,
)  # fmt: skip
asked = st.builds(
    RequestView, tier=st.sampled_from(("standard", "premium")), prompt_tokens=st.integers(0, 5000),
    slo_state=st.sampled_from(tuple(SloState)), left_s=st.sampled_from((0.1, 1.0, math.inf)),
)  # fmt: skip
holdings = st.dictionaries(st.text("abcd", min_size=1, max_size=2), st.integers(1, 10_000), max_size=5)


@given(asked, fleets, holdings, st.integers(0, 9))
def test_affinity_never_turns_a_request_away_nor_overfills(
    request: RequestView, fleet: list[ReplicaView], held: dict[str, int], seed: int
) -> None:
    cold, warm = route(request, fleet, STALENESS, seed), route(replace(request, held=held), fleet, STALENESS, seed)
    if cold.replica_id is not None:
        assert warm.replica_id is not None
    if warm.replica_id is not None:
        view = next(v for v in fleet if v.replica_id == warm.replica_id)
        assert view.ready
        assert view.age_s <= 10
        assert view.in_flight < view.capacity


@given(asked, fleets, holdings, st.integers(0, 9), st.randoms(use_true_random=False))
def test_the_order_of_replicas_does_not_matter(
    request: RequestView, fleet: list[ReplicaView], held: dict[str, int], seed: int, rng: object
) -> None:
    ask, shuffled = replace(request, held=held), list(fleet)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert route(ask, fleet, STALENESS, seed) == route(ask, shuffled, STALENESS, seed)


@given(fleets, holdings, st.integers(0, 9))
def test_the_guard_bounds_how_much_fuller_the_chosen_one_is(
    fleet: list[ReplicaView], held: dict[str, int], seed: int
) -> None:
    alike = [replace(v, reserved_for="standard", queued_prompt_tokens=0) for v in fleet]
    decision = route(replace(ASK, held=held), alike, STALENESS, seed)
    fresh = [v for v in alike if v.ready and v.age_s <= 2.0 and v.in_flight < 40]
    if decision.replica_id is not None and fresh:
        chosen = next(v for v in alike if v.replica_id == decision.replica_id)
        assert chosen.in_flight / 40 <= min(v.in_flight for v in fresh) / 40 + AFFINITY + 1e-9
