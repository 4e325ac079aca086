"""What the operator asks of the API server: at rest, and for one change. Figures are printed."""

from __future__ import annotations

import json
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

import pytest

from trimode_e2e.audit import Audit, Request, calls
from trimode_e2e.operator_process import HOME, LEASE, Operator
from trimode_e2e.world import KIND, VERSION, World, tiny
from trimode_operator.status.status import LIVELY_S, STEADY_S

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

ROUNDS = 2
NEVER = "9999-01-01T00:00:00Z"
"""In place of the last transition of a resource without a status."""
CHANGES = 5


@pytest.fixture
def audit(world: World, rights: Path) -> Audit:
    plane = world.cluster.plane
    if plane is None:
        pytest.skip("an existing cluster: the audit log of its API server is not at hand")
    return Audit(plane.audit_log, f"system:serviceaccount:{HOME}:{LEASE}")


def test_rest_writes_nothing_but_the_lease(
    world: World, rights: Path, folder: Path, namespace: str, audit: Audit
) -> None:
    operator = Operator.start(rights, folder, name="rest")
    try:
        world.api.create(tiny("calm", namespace))
        _settle(world, operator, audit, 1)
        found = _at_rest(world, operator, audit, 1)
    finally:
        operator.stop()
    assert {sort for sort in found if sort.endswith(("create", "patch", "delete"))} == set()
    assert {sort for sort in found if sort.endswith("update")} == {"leases update"}


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 10, 100])
def test_calls_of_a_steady_minute(
    world: World, rights: Path, folder: Path, namespace: str, audit: Audit, count: int
) -> None:
    """Once nothing has happened for so long that resources are looked at in steps of 10 s."""
    operator = Operator.start(rights, folder, name="steady")
    try:
        for number in range(count):
            world.api.create(tiny(f"calm-{number}", namespace))
        _await_steady(world, namespace)
        _settle(world, operator, audit, count)
        _at_rest(world, operator, audit, count)
    finally:
        operator.stop()


def test_calls_of_one_change(world: World, rights: Path, folder: Path, namespace: str, audit: Audit) -> None:
    operator = Operator.start(rights, folder, name="change-calls")
    try:
        world.api.create(tiny("one", namespace))
        _settle(world, operator, audit, 1)
        position = audit.position()
        for number in range(CHANGES):
            changed = world.patch("one", namespace, {"switching": {"marginPercent": 11 + number}})
            _await_told(world, namespace, changed["metadata"]["generation"])
        found = Counter({sort: n for sort, n in calls(audit.after(position)).items() if not sort.startswith("leases")})
    finally:
        operator.stop()
    print(f"\nAPI calls for each of {CHANGES} changes: {_shown(found, 1 / CHANGES)}")
    assert found["configmaps patch"] == CHANGES, "the policy is written once for each change"


def _await_told(world: World, place: str, generation: int) -> None:
    """Until the status speaks of the generation."""

    def told() -> bool:
        return bool(world.get("one", place).get("status", {}).get("observedGeneration", 0) >= generation)

    world.api.until(told, f"the status of generation {generation}")


def _await_steady(world: World, place: str) -> None:
    """Until the operator looks at each resource in steps of STEADY_S, which it does when no condition changes."""

    def quiet_s() -> float:
        conditions = [
            condition
            for item in world.api.listed(VERSION, KIND, place)
            for condition in item.get("status", {}).get("conditions") or [{"lastTransitionTime": NEVER}]
        ]
        newest = max(condition["lastTransitionTime"] for condition in conditions)
        return time.time() - datetime.fromisoformat(newest).timestamp()

    world.api.until(lambda: quiet_s() > LIVELY_S + STEADY_S, "visits are steady", 500)


def _at_rest(world: World, operator: Operator, audit: Audit, count: int) -> Counter[str]:
    """Calls during some rounds of visits, printed for one minute."""
    position, visits, begun = audit.position(), operator.visits, time.monotonic()
    world.api.until(lambda: operator.visits >= visits + ROUNDS * count, f"{ROUNDS} rounds of visits")
    took, found = time.monotonic() - begun, calls(audit.after(position))
    print(f"\n{count} resources at rest, API calls a minute (of {took:.0f} s): {_shown(found, 60 / took)}")
    return found


def _settle(world: World, operator: Operator, audit: Audit, count: int) -> None:
    """Until a round of visits writes nothing but the Lease."""
    for _ in range(20):
        position, visits = audit.position(), operator.visits
        world.api.until(lambda visits=visits: operator.visits >= visits + count, "a round of visits", 120)  # type: ignore[misc]
        if not [each for each in audit.after(position) if each.writes and each.resource != "leases"]:
            return
    raise AssertionError(f"twenty rounds of visits, and each wrote something: {_last_writes(audit.after(position))}")


def _last_writes(requests: list[Request]) -> str:
    return json.dumps([f"{each.verb} {each.uri}" for each in requests if each.writes][-5:])


def _shown(found: Counter[str], factor: float) -> str:
    parts = [f"{sort} {n * factor:.1f}" for sort, n in found.most_common()]
    return f"{sum(found.values()) * factor:.1f} in all: {', '.join(parts)}"
