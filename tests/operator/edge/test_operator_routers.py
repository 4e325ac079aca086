"""The client of the routers' internal port, against a real router."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from trimode_api.policy_of import policy_of
from trimode_api.resource import NemotronDeployment
from trimode_api.wire import DecisionReport, PolicyConfig, ReplicaReport, RouterConfig
from trimode_operator.apply.router_orders import order_drain
from trimode_operator.errors import RouterFailure
from trimode_operator.observe.fleets import Address, addresses
from trimode_operator.observe.routers import Routers
from trimode_router.edge.server import Router

TOKEN = "secret"
RESOURCE = {
    "apiVersion": "trimode.dev/v1alpha1",
    "kind": "NemotronDeployment",
    "metadata": {"name": "nemo"},
    "spec": {"model": {"uri": "tiny://"}, "pools": [{"name": "flex", "modes": ["AR"]}]},
}


def policy(version: int) -> PolicyConfig:
    return policy_of(NemotronDeployment.parse(RESOURCE), version)


@pytest.fixture
async def router() -> AsyncIterator[Router]:
    running = Router(
        RouterConfig(name="nemo", model="nemo", port=0, policy=policy(1)), TOKEN, now=time.monotonic, wall=time.time
    )
    await running.start()
    yield running
    await running.stop(0.0)


@pytest.fixture
async def client() -> AsyncIterator[Routers]:
    routers = Routers()
    yield routers
    await routers.close()


def address_of(router: Router) -> Address:
    parts = urlsplit(router.internal_url)
    assert parts.hostname is not None
    assert parts.port is not None
    return Address(parts.hostname, parts.port)


def report(**changes: object) -> ReplicaReport:
    given: dict[str, object] = {
        "replica_id": "r1",
        "pool": "flex",
        "url": "http://127.0.0.1:9",
        "model": "nemo",
        "sequence": 1,
        "ready": True,
        "running": 0,
        "waiting": 0,
        "max_running": 4,
        "queued_prompt_tokens": 0,
        "cached_tokens": 0,
        "capacity_tokens": 64,
        "max_context_tokens": 64,
        "point": "AR",
        "decision": DecisionReport(point="AR", reason="Kept", age_seconds=0.0),
        "switches": 0,
        "tokens_per_second": 0.0,
        "policy_version": 1,
    }
    return ReplicaReport.model_validate(given | changes)


async def test_the_fleet_and_a_new_policy(router: Router, client: Routers) -> None:
    address = address_of(router)
    assert (await client.fleet(address, TOKEN)).policy_version == 1
    await client.put_policy(address, TOKEN, policy(2))
    assert (await client.fleet(address, TOKEN)).policy_version == 2


async def test_a_router_with_a_later_policy_keeps_it(router: Router, client: Routers) -> None:
    await client.put_policy(address_of(router), TOKEN, policy(5))
    with pytest.raises(RouterFailure) as caught:
        await client.put_policy(address_of(router), TOKEN, policy(4))
    assert caught.value.status == 409


async def test_the_wrong_token_is_said(router: Router, client: Routers) -> None:
    with pytest.raises(RouterFailure, match="HTTP 401") as caught:
        await client.fleet(address_of(router), "other")
    assert caught.value.status == 401


async def test_one_that_does_not_answer_does_not_hide_the_others(router: Router, client: Routers) -> None:
    here, nowhere = address_of(router), Address("127.0.0.1", 1)
    fleets = await client.fleets((here, nowhere), TOKEN)
    assert list(fleets.views) == [here]
    assert "does not answer" in fleets.failures[nowhere]
    assert fleets.asked == 2


async def test_draining_reaches_replicas_through_the_answers_to_their_reports(router: Router, client: Routers) -> None:
    router.fleet.take_report(report(), time.monotonic(), time.time())
    fleets = await client.fleets((address_of(router),), TOKEN)
    await order_drain(client, fleets, TOKEN)
    answer = router.fleet.take_report(report(sequence=2), time.monotonic(), time.time())
    assert answer.command.value == "Drain"
    (view,) = (await client.fleets((address_of(router),), TOKEN)).views.values()
    assert [replica.draining for replica in view.replicas] == [True]


def endpoint_slice(*hosts: str, ports: Any = ({"name": "internal", "port": 8001},)) -> dict[str, Any]:
    """As the endpointslice controller writes it."""
    endpoints = [{"addresses": [host], "conditions": {"ready": host.endswith("1")}} for host in hosts]
    return {"endpoints": endpoints, "ports": list(ports or ())}


def test_addresses_of_endpoint_slices() -> None:
    two = ({"name": "http", "port": 8000}, {"name": "internal", "port": 8001})
    slices = [
        endpoint_slice("10.0.0.2", "10.0.0.1", ports=two),
        endpoint_slice("10.0.0.2", "10.0.0.3"),
        endpoint_slice("fd00::1"),
    ]
    expected = ["10.0.0.1:8001", "10.0.0.2:8001", "10.0.0.3:8001", "[fd00::1]:8001"]
    assert [str(one) for one in addresses(slices)] == expected


@pytest.mark.parametrize("slices", [[], [{}], [{"endpoints": None, "ports": None}], [endpoint_slice("a", ports=())]])
def test_no_endpoints(slices: list[dict[str, Any]]) -> None:
    assert addresses(slices) == ()
