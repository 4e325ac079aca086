"""How many pods a pool has: bounds that reach a running Ray cluster, load, sleep; pools that come and go."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from trimode_e2e.clients import Traffic, chat
from trimode_e2e.world import World, pool, tiny

pytestmark = pytest.mark.timeout(1800)

NAME = "elastic"
PATIENCE_S = 600.0
LONG = {"min_tokens": 400}


@pytest.fixture(scope="module")
def serving(installed: World, home: str) -> Iterator[World]:
    """One replica at rest, which two requests fill. The tests leave it so.

    Requests wait until they are served. The defaults are a queue of 2 s and a tier whose first token is due after 1 s,
    and whoever is late for either is rightly answered 429, which on a slow machine is what an overload did here.
    """
    installed.api.create(
        tiny(
            NAME,
            home,
            engine={"maxContextTokens": 512, "maxRunningRequests": 2},
            tiers=[{"name": "patient", "ttftMilliseconds": 120000, "tpotMilliseconds": 10000}],
            admission={"maxWaitMilliseconds": 60000},
        )
    )
    installed.until_condition(NAME, home, "Ready")
    installed.first_answer(NAME, home)
    # Replicas serve before KubeRay calls their cluster active, which it does when all that Serve wants runs.
    installed.api.until(lambda: installed.active_cluster(NAME, home), "KubeRay calls the cluster active", PATIENCE_S)
    yield installed
    installed.delete(NAME, home)


def workers(world: World, home: str) -> Counter[str]:
    """Ready worker pods of the active cluster by pool."""
    labels = [pod["metadata"]["labels"] for pod in world.ready_pods(home, instance=NAME, component="worker")]
    active = world.active_cluster(NAME, home)
    return Counter(each["trimode.dev/pool"] for each in labels if each["ray.io/cluster"] == active)


def running(world: World, home: str) -> frozenset[str]:
    """`identities`, without those of Ray clusters that were replaced and stay for a minute."""
    going = set(world.ray_clusters(NAME, home)) - {world.active_cluster(NAME, home)}
    return frozenset(
        each for each in world.identities(NAME, home) if not any(each.startswith(f"{name}-") for name in going)
    )


def groups(world: World, home: str) -> dict[str, tuple[int, int]]:
    """Bounds of the active RayCluster's worker groups."""
    cluster = world.ray_clusters(NAME, home)[world.active_cluster(NAME, home)]
    return {
        each["groupName"]: (each["minReplicas"], each["maxReplicas"]) for each in cluster["spec"]["workerGroupSpecs"]
    }


def scaled(world: World, home: str, low: int, high: int) -> None:
    bounds = {"min": low, "max": high}
    world.patch(NAME, home, {"pools": [pool("flex", replicas=bounds)]})


def test_a_pool_joins_the_cluster_and_leaves_it(serving: World, home: str) -> None:
    """Added: the same cluster. Removed: a second cluster takes over, since KubeRay removes no group in place."""
    first = serving.active_cluster(NAME, home)
    with Traffic(serving.url(NAME, home), NAME) as traffic:
        serving.patch(NAME, home, {"pools": [pool("flex"), pool("more", modes=["AR"])]})
        serving.until_condition(NAME, home, "Ready", timeout_s=PATIENCE_S)
        serving.api.until(lambda: workers(serving, home) == {"flex": 1, "more": 1}, "both pods are ready")
        assert serving.active_cluster(NAME, home) == first
        row = serving.get(NAME, home)["status"]
        assert row["replicaSummary"] == "2/2"
        serving.patch(NAME, home, {"pools": [pool("flex")]})
        serving.until_condition(NAME, home, "Ready", timeout_s=PATIENCE_S)
        serving.api.until(lambda: workers(serving, home) == {"flex": 1}, "the new cluster's pod is ready")
        assert serving.active_cluster(NAME, home) not in ("", first)
        traffic.wait_for(2)
    print(f"\n{len(traffic.answers)} answers")
    assert traffic.failures == []


def test_bounds_reach_the_running_cluster_and_pods_come_and_go(serving: World, home: str) -> None:
    """Meanwhile the cluster that the test above has replaced goes."""
    clusters, active = set(serving.ray_clusters(NAME, home)), serving.active_cluster(NAME, home)
    before = running(serving, home)
    with Traffic(serving.url(NAME, home), NAME) as traffic:
        scaled(serving, home, 2, 2)
        begun = time.monotonic()
        serving.api.until(lambda: groups(serving, home) == {"flex": (2, 2)}, "bounds in the RayCluster")
        print(f"\nedit to the RayCluster's bounds: {time.monotonic() - begun:.1f} s")
        serving.until_condition(NAME, home, "Ready", timeout_s=PATIENCE_S)
        print(f"one replica to two, Ready: {time.monotonic() - begun:.1f} s")
        serving.api.until(lambda: workers(serving, home) == {"flex": 2}, "both pods are ready")
        assert before <= running(serving, home), "what ran goes on"
        scaled(serving, home, 1, 1)
        begun = time.monotonic()
        serving.api.until(lambda: workers(serving, home) == {"flex": 1}, "one worker is left", PATIENCE_S)
        print(f"two replicas to one: {time.monotonic() - begun:.1f} s")
        serving.until_condition(NAME, home, "Ready")
        assert set(serving.ray_clusters(NAME, home)) <= clusters, "no new cluster"
        serving.api.until(lambda: set(serving.ray_clusters(NAME, home)) == {active}, "no other cluster", PATIENCE_S)
        traffic.wait_for(2)
    print(f"{len(traffic.answers)} answers")
    assert traffic.failures == []


def test_load_brings_a_replica_and_rest_takes_it_away(serving: World, home: str) -> None:
    """`max` alone is raised: Serve asks for more as requests come, Ray's autoscaler for a pod.

    Long answers, so that it is the replica which is busy and not the clients, all of one process.
    """
    scaled(serving, home, 1, 2)
    serving.api.until(lambda: groups(serving, home) == {"flex": (1, 2)}, "bounds in the RayCluster")
    begun = time.monotonic()
    with Traffic(serving.url(NAME, home), NAME, clients=12, pause_s=0.0, max_tokens=400, fields=LONG) as traffic:
        serving.api.until(lambda: workers(serving, home) == {"flex": 2}, "a second worker under load", PATIENCE_S)
        print(f"\nunder load from one replica to two: {time.monotonic() - begun:.1f} s")
        traffic.wait_for(4)
    print(f"{len(traffic.answers)} answers")
    assert traffic.failures == []
    scaled(serving, home, 1, 1)
    serving.api.until(lambda: workers(serving, home) == {"flex": 1}, "one worker is left", PATIENCE_S)
    serving.until_condition(NAME, home, "Ready")


def test_a_request_wakes_a_pool_that_sleeps(serving: World, home: str) -> None:
    sleepy: dict[str, Any] = {"min": 0, "max": 1, "idleSeconds": 5}
    patience = {"maxWaitMilliseconds": 100000}  # a pod has to start meanwhile
    serving.patch(NAME, home, {"pools": [pool("flex", replicas=sleepy)], "admission": patience})

    def asleep() -> bool:
        return serving.condition(NAME, home, "Serving")["reason"] == "Asleep" and not workers(serving, home)

    begun = time.monotonic()
    serving.api.until(asleep, "it sleeps and its pod is gone", PATIENCE_S)
    print(f"\nedit to asleep: {time.monotonic() - begun:.1f} s")
    begun = time.monotonic()
    answer = chat(serving.url(NAME, home), NAME, max_tokens=8, timeout_s=150)
    assert answer.complete, answer
    print(f"woken, from no pod to the answer: {time.monotonic() - begun:.1f} s")
    serving.api.until(lambda: workers(serving, home) == {"flex": 1}, "its pod is ready")
    serving.patch(NAME, home, {"pools": [pool("flex")]})
    serving.until_condition(NAME, home, "Ready")
