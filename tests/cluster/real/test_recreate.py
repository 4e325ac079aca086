"""`upgrade.strategy: Recreate`: workers are replaced in place, and never are there two Ray clusters."""

from __future__ import annotations

import time

import pytest

from trimode_e2e.world import World, pool, tiny

pytestmark = pytest.mark.timeout(1800)

NAME = "inplace"
PATIENCE_S = 600.0


def test_workers_are_replaced_without_a_second_cluster(installed: World, home: str) -> None:
    installed.api.create(tiny(NAME, home, upgrade={"strategy": "Recreate"}))
    installed.until_condition(NAME, home, "Ready", timeout_s=PATIENCE_S)
    installed.first_answer(NAME, home)
    first = installed.active_cluster(NAME, home)
    begun = time.monotonic()
    installed.patch(NAME, home, {"pools": [pool("flex", resources={"cpu": "110m", "memory": "2Gi"})]})
    seen: list[set[str]] = []

    def ready_again() -> bool:
        seen.append(set(installed.ray_clusters(NAME, home)))
        ready, item = installed.condition(NAME, home, "Ready"), installed.get(NAME, home)
        current = ready["observedGeneration"] == item["metadata"]["generation"]
        return bool(current and ready["status"] == "True")

    installed.api.until(ready_again, "Ready after the change", PATIENCE_S)
    installed.first_answer(NAME, home)
    print(f"\nedit to the first answer of the new workers: {time.monotonic() - begun:.1f} s")
    assert max(map(len, seen)) == 1, seen
    # By the Event, since looking at the condition from time to time may miss the seconds that it lasts.
    events = installed.api.listed("v1", "Event", home)
    assert any(each["message"].startswith("Recreating") for each in events if each["involvedObject"]["name"] == NAME)
    # Replicas may serve some seconds before KubeRay calls their cluster active.
    installed.api.until(lambda: installed.active_cluster(NAME, home) not in ("", first), "KubeRay calls it active")
    installed.delete(NAME, home)
