"""Replicas that pools share, visit by visit: the split in the status first, then in the RayService, told as Events."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from trimode_api.fleet import ReplicaState
from trimode_lab.doubles.kubernetes.fleet import replica
from trimode_lab.doubles.kubernetes.stage import KEY, Stage
from trimode_operator.status.rebalancing import RELEASE_S
from trimode_policy.rebalance import EVERY_S

SPEC: dict[str, Any] = {
    "pools": [
        {"name": "ar", "modes": ["AR"], "replicas": {"min": 1, "max": 3}},
        {"name": "fast", "modes": ["SelfSpeculation"], "replicas": {"min": 1, "max": 3}},
    ],
    "rebalancing": {"totalReplicas": 4},
}
PACES = {"ar": ((1, 0.010), (8, 0.012)), "fast": ((1, 0.004), (8, 0.030))}


@pytest.fixture
def stage() -> Stage:
    return Stage()


def members(pool: str, count: int, running: int = 1) -> list[ReplicaState]:
    return [replica(f"{pool}-{n}", pool, running=running, paces=PACES[pool]) for n in range(count)]


def bounds(stage: Stage) -> dict[str, tuple[int, int]]:
    """What Serve is told of each pool's size."""
    config = yaml.safe_load(stage.cluster.named("RayService", "nemo")["spec"]["serveConfigV2"])
    found = {}
    for application in config["applications"]:
        scaling = application["deployments"][0]["autoscaling_config"]
        found[application["name"]] = (scaling["min_replicas"], scaling["max_replicas"])
    return found


def told(stage: Stage) -> dict[str, Any]:
    found: dict[str, Any] = stage.cluster.named("NemotronDeployment", "nemo")["status"]["rebalancing"]
    return found


def split(stage: Stage) -> dict[str, int]:
    return {pool["name"]: pool["replicas"] for pool in told(stage)["pools"]}


async def loaded(stage: Stage, ar: int = 3, fast: int = 1, running: int = 1, seconds: int = 80) -> None:
    """Visits over so many seconds, under this fleet and load."""
    stage.serve(*members("ar", ar, running), *members("fast", fast, running))
    for _ in range(seconds // 10):
        stage.now += 10.0
        await stage.reconcile()


async def begun(stage: Stage, **spec: Any) -> None:
    stage.resource(**SPEC, **spec)
    await stage.reconcile()
    stage.serve(*members("ar", 3), *members("fast", 1))
    stage.settle()
    await stage.reconcile()


async def test_the_split_begins_with_ar_and_the_operator_owns_the_numbers(stage: Stage) -> None:
    await begun(stage)
    assert split(stage) == {"ar": 3, "fast": 1}
    assert bounds(stage) == {"ar": (3, 3), "fast": (1, 1)}
    assert told(stage)["reason"] == "NoData"


async def test_without_rebalancing_serve_owns_the_numbers(stage: Stage) -> None:
    stage.resource(pools=SPEC["pools"])
    await stage.reconcile()
    assert bounds(stage) == {"ar": (1, 3), "fast": (1, 3)}
    assert "rebalancing" not in stage.cluster.named("NemotronDeployment", "nemo")["status"]


async def test_a_move_shrinks_one_pool_then_lets_the_other_grow(stage: Stage) -> None:
    await begun(stage)
    await loaded(stage)
    assert told(stage)["move"]["phase"] == "Leaving"
    assert "MovesReplica" in stage.events()
    assert split(stage) == {"ar": 2, "fast": 1}
    assert bounds(stage) == {"ar": (2, 2), "fast": (1, 1)}

    stage.serve(*members("ar", 2), *members("fast", 1))
    assert await stage.reconcile() == 2.0
    assert told(stage)["move"]["phase"] == "Releasing"
    await stage.reconcile()
    assert bounds(stage) == {"ar": (2, 2), "fast": (1, 1)}, "its pod may be there still"

    stage.now += RELEASE_S
    await stage.reconcile()
    await stage.reconcile()
    assert bounds(stage) == {"ar": (2, 2), "fast": (2, 2)}
    assert told(stage)["move"]["phase"] == "Joining"

    stage.now += 30.0
    stage.serve(*members("ar", 2), *members("fast", 2))
    await stage.reconcile()
    assert told(stage)["move"]["phase"] == "Done"
    assert stage.events().count("MovesReplica") == stage.events().count("MovedReplica") == 1
    await loaded(stage, ar=2, fast=2, running=6)
    assert told(stage)["reason"] == "Dwell"
    assert split(stage) == {"ar": 2, "fast": 2}


async def test_after_the_pause_it_moves_back_where_the_load_has_changed(stage: Stage) -> None:
    await test_a_move_shrinks_one_pool_then_lets_the_other_grow(stage)
    stage.now += EVERY_S
    await loaded(stage, ar=2, fast=2, running=6)
    assert told(stage)["move"]["source"] == "fast"


async def test_a_new_leader_goes_on_in_mid_move(stage: Stage) -> None:
    await begun(stage)
    await loaded(stage)
    stage.begin()
    stage.serve(*members("ar", 2), *members("fast", 1))
    await stage.reconcile()
    assert told(stage)["move"]["phase"] == "Releasing"
    assert bounds(stage) == {"ar": (2, 2), "fast": (1, 1)}


async def test_the_split_is_in_the_status_before_anything_is_changed(stage: Stage) -> None:
    """Killed in between, the next leader applies what the status says."""
    await begun(stage)
    stage.serve(*members("ar", 3), *members("fast", 1))
    for _ in range(20):
        stage.now += 10.0
        await stage.reconcile()
        if told(stage).get("move") is not None:
            break
    assert ("apply", "RayService", "nemo") not in stage.cluster.writes
    assert bounds(stage) == {"ar": (3, 3), "fast": (1, 1)}
    assert split(stage) == {"ar": 2, "fast": 1}
    await stage.reconcile()
    assert bounds(stage) == {"ar": (2, 2), "fast": (1, 1)}


@pytest.mark.parametrize("switching", [{"dryRun": True}, {"policy": "Manual", "mode": "AR"}], ids=["dry run", "manual"])
async def test_a_held_move_is_told_once_and_not_made(stage: Stage, switching: dict[str, Any]) -> None:
    await begun(stage, switching=switching)
    await loaded(stage, seconds=200)
    assert told(stage)["reason"] == "Held"
    assert "ar -> fast" in told(stage)["message"]
    assert stage.events().count("WouldMoveReplica") == 1
    assert "MovesReplica" not in stage.events()
    assert bounds(stage) == {"ar": (3, 3), "fast": (1, 1)}
    assert stage.cluster.writes == [], "a load that wavers is no news"


async def test_where_a_router_is_silent_nothing_moves(stage: Stage) -> None:
    await begun(stage)
    endpoints = stage.cluster.named("EndpointSlice", "nemo-reports")
    endpoints["endpoints"].append({"addresses": ["10.0.0.9"]})
    for _ in range(12):
        stage.now += 10.0
        stage.serve(*members("ar", 3), *members("fast", 1))
        stage.cluster.put(endpoints)
        await stage.reconcile()
    assert told(stage)["reason"] == "NoData"
    assert "router" in told(stage)["message"]


async def test_a_wrong_spec_forgets_nothing(stage: Stage) -> None:
    await begun(stage)
    await loaded(stage)
    known = told(stage)
    stage.resource(pools=[])
    await stage.reconcile()
    assert told(stage) == known


async def test_turned_off_it_leaves_the_status_and_serve_owns_the_numbers_again(stage: Stage) -> None:
    await begun(stage)
    stage.resource(pools=SPEC["pools"])
    await stage.reconcile()
    await stage.reconcile()
    assert "rebalancing" not in (stage.cache.resource(KEY) or {})["status"]
    assert bounds(stage) == {"ar": (1, 3), "fast": (1, 3)}
