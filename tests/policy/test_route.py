from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode_api.modes import AR, Mode, Wish, diffusion, speculation
from trimode_policy.route import ReplicaView, RequestView, RouteReason, SloState, Staleness, route, spare

S8, D32 = speculation(8), diffusion(32, 0.9)
PINS = {None: None, AR: Wish(Mode.AR), S8: Wish(Mode.SELF_SPECULATION, 8), D32: Wish(Mode.DIFFUSION, 32, 0.9)}
STALENESS = Staleness(stale_after_s=2.0, dead_after_s=10.0)
ANY = RequestView()


def replica(name: str = "a", **changes: object) -> ReplicaView:
    view = ReplicaView(
        replica_id=name, pool="flex", ready=True, draining=False, age_s=0.1, in_flight=0, running=0, waiting=0,
        queued_prompt_tokens=0, capacity=8, points=(AR, S8), tokens_per_second=100.0,
    )  # fmt: skip
    return replace(view, **changes)  # type: ignore[arg-type]


def test_the_least_loaded_wins() -> None:
    decision = route(ANY, [replica("a", in_flight=3), replica("b", in_flight=1)], STALENESS, 0)
    assert (decision.replica_id, decision.reason) == ("b", RouteReason.LEAST_LOADED)
    assert "1 of 8" in decision.detail


def test_load_is_a_share_of_capacity() -> None:
    assert route(ANY, [replica("a", in_flight=3, capacity=4), replica("b", in_flight=5, capacity=64)], STALENESS, 0).replica_id == "b"  # fmt: skip  # noqa: E501


def test_other_routers_requests_count() -> None:
    assert route(ANY, [replica("a", running=5, waiting=1), replica("b", in_flight=2)], STALENESS, 0).replica_id == "b"


def test_queued_prompt_tokens_decide_among_equals() -> None:
    assert route(ANY, [replica("a", queued_prompt_tokens=9), replica("b")], STALENESS, 0).replica_id == "b"


def paced(name: str, queued: int = 0, **changes: object) -> ReplicaView:
    """One that computes 1,000 prompt tokens a second and can run eight requests of tier `t` in time."""
    return replica(
        name, **{"queued_prompt_tokens": queued, "rows": {"t": 8}, "prompt_tokens_per_second": 1e3, **changes}
    )


def lending(name: str, in_flight: int = 0, queued: int = 0) -> ReplicaView:
    """The same, but too slow for tier `strict` even alone."""
    return paced(name, queued, in_flight=in_flight, rows={"strict": 0, "t": 8})


def ar_alone(name: str, in_flight: int = 0, queued: int = 0) -> ReplicaView:
    """The same, of a pool of one mode."""
    return replace(lending(name, in_flight, queued), points=(AR,))


@pytest.mark.parametrize(
    ("fleet", "prompt", "held", "picked"),
    [
        pytest.param([paced("a", 600), paced("b", 100, in_flight=2)], 100, {}, "b", id="prompts before requests"),
        pytest.param([paced("a", 100), paced("b", 90, in_flight=2)], 100, {}, "a", id="a few tokens are no reason"),
        pytest.param([paced("a", 500), paced("b", 400)], 300, {"a": 250}, "a", id="what is held is taken off"),
        pytest.param(
            [paced("a", 300, reserved_for="t"), paced("b", 10)], 400, {}, "b", id="own tier's, but busy with prompts"
        ),
        pytest.param([paced("a", 50, reserved_for="t"), paced("b", 10)], 400, {}, "a", id="own tier's"),
        pytest.param([paced("a", 700), paced("b", 900)], 400, {}, None, id="late at both: it waits"),
        pytest.param([paced("a", 700), paced("b", 0, in_flight=7)], 4000, {}, "b", id="late at both, one is idle"),
        pytest.param([paced("a", 600, prompt_tokens_per_second=1e4), paced("b", 300)], 100, {}, "a", id="by speed"),
        pytest.param(
            [lending("a", 5), paced("b", in_flight=1)], 600, {}, "a", id="a long one goes where it costs least"
        ),
        pytest.param([lending("a", 5), paced("b", in_flight=1)], 100, {}, "b", id="a short one where there is room"),
        pytest.param([lending("a", 1, 700), paced("b", in_flight=1)], 600, {}, "b", id="but not to be late there"),
        pytest.param([lending("a", 8), paced("b", in_flight=1)], 600, {}, "b", id="nor where there is no room"),
        pytest.param([ar_alone("a", 5), paced("b", in_flight=1)], 600, {}, "b", id="an AR pool is stalled by it most"),
        pytest.param([ar_alone("a", 2), paced("b", in_flight=1)], 600, {}, "a", id="where it costs no stricter pace"),
        pytest.param(
            [ar_alone("a", 2, 9), paced("b", in_flight=1, prompt_tokens_per_second=2e3)],
            400,
            {},
            "b",
            id="its own counts there",
        ),
        pytest.param(
            [lending("a", 5), paced("b", in_flight=1), ar_alone("c", 7)], 600, {}, "b", id="kept from fast ones beside"
        ),
    ],
)
def test_prompts_count(fleet: list[ReplicaView], prompt: int, held: dict[str, int], picked: str | None) -> None:
    request = RequestView("t", prompt_tokens=prompt, left_s=1.0, held=held)
    assert route(request, fleet, STALENESS, 0).replica_id == picked


@pytest.mark.parametrize(
    ("late", "other", "picked"),
    [(3, 0, "a"), (4, 0, "b"), (0, 4, "a"), (4, 4, None)],
    ids=["where it costs no pace", "half of the room is for those in time", "the other is full for it", "none left"],
)
def test_late_requests_go_where_they_cost_no_pace(late: int, other: int, picked: str | None) -> None:
    fleet = [
        replace(lending("a", late), reserved_for="t"),
        replace(paced("b", in_flight=other), rows={"strict": 8, "t": 8}, reserved_for="strict"),
    ]
    fleet = [replace(each, capacity=64) for each in fleet]
    for tier in ("strict", "t"):
        request = RequestView(tier, prompt_tokens=100, slo_state=SloState.LATE, left_s=0.1)
        assert route(request, fleet, STALENESS, 0).replica_id == picked


@given(
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 7)), min_size=1, max_size=6),
    st.integers(1, 900),
    st.integers(0, 5000),
    st.integers(0, 9),
)
def test_more_prompts_never_draw_a_request(loads: list[tuple[int, int]], prompt: int, more: int, seed: int) -> None:
    fleet = [paced(f"r{i}", queued, in_flight=load) for i, (queued, load) in enumerate(loads)]
    request = RequestView("t", prompt_tokens=prompt, left_s=1.0)
    before = route(request, fleet, STALENESS, seed).replica_id
    fleet[0] = replace(fleet[0], queued_prompt_tokens=fleet[0].queued_prompt_tokens + more)
    after = route(request, fleet, STALENESS, seed).replica_id
    assert after != "r0" or before == "r0"


@pytest.mark.parametrize(
    "out", [{"ready": False}, {"draining": True}, {"age_s": 10.1}, {"age_s": math.inf}, {"in_flight": 8}]
)
def test_never_to_one_that_must_not(out: dict[str, object]) -> None:
    assert route(ANY, [replica("a", **out), replica("b", in_flight=7)], STALENESS, 0).replica_id == "b"
    assert route(ANY, [replica("a", **out)], STALENESS, 0).replica_id is None


def test_stale_reports_are_not_believed_and_rank_behind_fresh_ones() -> None:
    stale = replica("a", age_s=5.0, running=8, waiting=50)
    decision = route(ANY, [stale], STALENESS, 0)
    assert (decision.replica_id, decision.reason) == ("a", RouteReason.STALE)
    assert route(ANY, [stale, replica("b", in_flight=7)], STALENESS, 0).replica_id == "b"
    assert route(ANY, [stale, replica("b", in_flight=8)], STALENESS, 0).replica_id == "a"


def test_why_nobody() -> None:
    assert route(ANY, [], STALENESS, 0).reason is RouteReason.NONE_READY
    assert route(ANY, [replica(ready=False)], STALENESS, 0).reason is RouteReason.NONE_READY
    assert route(ANY, [replica(in_flight=8)], STALENESS, 0).reason is RouteReason.ALL_BUSY
    pinned = RequestView(pin=Wish(Mode.SELF_SPECULATION, 64))
    decision = route(pinned, [replica()], STALENESS, 0)
    assert (decision.reason, "SelfSpeculation with blockLength 64" in decision.detail) == (
        RouteReason.NOT_OFFERED,
        True,
    )


def test_pins_and_quality_are_respected() -> None:
    ar, fast, lossy = replica("ar", points=(AR,)), replica("s", points=(S8,), in_flight=5), replica("d", points=(D32,))
    everyone = [ar, fast, lossy]
    assert route(RequestView(pin=PINS[S8]), everyone, STALENESS, 0).replica_id == "s"
    assert route(RequestView(pin=PINS[D32], lossy_ok=True), everyone, STALENESS, 0).replica_id == "d"
    assert route(RequestView(pin=PINS[D32]), everyone, STALENESS, 0).reason is RouteReason.NOT_OFFERED
    assert route(ANY, [lossy], STALENESS, 0).reason is RouteReason.NOT_OFFERED
    assert route(RequestView(lossy_ok=True), [lossy], STALENESS, 0).replica_id == "d"


def test_a_mode_without_a_length_is_served_by_any_of_its_points() -> None:
    wish, one, other = (
        Wish(Mode.SELF_SPECULATION),
        replica("a", points=(S8,)),
        replica("b", points=(AR, speculation(32))),
    )
    assert route(RequestView(pin=wish), [replica("ar", points=(AR,)), other], STALENESS, 0).replica_id == "b"
    assert route(RequestView(pin=wish), [replica("ar", points=(AR,)), one], STALENESS, 0).replica_id == "a"


def test_equals_share_the_load_over_seeds() -> None:
    chosen = Counter(route(ANY, [replica(n) for n in "abcd"], STALENESS, seed).replica_id for seed in range(400))
    assert set(chosen) == set("abcd")
    assert min(chosen.values()) > 60


def test_many_equals_share_the_load_over_seeds() -> None:
    fleet = [replica(f"r{number}") for number in range(50)]
    chosen = Counter(route(ANY, fleet, STALENESS, seed).replica_id for seed in range(5000))
    assert len(chosen) == 50
    assert max(chosen.values()) < 4 * 100


def test_two_names_with_one_hash_are_told_apart() -> None:
    one, other = replica("plumless"), replica("buckeroo")
    assert one.tiebreak == other.tiebreak
    assert route(ANY, [one, other], STALENESS, 0) == route(ANY, [other, one], STALENESS, 0)


def test_full_replicas_of_its_own_tier_do_not_hide_another_tiers() -> None:
    rows = {"standard": 4}
    full = replica("a", running=4, rows=rows, reserved_for="standard")
    other = replica("b", running=1, rows={"standard": 4, "premium": 4}, reserved_for="premium")
    assert route(ANY, [full, other], STALENESS, 0).replica_id == "b"


@pytest.mark.parametrize(("stale", "dead"), [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0), (math.nan, 1.0)])
def test_staleness_refuses_nonsense(stale: float, dead: float) -> None:
    with pytest.raises(ValueError, match="stale_after_s"):
        Staleness(stale, dead)


views = st.builds(
    ReplicaView,
    replica_id=st.text("abcdefgh", min_size=1, max_size=4), pool=st.just("p"), ready=st.booleans(),
    draining=st.booleans(), age_s=st.sampled_from((0.0, 1.0, 3.0, 9.9, 10.1, math.inf)),
    in_flight=st.integers(0, 10), running=st.integers(0, 10), waiting=st.integers(0, 10),
    queued_prompt_tokens=st.integers(0, 5000), capacity=st.integers(0, 10),
    points=st.sets(st.sampled_from((AR, S8, D32))).map(tuple), tokens_per_second=st.floats(0, 1e4),
)  # fmt: skip
fleets = st.lists(views, max_size=8, unique_by=lambda r: r.replica_id)
requests = st.builds(
    RequestView, tier=st.just("t"), priority=st.integers(0, 9), prompt_tokens=st.integers(0, 9000),
    lossy_ok=st.booleans(),
    pin=st.sampled_from((None, *PINS.values(), Wish(Mode.SELF_SPECULATION), Wish(Mode.DIFFUSION))),
)  # fmt: skip


def may(request: RequestView, view: ReplicaView) -> bool:
    """The rule, written another way."""
    load = view.in_flight if view.age_s > 2.0 else max(view.in_flight, view.running + view.waiting)
    alive = view.ready and not view.draining and view.age_s <= 10.0 and load < view.capacity
    offered = {p for p in view.points if request.lossy_ok or p != D32}
    wanted = request.pin
    if wanted is not None:
        offered = {p for p in offered if p.mode is wanted.mode and wanted.block_length in (None, p.block_length)}
    return alive and bool(offered)


@given(requests, fleets, st.integers(0, 9))
def test_only_a_replica_that_may_and_always_one_if_any_may(
    request: RequestView, fleet: list[ReplicaView], seed: int
) -> None:
    picked = route(request, fleet, STALENESS, seed).replica_id
    able = {view.replica_id for view in fleet if may(request, view)}
    assert picked in able if able else picked is None


@given(requests, fleets, st.integers(0, 9), st.randoms(use_true_random=False))
def test_the_order_of_replicas_does_not_matter(
    request: RequestView, fleet: list[ReplicaView], seed: int, rng: object
) -> None:
    shuffled = list(fleet)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert route(request, fleet, STALENESS, seed) == route(request, shuffled, STALENESS, seed)


@given(requests, fleets, st.integers(0, 9))
def test_a_fresh_replica_goes_before_a_stale_one(request: RequestView, fleet: list[ReplicaView], seed: int) -> None:
    picked = route(request, fleet, STALENESS, seed).replica_id
    fresh = {view.replica_id for view in fleet if view.age_s <= 2.0 and may(request, view)}
    assert not fresh or picked in fresh


@given(requests, fleets, st.integers(0, 9))
def test_less_load_never_turns_a_request_away(request: RequestView, fleet: list[ReplicaView], seed: int) -> None:
    lighter = [replace(v, in_flight=v.in_flight // 2, running=v.running // 2, waiting=v.waiting // 2) for v in fleet]
    if route(request, fleet, STALENESS, seed).replica_id is not None:
        assert route(request, lighter, STALENESS, seed).replica_id is not None


@given(requests, fleets, st.integers(0, 9), st.integers(2, 5))
def test_scaling_all_units_changes_nothing(
    request: RequestView, fleet: list[ReplicaView], seed: int, factor: int
) -> None:
    scaled = [
        replace(
            v, age_s=v.age_s * factor, in_flight=v.in_flight * factor, running=v.running * factor,
            waiting=v.waiting * factor, capacity=v.capacity * factor,
            queued_prompt_tokens=v.queued_prompt_tokens * factor,
        ) for v in fleet
    ]  # fmt: skip
    staleness = Staleness(2.0 * factor, 10.0 * factor)
    assert route(request, fleet, STALENESS, seed).replica_id == route(request, scaled, staleness, seed).replica_id


@given(requests, fleets, st.integers(0, 9))
def test_a_killed_replica_gets_nothing_and_its_return_restores_the_pick(
    request: RequestView, fleet: list[ReplicaView], seed: int
) -> None:
    before = route(request, fleet, STALENESS, seed)
    if before.replica_id is None:
        return
    killed = [replace(v, ready=False) if v.replica_id == before.replica_id else v for v in fleet]
    assert route(request, killed, STALENESS, seed).replica_id != before.replica_id
    assert route(request, fleet, STALENESS, seed) == before


def test_spare_places_are_those_that_a_late_request_may_have() -> None:
    ask = RequestView(tier="premium")
    fast = replica("a", running=2, rows={"premium": 2, "standard": 8}, reserved_for="premium")
    slow = replica("b", running=3, rows={"premium": 0, "standard": 8}, reserved_for="premium", capacity=8)
    assert spare(ask, [fast, slow]) == 5
    assert spare(ask, [replace(slow, ready=False), replace(slow, running=8)]) == 0
    assert spare(ask, [replica("c", points=(diffusion(8, 0.9),), running=0)]) == 0
