"""Tenants on a cluster: one budget for all router pods, and what the answers of each have cost."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from trimode_e2e.clients import PROMPT
from trimode_e2e.world import World, tiny
from trimode_router.access.access import new_key

pytestmark = [pytest.mark.timeout(1800), pytest.mark.usefixtures("on_the_node")]

NAME, KEYS = "shared", "tenants"
A_MINUTE = 60
"""Requests that the bounded tenant may send."""
TENANTS: list[dict[str, Any]] = [{"name": "bounded", "requestsPerMinute": A_MINUTE}, {"name": "free"}]
KEY_OF = {tenant["name"]: new_key() for tenant in TENANTS}
PATIENT = {
    "tiers": [{"name": "patient", "ttftMilliseconds": 120000, "tpotMilliseconds": 10000}],
    "admission": {"maxWaitMilliseconds": 60000},
}


@pytest.fixture(scope="module")
def routers(installed: World, home: str) -> Iterator[list[str]]:
    """The addresses of two router pods, before one replica that both know."""
    entries = [{"tenant": tenant, "sha256": digest} for tenant, (_, digest) in KEY_OF.items()]
    content = json.dumps({"tenants": TENANTS, "keys": entries})
    metadata = {"name": KEYS, "namespace": home}
    installed.api.create(
        {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"keys.json": content}}
    )
    installed.api.create(tiny(NAME, home, router={"replicas": 2, "auth": {"secretName": KEYS}}, **PATIENT))
    installed.until_condition(NAME, home, "Ready")
    pods = installed.api.until(
        lambda: len(ready := installed.ready_pods(home, instance=NAME, component="router")) == 2 and ready,
        "two routers are ready",
    )
    yield [f"http://{pod['status']['podIP']}:8000" for pod in pods]
    installed.delete(NAME, home)


def ask(url: str, tenant: str, max_tokens: int) -> int:
    """The status of a chat completion."""
    body = {"model": NAME, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": max_tokens}
    headers = {"Authorization": f"Bearer {KEY_OF[tenant][0]}"}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=120, trust_env=False)
    return answer.status_code


def counted(routers: list[str], name: str) -> dict[str, float]:
    """A counter of all routers by tenant."""
    found: dict[str, float] = defaultdict(float)
    for url in routers:
        text = httpx.get(f"{url}/metrics", timeout=30, trust_env=False).text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == f"{name}_total":
                    found[sample.labels["tenant"]] += sample.value
    return found


def test_a_budget_is_of_both_routers_together(routers: list[str]) -> None:
    statuses: list[int] = []
    begun = time.monotonic()

    def until_refused(url: str) -> None:
        statuses.extend(iter(lambda: ask(url, "bounded", 1), 429))

    threads = [threading.Thread(target=until_refused, args=[url]) for url in routers for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    allowed = A_MINUTE * (1 + (time.monotonic() - begun) / 60)
    assert set(statuses) == {200}
    # Each thread may have been let in while the last of the budget went; the whole of it would be twice as much.
    assert 0.9 * A_MINUTE <= len(statuses) <= 1.1 * allowed + 1
    assert ask(routers[0], "free", 1) == 200, "another tenant has a budget of its own"


def test_answers_and_what_they_cost_are_counted_by_tenant(routers: list[str]) -> None:
    before = {name: counted(routers, f"trimode_router_{name}") for name in ("answers", "gpu_seconds", "tenant_tokens")}
    for url in routers:
        assert ask(url, "free", 32) == 200
    after = {name: counted(routers, f"trimode_router_{name}") for name in before}
    assert after["answers"]["free"] - before["answers"]["free"] == 2
    assert after["answers"]["bounded"] == before["answers"]["bounded"]
    assert after["gpu_seconds"]["free"] > before["gpu_seconds"]["free"]
    assert after["tenant_tokens"]["free"] > before["tenant_tokens"]["free"] + 2
