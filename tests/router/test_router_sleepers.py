"""Pools without a replica: a request calls one, waits for it, and is served or told why not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from trimode_api.fleet import FleetView
from trimode_api.wire import FLEET_PATH, AdmissionPolicy, PoolPolicy
from trimode_lab.doubles.replica.replica import FakeReplica
from trimode_router.fleet.scale_from_zero import ACTIVATE_AFTER_S, WANTED_S

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
FLEX = PoolPolicy(name="flex", points=("AR", "S8"), sleeps=True)
DEEP = PoolPolicy(name="deep", points=("S32",), sleeps=True)
AWAKE = PoolPolicy(name="flex", points=("AR", "S8"))


@pytest.fixture
async def asleep(open_house: Any, make_policy: Any) -> Any:
    """A house whose two pools sleep."""
    return await open_house(policy=make_policy(pools=(FLEX, DEEP)), replicas=0)


@pytest.fixture
async def risen() -> AsyncIterator[FakeReplica]:
    """A replica of the pool `flex` that nobody has heard of yet."""
    async with FakeReplica(replica_id="risen") as replica:
        yield replica


def ask(house: Any, **more: Any) -> asyncio.Task[Any]:
    return asyncio.ensure_future(house.http.post("/v1/chat/completions", json=CHAT | more))


async def wanted(house: Any) -> set[str]:
    view = FleetView.from_wire((await house.internal.get(FLEET_PATH)).content)
    return {pool.name for pool in view.pools if pool.wanted}


async def queued(house: Any, count: int) -> None:
    await house.until(lambda: len(house.router.dispatcher.queue) == count)


async def test_a_request_calls_one_pool_waits_and_is_served(asleep: Any, risen: FakeReplica) -> None:
    assert await wanted(asleep) == set()
    task = ask(asleep)
    await queued(asleep, 1)
    assert await wanted(asleep) == {"flex"}, "one of those that may serve it, no more"
    await asleep.add(risen)
    assert (await task).status_code == 200
    assert await wanted(asleep) == set()


async def test_the_router_is_ready_for_requests_that_wake(asleep: Any, open_house: Any) -> None:
    assert (await asleep.http.get("/readyz")).status_code == 200
    assert (await (await open_house(replicas=0)).http.get("/readyz")).status_code == 503


async def test_without_pools_that_sleep_nobody_ready_is_503_at_once(open_house: Any) -> None:
    house = await open_house(replicas=0)
    answer = await ask(house)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "NoneReady")


async def test_a_pin_calls_the_pool_that_offers_it(asleep: Any) -> None:
    ask(asleep, trimode={"mode": "SelfSpeculation", "blockLength": 32})
    await queued(asleep, 1)
    assert await wanted(asleep) == {"deep"}


async def test_who_is_awake_cannot_serve_it_so_another_is_woken(open_house: Any, make_policy: Any) -> None:
    house = await open_house(policy=make_policy(pools=(AWAKE, DEEP)))
    await house.report(house.replicas[0].report(allowed_points=("AR", "S8")))
    task = ask(house, trimode={"mode": "SelfSpeculation", "blockLength": 32})
    await queued(house, 1)
    assert await wanted(house) == {"deep"}
    async with FakeReplica(replica_id="deep-1") as replica:
        await house.report(replica.report(pool="deep", allowed_points=("S32",)))
        assert (await task).status_code == 200
        assert [call.path for call in replica.calls] == ["/v1/chat/completions"]


async def test_a_wait_that_ends_says_that_a_replica_is_on_its_way(asleep: Any) -> None:
    task = ask(asleep)
    await queued(asleep, 1)
    asleep.pass_time(2.1)
    answer = await task
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "Waking")
    assert "'flex'" in answer.json()["error"]["message"]
    assert int(answer.headers["retry-after"]) >= 1
    assert await wanted(asleep) == {"flex"}, "whoever comes back shall find it"


async def test_a_request_that_may_not_wait_still_wakes(open_house: Any, make_policy: Any) -> None:
    admission = AdmissionPolicy(max_queued_requests=0, max_wait_milliseconds=2000)
    house = await open_house(policy=make_policy(pools=(FLEX,), admission=admission), replicas=0)
    assert (await ask(house)).status_code == 429
    assert await wanted(house) == {"flex"}


async def test_a_call_is_forgotten_where_nobody_asks_any_more(asleep: Any) -> None:
    task = ask(asleep)
    await queued(asleep, 1)
    task.cancel()
    await queued(asleep, 0)
    asleep.pass_time(WANTED_S + 1)
    assert await wanted(asleep) == set()


async def test_who_waits_for_room_calls_a_sleeping_pool_after_a_while(open_house: Any, make_policy: Any) -> None:
    house = await open_house(policy=make_policy(pools=(AWAKE, DEEP)), max_running=1)
    await house.report(house.replicas[0].report(allowed_points=("AR", "S8")))

    async def hold(call: Any) -> None:
        await call.go.wait()

    house.replicas[0].script = hold
    for count in range(3):
        ask(house)
        await house.until(
            lambda c=count: len(house.router.dispatcher.in_flight) + len(house.router.dispatcher.queue) > c
        )
    await queued(house, 1)
    house.pass_time(ACTIVATE_AFTER_S / 2)
    assert await wanted(house) == set()
    house.pass_time(ACTIVATE_AFTER_S)
    assert await wanted(house) == {"deep"}
