"""A hundred resources: how long they take, how much memory, and that rest means rest. Figures are printed."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trimode_e2e.api import Api
from trimode_e2e.operator_process import Operator
from trimode_e2e.world import KIND, VERSION, World, tiny

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

MANY = 100
CHANGES = 30


def written(operator: Operator) -> float:
    """Requests so far that changed something."""
    found = operator.metrics().items()
    return sum(value for name, value in found if name.startswith("trimode_operator_writes_total"))


def test_a_hundred_resources(world: World, rights: Path, folder: Path) -> None:
    place = world.namespace()
    operator = Operator.start(rights, folder, name="many")
    try:
        quiet_mib = operator.rss_mib
        cpu = operator.cpu_s
        begun = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: world.api.create(tiny(f"many-{number}", place)), range(MANY)))
        created = time.monotonic()
        api = Api(world.cluster.kubeconfig)

        def all_told() -> bool:
            items = api.listed(VERSION, KIND, place)
            told = [item for item in items if item.get("status", {}).get("observedGeneration") == 1]
            return len(told) == MANY

        api.until(all_told, "all have a status", 300)
        api.until(lambda: len(api.listed("ray.io/v1", "RayService", place)) == MANY, "all have a RayService", 300)
        done = time.monotonic()
        print(
            f"\n{MANY} resources: created in {created - begun:.1f} s, all reconciled {done - begun:.1f} s after the "
            f"first; operator {operator.cpu_s - cpu:.1f} s of processor, "
            f"{operator.rss_mib:.0f} MiB (at rest before: {quiet_mib:.0f} MiB)"
        )
        _settle(operator, api)
        before = {
            (item["kind"], item["metadata"]["name"]): item["metadata"]["resourceVersion"]
            for kind in (("v1", "ConfigMap"), ("v1", "Service"), ("ray.io/v1", "RayService"), (VERSION, KIND))
            for item in api.listed(*kind, place)
        }
        count = written(operator)
        cpu, begun = operator.cpu_s, time.monotonic()
        visits = operator.visits
        api.until(lambda: operator.visits >= visits + 2 * MANY, "two more rounds of visits")
        after = {
            (item["kind"], item["metadata"]["name"]): item["metadata"]["resourceVersion"]
            for kind in (("v1", "ConfigMap"), ("v1", "Service"), ("ray.io/v1", "RayService"), (VERSION, KIND))
            for item in api.listed(*kind, place)
        }
        print(f"\nat rest: {(operator.cpu_s - cpu) / (time.monotonic() - begun):.2f} cores for {MANY} resources")
        assert after == before
        assert written(operator) == count
    finally:
        operator.stop()


def test_how_soon_a_change_is_told(world: World, rights: Path, folder: Path, namespace: str) -> None:
    operator = Operator.start(rights, folder, name="soon")
    try:
        world.api.create(tiny("one", namespace))
        took = [_told_after(world, namespace, 1)]
        for number in range(CHANGES):
            changed = world.patch("one", namespace, {"switching": {"marginPercent": 1 + number % 20}})
            took.append(_told_after(world, namespace, changed["metadata"]["generation"]))
        took.sort()
        print(f"\nchange to status, {len(took)} times: median {took[len(took) // 2]:.2f} s, p95 {took[-2]:.2f} s")
    finally:
        operator.stop()


def _told_after(world: World, place: str, generation: int) -> float:
    """Seconds until the status speaks of the generation."""
    begun = time.monotonic()

    def told() -> bool:
        return bool(world.get("one", place).get("status", {}).get("observedGeneration", 0) >= generation)

    world.api.until(told, f"the status of generation {generation}")
    return time.monotonic() - begun


def _settle(operator: Operator, api: Api) -> None:
    """Until a round of visits writes nothing: the routers' first answers may come after all was made."""
    for _ in range(10):
        count, visits = written(operator), operator.visits
        api.until(lambda visits=visits: operator.visits >= visits + MANY, "a round of visits", 120)  # type: ignore[misc]
        if written(operator) == count:
            return
    raise AssertionError("ten rounds of visits, and each wrote something")
