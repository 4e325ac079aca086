"""What reports say of pace becomes room by tier, and replicas are kept fast for who asks."""

from __future__ import annotations

from typing import Any

from trimode_api.wire import (
    AdmissionPolicy,
    DecisionReport,
    PolicyConfig,
    PoolPolicy,
    ReplicaReport,
    StalenessPolicy,
    SwitchingPolicy,
    TierPolicy,
)
from trimode_router.fleet.fleet import RESERVE_SECONDS, Fleet

PACES = ((1, 0.001), (8, 0.003), (64, 0.02))


def policy(version: int = 1, premium_ms: int = 4) -> PolicyConfig:
    return PolicyConfig(
        version=version,
        tiers=(
            TierPolicy(name="premium", ttft_milliseconds=500, tpot_milliseconds=premium_ms, percentile=95, priority=10),
            TierPolicy(name="standard", ttft_milliseconds=1000, tpot_milliseconds=12, percentile=95, priority=0),
        ),
        pools=(PoolPolicy(name="flex", points=("AR", "S8")),),
        switching=SwitchingPolicy(margin_percent=5, min_dwell_milliseconds=500, fallback={"flex": "AR"}),
        admission=AdmissionPolicy(max_queued_requests=8, max_wait_milliseconds=2000),
        staleness=StalenessPolicy(stale_after_seconds=2, dead_after_seconds=10),
    )


def report(name: str, sequence: int = 1, paces: tuple[tuple[int, float], ...] = PACES) -> ReplicaReport:
    return ReplicaReport(
        replica_id=name, pool="flex", url="http://127.0.0.1:1", model="tiny", sequence=sequence, ready=True, running=0,
        waiting=0, max_running=64, queued_prompt_tokens=0, cached_tokens=0, capacity_tokens=4096,
        max_context_tokens=1024, point="AR", decision=DecisionReport(point="AR", reason="Kept", age_seconds=1.0),
        switches=0, tokens_per_second=0.0, policy_version=1, paces=paces, prompt_tokens_per_second=5000.0,
    )  # fmt: skip


def kept_for(fleet: Fleet, now: float) -> dict[str, tuple[str | None, dict[str, int]]]:
    return {view.replica_id: (view.reserved_for, dict(view.tier_capacity)) for view in fleet.views(now)}


def test_paces_become_rooms_and_replicas_are_shared_out() -> None:
    fleet = Fleet("tiny", policy(), slack=0)
    for name in "abcd":
        fleet.take_report(report(name), 0.0, 0.0)
    for i in range(10):
        fleet.asked("premium" if i < 3 else "standard", 0.1)
    fleet.reserve(0.2)
    kept = kept_for(fleet, 0.2)
    assert sorted(str(reserved_for) for reserved_for, _ in kept.values()) == [
        "premium",
        "standard",
        "standard",
        "standard",
    ]
    for reserved_for, known in kept.values():
        assert 8 <= known["premium"] < 12
        assert known["standard"] == known["premium"] if reserved_for == "premium" else known["standard"] > 24
    view = fleet.views(0.2)[0]
    assert view.prompt_tokens_per_second == 5000.0


def test_queued_prompts_are_those_of_the_report_and_those_sent_since() -> None:
    fleet = Fleet("tiny", policy(), slack=0)
    fleet.take_report(report("a"), 0.0, 0.0)
    replica = fleet.get("a")
    assert replica is not None
    replica.occupy(300)
    assert fleet.views(0.0)[0].queued_prompt_tokens == 300
    fleet.take_report(report("a", 2).model_copy(update={"queued_prompt_tokens": 120}), 0.2, 0.0)
    assert fleet.views(0.2)[0].queued_prompt_tokens == 120, "the report tells what is left of them"
    replica.occupy(50)
    assert fleet.views(0.2)[0].queued_prompt_tokens == 170
    replica.prefilled(50)
    assert fleet.views(0.2)[0].queued_prompt_tokens == 120


def test_a_replica_without_paces_is_limited_by_its_capacity_only() -> None:
    fleet = Fleet("tiny", policy(), slack=0)
    fleet.take_report(report("a", paces=()), 0.0, 0.0)
    fleet.asked("premium", 0.0)
    fleet.reserve(0.0)
    (view,) = fleet.views(0.0)
    assert (dict(view.tier_capacity), view.floor) == ({}, 64)


def test_a_new_policy_and_a_dead_replica_change_the_rooms() -> None:
    fleet = Fleet("tiny", policy(), slack=0)
    for name in "ab":
        fleet.take_report(report(name), 0.0, 0.0)
    fleet.put_policy(policy(version=2, premium_ms=8))
    assert all(known["premium"] == 19 for _, known in kept_for(fleet, 0.0).values())
    fleet.asked("premium", 0.0)
    fleet.take_report(report("a", 2), 11.0, 11.0)  # b is silent
    fleet.reserve(11.0 + RESERVE_SECONDS)
    assert {name: reserved_for for name, (reserved_for, _) in kept_for(fleet, 12.0).items()} == {
        "a": "premium",
        "b": None,
    }


async def test_a_conversation_goes_on_where_it_began(open_house: Any) -> None:
    """Four replicas, four conversations at a time, over real HTTP: each stays where its first request went."""
    house = await open_house(replicas=4)
    said = {chat: [{"role": "user", "content": f"{chat} asks " + "x" * 4000}] for chat in range(4)}
    went: dict[int, set[str]] = {chat: set() for chat in said}
    for turn in range(4):
        for chat, messages in said.items():
            answer = await house.http.post("/v1/chat/completions", json={"model": "tiny", "messages": messages})
            assert answer.status_code == 200
            (taker,) = [replica for replica in house.replicas if replica.calls]
            went[chat].add(taker.replica_id)
            taker.calls.clear()
            messages.append({"role": "assistant", "content": f"{turn} " + "y" * 500})
    assert [len(takers) for takers in went.values()] == [1, 1, 1, 1]
