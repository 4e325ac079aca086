"""How many replicas a pool has, for real: pools that sleep and are woken, pools that share replicas."""

from __future__ import annotations

import time
from typing import Any

import pytest

from trimode_e2e.clients import Traffic, chat
from trimode_e2e.operator_process import Operator
from trimode_e2e.world import World, tiny

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

PATIENCE_S = 300.0
ADMISSION = {"maxWaitMilliseconds": 50000}


def ready(world: World, name: str, namespace: str) -> dict[str, int]:
    """Replicas that take requests, by pool, as the status has them."""
    pools = world.get(name, namespace).get("status", {}).get("pools") or []
    return {pool["name"]: pool["ready"] for pool in pools}


def answered(url: str) -> bool:
    """Whether it is answered; a slow machine may take longer to wake than a request waits, and says so."""
    answer = chat(url, "sleepy", max_tokens=4)
    assert answer.complete or '"Waking"' in answer.error, answer
    return answer.complete


def rebalancing(world: World, name: str, namespace: str) -> dict[str, Any]:
    found: dict[str, Any] = world.get(name, namespace).get("status", {}).get("rebalancing") or {}
    return found


def test_a_request_wakes_a_pool_that_sleeps(playing: World, operator: Operator, namespace: str) -> None:
    pool = {"name": "flex", "modes": ["AR"], "replicas": {"min": 0, "max": 1, "idleSeconds": 5}}
    playing.api.create(tiny("sleepy", namespace, pools=[pool], admission=ADMISSION))
    playing.until_condition("sleepy", namespace, "Serving", timeout_s=PATIENCE_S)

    def asleep() -> bool:
        told = playing.condition("sleepy", namespace, "Serving")["reason"] == "Asleep"
        return told and not playing.ray("sleepy", namespace).engines()

    for _ in range(2):
        playing.api.until(asleep, "it sleeps", PATIENCE_S)
        begun = time.monotonic()
        url = playing.url("sleepy", namespace)
        playing.api.until(lambda u=url: answered(u), "an answer", PATIENCE_S)  # type: ignore[misc]
        print(f"\nfrom no replica to an answer: {time.monotonic() - begun:.1f} s")
        assert len(playing.ray("sleepy", namespace).engines()) == 1
    playing.delete("sleepy", namespace)


@pytest.mark.patient
def test_a_replica_moves_to_the_faster_mode_without_a_failure(
    playing: World, operator: Operator, namespace: str
) -> None:
    pools = [
        {"name": "ar", "modes": ["AR"], "replicas": {"min": 1, "max": 2}},
        {"name": "fast", "modes": ["SelfSpeculation"], "blockLengths": [16], "replicas": {"min": 1, "max": 2}},
    ]
    playing.api.create(tiny("split", namespace, pools=pools, rebalancing={"totalReplicas": 3}, admission=ADMISSION))
    playing.api.until(lambda: ready(playing, "split", namespace) == {"ar": 2, "fast": 1}, "two and one", PATIENCE_S)
    begun = time.monotonic()
    with Traffic(playing.url("split", namespace), "split", pause_s=0.0) as traffic:
        playing.api.until(lambda: rebalancing(playing, "split", namespace).get("move"), "a move", PATIENCE_S)
        most = 0

        def done() -> bool:
            nonlocal most
            most = max(most, len(playing.ray("split", namespace).engines()))
            return ready(playing, "split", namespace) == {"ar": 1, "fast": 2}

        playing.api.until(done, "one and two", PATIENCE_S)
    move = rebalancing(playing, "split", namespace)["move"]
    assert (move["source"], move["target"]) == ("ar", "fast")
    assert "tokens come" in move["message"]
    assert most <= 3, "a pool shrinks before the other grows"
    assert traffic.failures == []
    told = playing.api.listed("v1", "Event", namespace)
    assert {"MovesReplica"} <= {event["reason"] for event in told}
    print(f"\nfrom the first request to the replica that serves elsewhere: {time.monotonic() - begun:.0f} s")
    playing.delete("split", namespace)
