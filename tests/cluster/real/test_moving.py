"""A replica that the policy moves between pools of one mode each, under load: same Ray cluster, no answer lost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pytest
import yaml

from trimode_e2e.api import Object
from trimode_e2e.clients import Traffic
from trimode_e2e.world import RAY, World, pool, tiny

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

NAME = "shared"
PATIENCE_S = 600.0
SPLIT_BEFORE, SPLIT_AFTER = {"ar": 2, "fast": 1}, {"ar": 1, "fast": 2}
"""What pools share begins with AR."""
KNOWN = {"messages": [{"role": "user", "content": "what is trimode?"}]}
"""A text that the tiny model was trained on: sixteen of its tokens are accepted at once, so self-speculation is faster
by far. Of a text that it does not know it is two, and nothing would move."""
SPEC: Object = {
    "pools": [
        pool("ar", modes=["AR"], replicas={"min": 1, "max": 2}),
        pool("fast", modes=["SelfSpeculation"], replicas={"min": 1, "max": 2}),
    ],
    "rebalancing": {"totalReplicas": 3},
    # Three replicas start on two cores, and late requests would rightly be refused.
    "tiers": [{"name": "patient", "ttftMilliseconds": 120000, "tpotMilliseconds": 10000}],
    "admission": {"maxWaitMilliseconds": 60000},
}


@pytest.fixture(scope="module")
def serving(installed: World, home: str) -> Iterator[World]:
    installed.api.create(tiny(NAME, home, **SPEC))
    installed.until_condition(NAME, home, "Ready", timeout_s=PATIENCE_S)
    installed.first_answer(NAME, home)
    installed.api.until(lambda: installed.active_cluster(NAME, home), "KubeRay calls the cluster active", PATIENCE_S)
    yield installed
    installed.delete(NAME, home)


def shared(world: World, home: str) -> Object:
    found: Object = world.get(NAME, home)["status"]["rebalancing"]
    return found


def move(world: World, home: str) -> Object:
    return shared(world, home).get("move") or {}


def split(world: World, home: str) -> dict[str, int]:
    return {each["name"]: each["replicas"] for each in shared(world, home)["pools"]}


def workers(world: World, home: str) -> dict[str, int]:
    """Ready worker pods by pool."""
    found = world.ready_pods(home, instance=NAME, component="worker")
    return dict(Counter(each["metadata"]["labels"]["trimode.dev/pool"] for each in found))


def asked_of_serve(world: World, home: str) -> dict[str, tuple[int, int]]:
    """Least and most replicas by pool, as the RayService tells Serve."""
    service = world.api.get(*RAY, NAME, home)
    assert service is not None
    applications = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    scaling = {each["name"]: each["deployments"][0]["autoscaling_config"] for each in applications}
    return {name: (each["min_replicas"], each["max_replicas"]) for name, each in scaling.items()}


def test_load_moves_a_replica_to_the_faster_pool(serving: World, home: str) -> None:
    first = serving.active_cluster(NAME, home)
    assert split(serving, home) == SPLIT_BEFORE
    assert workers(serving, home) == SPLIT_BEFORE
    clusters, most = set(serving.ray_clusters(NAME, home)), 0

    def done() -> bool:
        nonlocal most
        clusters.update(serving.ray_clusters(NAME, home))
        most = max(most, sum(workers(serving, home).values()))
        return bool(move(serving, home).get("phase") == "Done")

    begun = time.monotonic()
    with Traffic(serving.url(NAME, home), NAME, clients=6, pause_s=0.0, max_tokens=200, fields=KNOWN) as traffic:
        serving.api.until(lambda: move(serving, home), "a replica moves", PATIENCE_S)
        told = shared(serving, home)
        print(f"\na move begins after {time.monotonic() - begun:.1f} s: {told['message']}")
        serving.api.until(done, "the move is done", PATIENCE_S)
        print(f"and is done after {time.monotonic() - begun:.1f} s")
        traffic.wait_for(4)
        assert workers(serving, home) == split(serving, home) == SPLIT_AFTER
    print(f"{len(traffic.answers)} answers")
    assert traffic.failures == []
    assert (move(serving, home)["source"], move(serving, home)["target"]) == ("ar", "fast")
    assert most <= sum(SPLIT_BEFORE.values()), "at no time more replicas than the pools share"
    assert clusters == {first}, "a second Ray cluster was made"
    assert asked_of_serve(serving, home) == {"ar": (1, 1), "fast": (2, 2)}
    serving.until_condition(NAME, home, "Ready")
    pods = [
        each["metadata"]["labels"]["trimode.dev/pool"] for each in serving.pods(home, instance=NAME, component="worker")
    ]
    assert dict(Counter(pods)) == SPLIT_AFTER
