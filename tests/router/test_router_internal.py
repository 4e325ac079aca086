"""The internal port: reports in, policy and commands out; and what `/fleet` shows of it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from trimode_api.fleet import FleetHistory, FleetView, Freshness
from trimode_api.wire import (
    DRAIN_PATH,
    FLEET_PATH,
    POLICY_PATH,
    REPORT_PATH,
    Command,
    DecisionReport,
    SwitchReport,
)
from trimode_lab.doubles.replica.replica import FakeReplica

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


async def fleet(house: Any) -> FleetView:
    return FleetView.from_wire((await house.http.get("/fleet")).content)


@pytest.mark.parametrize(
    ("method", "path"), [("POST", REPORT_PATH), ("PUT", POLICY_PATH), ("GET", FLEET_PATH), ("POST", DRAIN_PATH)]
)
@pytest.mark.parametrize("value", [None, "Bearer wrong", "Bearer fleet-token2", "fleet-token", "Bearer \xe9"])
async def test_nothing_without_the_token(house: Any, method: str, path: str, value: str | None) -> None:
    async with httpx.AsyncClient(base_url=house.router.internal_url, verify=False) as client:
        headers = httpx.Headers([] if value is None else [(b"Authorization", value.encode("latin-1"))])
        response = await client.request(method, path, headers=headers, content=b"{}")
    assert response.status_code == 401
    assert response.json()["error"]["type"] == "authentication_error"


async def test_a_new_policy_reaches_replicas_in_their_next_answers(house: Any, make_policy: Any) -> None:
    replica = house.replicas[0]
    assert (await house.report(replica.report(policy_version=1))).policy is None
    response = await house.internal.put(POLICY_PATH, content=make_policy(version=2).to_wire())
    assert (response.status_code, response.json()) == (200, {"version": 2})
    answer = await house.report(replica.report(policy_version=1))
    assert answer.policy == make_policy(version=2)
    assert (await house.report(replica.report(policy_version=2))).policy is None
    assert (await fleet(house)).policy_version == 2


async def test_an_older_policy_is_refused_with_both_versions(house: Any, make_policy: Any) -> None:
    await house.internal.put(POLICY_PATH, content=make_policy(version=5).to_wire())
    response = await house.internal.put(POLICY_PATH, content=make_policy(version=4).to_wire())
    assert response.status_code == 409
    message = response.json()["error"]["message"]
    assert "4" in message
    assert "5" in message


async def test_the_same_policy_twice_is_fine_a_different_one_of_its_version_is_not(
    house: Any, make_policy: Any
) -> None:
    assert (await house.internal.put(POLICY_PATH, content=make_policy(1).to_wire())).status_code == 200
    other = make_policy(1, drain_timeout_seconds=9)
    assert (await house.internal.put(POLICY_PATH, content=other.to_wire())).status_code == 409


async def test_tiers_change_with_the_policy(house: Any, make_policy: Any) -> None:
    tiers = tuple(tier.model_copy(update={"name": f"new-{tier.name}"}) for tier in make_policy().tiers)
    await house.internal.put(POLICY_PATH, content=make_policy(2, tiers=tiers).to_wire())
    response = await house.http.post("/v1/chat/completions", json=CHAT, headers={"x-trimode-tier": "premium"})
    assert response.status_code == 400
    await house.http.post("/v1/chat/completions", json=CHAT)
    assert house.replicas[0].calls[-1].headers["x-trimode-tier"] == "new-standard"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "JSON"),
        (b"{}", "replicaId: is required"),
        (b'{"replicaId": "r", "point": "S9"}', "block length 9"),
    ],
)
async def test_bad_reports_name_the_field(house: Any, body: bytes, message: str) -> None:
    response = await house.internal.post(REPORT_PATH, content=body)
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]


async def test_a_report_of_another_model_is_refused(house: Any) -> None:
    response = await house.internal.post(REPORT_PATH, content=FakeReplica("x").report(model="other").to_wire())
    assert response.status_code == 409
    assert "other" in response.json()["error"]["message"]
    assert [replica.replica_id for replica in (await fleet(house)).replicas] == ["r1"]


async def test_unknown_internal_path_and_method(house: Any) -> None:
    response = await house.internal.get("/internal/v1/nothing")
    assert (response.status_code, response.json()["error"]["type"]) == (404, "not_found_error")
    response = await house.internal.get(REPORT_PATH)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


async def test_a_late_report_changes_nothing(house: Any) -> None:
    replica = house.replicas[0]
    late = replica.report(running=1)
    await house.report(replica.report(running=2))
    await house.report(late)
    assert (await fleet(house)).replicas[0].running == 2


async def test_drain_and_undrain(open_house: Any) -> None:
    house = await open_house(replicas=2)
    first, second = house.replicas
    response = await house.internal.post(DRAIN_PATH, json={"replicaId": "r1"})
    assert response.json() == {"replicaId": "r1", "draining": True}
    for _ in range(3):
        await house.http.post("/v1/chat/completions", json=CHAT)
    assert (len(first.calls), len(second.calls)) == (0, 3)
    assert (await house.report(first.report())).command is Command.DRAIN
    assert (await house.report(first.report(draining=True))).command is Command.NONE
    await house.internal.post(DRAIN_PATH, json={"replicaId": "r1", "drain": False})
    assert (await house.report(first.report(draining=True))).command is Command.UNDRAIN
    assert (await house.report(first.report())).command is Command.NONE
    # From here on a drain is the replica's own, and nobody talks it out of that.
    assert (await house.report(first.report(draining=True))).command is Command.NONE
    response = await house.internal.post(DRAIN_PATH, json={"replicaId": "nobody"})
    assert response.status_code == 404
    assert "r1, r2" in response.json()["error"]["message"]


async def test_fleet_shows_replicas_pools_and_freshness(open_house: Any) -> None:
    house = await open_house(replicas=2)
    await house.report(house.replicas[1].report(point="S32", running=3, tokens_per_second=40.0))
    view = await fleet(house)
    assert (view.name, view.model, view.default_tier) == ("demo", "tiny", "standard")
    (pool,) = view.pools
    assert pool.shares == {"AR": 50.0, "S32": 50.0}
    assert (pool.replicas, pool.ready, pool.running, pool.tokens_per_second) == (2, 2, 3, 40.0)
    assert {replica.freshness for replica in view.replicas} == {Freshness.FRESH}
    house.pass_time(4)
    assert {replica.freshness for replica in (await fleet(house)).replicas} == {Freshness.STALE}
    house.pass_time(7)
    view = await fleet(house)
    assert {replica.freshness for replica in view.replicas} == {Freshness.DEAD}
    assert view.pools[0].ready == 0
    house.pass_time(60)
    assert (await fleet(house)).replicas == ()
    internal = await house.internal.get(FLEET_PATH)
    assert internal.json().keys() == json.loads((await house.http.get("/fleet")).content).keys()


async def test_stale_replicas_still_serve(house: Any) -> None:
    house.pass_time(5)
    assert (await house.http.post("/v1/chat/completions", json=CHAT)).status_code == 200


async def test_fresh_is_preferred_to_stale(open_house: Any) -> None:
    house = await open_house(replicas=2)
    house.clock.value += 5
    await house.report(house.replicas[1].report(running=2))
    await house.http.post("/v1/chat/completions", json=CHAT)
    assert (len(house.replicas[0].calls), len(house.replicas[1].calls)) == (0, 1)


async def test_changes_of_the_point_are_remembered(house: Any) -> None:
    replica = house.replicas[0]
    probe = DecisionReport(point="S32", reason="Probe", age_seconds=0.0)
    await house.report(replica.report(point="S32", decision=probe))  # no change: nothing was decided
    decision = DecisionReport(point="S32", reason="Kept", age_seconds=0.1)
    switch = SwitchReport(from_point="AR", to_point="S32", reason="PredictedGain", detail="2 requests: 1.9x")
    for _ in range(2):
        await house.report(replica.report(point="S32", decision=decision, switches=1, last_switch=switch))
    (change,) = (await fleet(house)).decisions
    assert (change.replica_id, change.from_point, change.to_point) == ("r1", "AR", "S32")
    assert (change.reason, change.detail) == ("PredictedGain", "2 requests: 1.9x")
    assert change.time == 1_700_001_000.0


async def test_history_samples_each_second(house: Any) -> None:
    await house.report(house.replicas[0].report(point="S16", tokens_per_second=12.5))
    house.pass_time(1)
    history = FleetHistory.from_wire((await house.http.get("/fleet/history")).content)
    assert history.samples[-1].points == {"S16": 1}
    assert history.samples[-1].tokens_per_second == 12.5


async def test_a_restarted_replica_is_a_new_one(house: Any) -> None:
    async with FakeReplica("r1-again") as again:
        house.pass_time(11)
        await house.add(again)
        assert (await house.http.post("/v1/chat/completions", json=CHAT)).status_code == 200
        assert len(again.calls) == 1
