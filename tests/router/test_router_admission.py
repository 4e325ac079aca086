"""The queue: who waits, who goes first, who is refused."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from trimode_api.fleet import FleetView
from trimode_api.wire import AdmissionPolicy, PoolPolicy
from trimode_lab.doubles.replica.replica import polite
from trimode_router.http.limits import Limits

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
BODY = json.dumps(CHAT | {"stream": True}).encode()
STREAM = b"POST /v1/chat/completions HTTP/1.1\r\nhost: router\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY
PREMIUM = {"x-trimode-tier": "premium"}


async def _on_go(call: Any) -> None:
    await call.go.wait()
    await polite(call)


@pytest.fixture
async def full(open_house: Any) -> Any:
    """A house whose one replica takes one request, and has it."""
    house = await open_house(max_running=1, limits=Limits(slack=0))
    house.replicas[0].script = _on_go
    house.first = asyncio.ensure_future(house.http.post("/v1/chat/completions", json=CHAT))
    house.call = await house.replicas[0].next_call()
    return house


def post(house: Any, name: str, **headers: str) -> asyncio.Task[Any]:
    body = CHAT | {"user": name}
    return asyncio.ensure_future(house.http.post("/v1/chat/completions", json=body, headers=headers))


async def queued(house: Any, count: int) -> None:
    await house.until(lambda: len(house.router.dispatcher.queue) == count)


async def test_a_queued_request_goes_when_a_slot_frees(full: Any) -> None:
    second = post(full, "second")
    await queued(full, 1)
    assert len(full.replicas[0].calls) == 1
    full.call.go.set()
    assert (await full.first).status_code == 200
    call = await full.replicas[0].next_call()
    call.go.set()
    assert (await second).status_code == 200


async def _told(call: Any) -> None:
    """All but the end is said by the test."""
    await call.go.wait()
    await call.end(1)


async def test_a_stream_of_twenty_minutes_keeps_its_place(open_house: Any) -> None:
    """What runs is counted until it ends, however old it is."""
    house = await open_house(max_running=1, limits=Limits(slack=0))
    house.replicas[0].script = _told
    reader, _ = await house.raw(STREAM)
    call = await house.replicas[0].next_call()
    await call.begin()
    for since in range(0, 1200, 2):
        await call.say(f"word{since} ", [1])
        await reader.readuntil(f"word{since} ".encode())
        await house.report(house.replicas[0].report())
        house.pass_time(2)
    view = FleetView.from_wire((await house.http.get("/fleet")).content)
    assert view.router.in_flight == 1
    waiting = post(house, "second")
    await queued(house, 1)
    house.replicas[0].script = polite
    call.go.set()
    assert (await waiting).status_code == 200


async def served(full: Any, tasks: list[asyncio.Task[Any]]) -> list[str]:
    """Whose requests the one replica gets, in turn, when each answer makes room for one."""
    order, call = [], full.call
    for _ in tasks:
        call.go.set()
        call = await full.replicas[0].next_call()
        order.append(call.json["user"])
    call.go.set()
    await asyncio.gather(full.first, *tasks)
    return order


async def test_priority_then_age(full: Any) -> None:
    tasks = []
    for name, headers in [("a", {}), ("b", {}), ("c", PREMIUM), ("d", PREMIUM)]:
        tasks.append(post(full, name, **headers))
        await queued(full, len(tasks))
        full.clock.value += 0.01
    assert await served(full, tasks) == ["c", "d", "a", "b"]


async def test_within_a_tier_the_lowest_priority_field_goes_first(full: Any) -> None:
    """As in vLLM; a tier's own priority comes before it, and null is none."""
    wanted = [("a", None), ("b", 7), ("c", -3), ("d", 0)]
    tasks = []
    for name, priority in wanted:
        body = CHAT | {"user": name, "priority": priority}
        tasks.append(asyncio.ensure_future(full.http.post("/v1/chat/completions", json=body)))
        await queued(full, len(tasks))
        full.clock.value += 0.01
    assert await served(full, tasks) == ["c", "a", "d", "b"]


async def test_a_short_prompt_passes_a_long_one_that_has_not_waited_for_long(full: Any) -> None:
    """A prompt of 500 tokens takes 25 ms here, so it counts as having come a quarter of a second later."""
    await full.report(full.replicas[0].report(prompt_tokens_per_second=20_000.0))
    tasks = []
    for name, size, pause in [("long", 2000, 0.1), ("short", 0, 0.3), ("later", 0, 0.0)]:
        body = CHAT | {"user": name, "messages": [{"role": "user", "content": "x" * size}]}
        tasks.append(asyncio.ensure_future(full.http.post("/v1/chat/completions", json=body)))
        await queued(full, len(tasks))
        full.clock.value += pause
    assert await served(full, tasks) == ["short", "long", "later"]


async def test_a_priority_field_that_is_no_number_is_refused(house: Any) -> None:
    answer = await house.http.post("/v1/chat/completions", json=CHAT | {"priority": "high"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "priority"


async def test_a_full_queue_refuses(full: Any) -> None:
    waiting = [post(full, str(index)) for index in range(4)]
    await queued(full, 4)
    response = await full.http.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1
    assert response.json()["error"]["type"] == "rate_limit_error"
    view = FleetView.from_wire((await full.http.get("/fleet")).content)
    assert [(refusal.status, refusal.reason) for refusal in view.refusals] == [(429, "QueueFull")]
    assert (view.router.queued, view.router.in_flight, view.router.refused_total) == (4, 1, 1)
    assert 'trimode_router_refusals_total{reason="QueueFull"} 1.0' in (await full.http.get("/metrics")).text
    for task in waiting:
        task.cancel()
    await queued(full, 0)


async def test_a_higher_priority_displaces_the_youngest_of_the_lowest(full: Any) -> None:
    waiting = []
    for index in range(4):
        waiting.append(post(full, str(index)))
        await queued(full, index + 1)
    premium = post(full, "premium", **PREMIUM)
    response = await waiting[3]
    assert response.status_code == 429
    assert "priority" in response.json()["error"]["message"]
    assert len(full.router.dispatcher.queue) == 4
    full.call.go.set()
    call = await full.replicas[0].next_call()
    assert call.json["user"] == "premium"
    call.go.set()
    assert (await premium).status_code == 200


async def test_waiting_ends(full: Any) -> None:
    second = post(full, "second")
    await queued(full, 1)
    full.pass_time(2.5)
    response = await second
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1
    assert "2.5 s" in response.json()["error"]["message"]
    assert "trimode_router_queue_wait_seconds_count" in (await full.http.get("/metrics")).text


async def test_a_client_that_leaves_the_queue_is_forgotten(full: Any) -> None:
    body = json.dumps(CHAT).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    _, writer = await full.raw(head + body)
    await queued(full, 1)
    writer.close()
    await queued(full, 0)
    full.call.go.set()
    assert (await full.first).status_code == 200
    assert len(full.replicas[0].calls) == 1


async def test_a_new_replica_takes_what_waits(full: Any) -> None:
    from trimode_lab.doubles.replica.replica import FakeReplica

    second = post(full, "second")
    await queued(full, 1)
    async with FakeReplica("r2") as other:
        await full.add(other)
        assert (await second).status_code == 200
        assert len(other.calls) == 1


async def test_nobody_ready_is_503(open_house: Any) -> None:
    house = await open_house(replicas=0)
    response = await house.http.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1
    assert (await house.http.get("/readyz")).status_code == 503
    assert (await house.http.get("/healthz")).status_code == 200


@pytest.mark.parametrize("change", [{"ready": False}, {"draining": True}])
async def test_unready_and_draining_replicas_get_nothing(house: Any, change: dict[str, bool]) -> None:
    await house.report(house.replicas[0].report(**change))
    response = await house.http.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 503
    assert house.replicas[0].calls == []


PINNED = CHAT | {"trimode": {"mode": "SelfSpeculation", "blockLength": 8}}


async def test_a_pin_waits_for_a_replica_that_has_not_heard_of_it_yet(house: Any) -> None:
    """The policy allows the mode; the next report says that the replica does, too."""
    await house.report(house.replicas[0].report(allowed_points=("AR",)))
    response = asyncio.create_task(house.http.post("/v1/chat/completions", json=PINNED))
    await house.until(lambda: len(house.router.dispatcher.queue) == 1)
    assert (await house.http.post("/v1/chat/completions", json=CHAT)).status_code == 200
    await house.report(house.replicas[0].report(allowed_points=("AR", "S8")))
    assert (await response).status_code == 200


async def test_a_pin_that_no_ready_replica_comes_to_offer(house: Any) -> None:
    """503 and not 400: the request is right, and may succeed later."""
    await house.report(house.replicas[0].report(allowed_points=("AR",)))
    response = asyncio.create_task(house.http.post("/v1/chat/completions", json=PINNED))
    await house.until(lambda: len(house.router.dispatcher.queue) == 1)
    house.pass_time(2.1)
    refused = await response
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "NotOffered")
    assert "SelfSpeculation with blockLength 8" in refused.json()["error"]["message"]
    assert int(refused.headers["retry-after"]) >= 1


async def test_a_mode_without_a_length_goes_to_whichever_pool_is_alive(open_house: Any, make_policy: Any) -> None:
    """The router used to settle on the shortest block of all pools, and refused when that one's pool was away."""
    pools = (PoolPolicy(name="short", points=("S8",)), PoolPolicy(name="flex", points=("AR", "S16", "S32")))
    house = await open_house(policy=make_policy(pools=pools))
    await house.report(house.replicas[0].report(allowed_points=("AR", "S16", "S32")))
    wish = CHAT | {"trimode": {"mode": "SelfSpeculation"}}
    assert (await house.http.post("/v1/chat/completions", json=wish)).status_code == 200
    assert house.replicas[0].calls[0].json["trimode"] == {"mode": "SelfSpeculation"}


async def test_what_no_pool_offers_is_refused_at_once(house: Any) -> None:
    wish = CHAT | {"trimode": {"mode": "SelfSpeculation", "blockLength": 4}}
    response = await house.http.post("/v1/chat/completions", json=wish)
    assert response.status_code == 400
    assert "is not offered; allowed: AR, S8" in response.json()["error"]["message"]


async def test_the_load_of_other_routers_counts(open_house: Any) -> None:
    house = await open_house(replicas=2)
    await house.report(house.replicas[0].report(running=4))
    for _ in range(3):
        await house.http.post("/v1/chat/completions", json=CHAT)
    assert [len(replica.calls) for replica in house.replicas] == [0, 3]


async def test_own_requests_in_a_report_do_not_count_twice(full: Any) -> None:
    """A report taken while the request ran must not block the slot that is free by now."""
    await full.report(full.replicas[0].report(running=1))
    full.call.go.set()
    await full.first
    second = post(full, "second")
    (await full.replicas[0].next_call()).go.set()
    assert (await second).status_code == 200


async def test_no_queue_at_all(open_house: Any, make_policy: Any) -> None:
    policy = make_policy(admission=AdmissionPolicy(max_queued_requests=0, max_wait_milliseconds=1000))
    house = await open_house(policy=policy, max_running=1, limits=Limits(slack=0))
    house.replicas[0].script = _on_go
    first = post(house, "first")
    call = await house.replicas[0].next_call()
    assert (await house.http.post("/v1/chat/completions", json=CHAT)).status_code == 429
    call.go.set()
    assert (await first).status_code == 200


async def test_a_tier_that_waits_gets_a_place_each_second_whoever_else_waits(full: Any) -> None:
    calm = post(full, "calm")
    await queued(full, 1)
    urgent = [post(full, f"urgent {i}", **PREMIUM) for i in range(3)]
    await queued(full, 4)
    order, call = [], full.call
    for passed in (0.3, 0.7, 0.0, 0.0):
        full.clock.value += passed
        call.go.set()
        call = await full.replicas[0].next_call()
        order.append(call.json["user"])
    call.go.set()
    await asyncio.gather(calm, *urgent, full.first)
    assert order == ["urgent 0", "calm", "urgent 1", "urgent 2"]
