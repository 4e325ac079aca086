"""Metric names, types and labels are an interface: dashboards and alerts are built on them."""

from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from trimode_api.wire import DecisionReport

NAMES = {
    "trimode_router_requests": ("counter", ("status", "tier")),
    "trimode_router_time_to_first_token_seconds": ("histogram", ("mode", "tier", "workload")),
    "trimode_router_request_seconds": ("histogram", ("mode", "tier", "workload")),
    "trimode_router_time_per_output_token_seconds": ("histogram", ("mode", "tier", "workload")),
    "trimode_router_objectives": ("counter", ("met", "objective", "tier")),
    "trimode_router_output_tokens": ("counter", ("tier",)),
    "trimode_router_gpu_seconds": ("counter", ("mode", "tenant", "tier")),
    "trimode_router_answers": ("counter", ("mode", "tenant", "tier")),
    "trimode_router_tenant_tokens": ("counter", ("kind", "mode", "tenant", "tier")),
    "trimode_router_gpu_hour_cost": ("gauge", ()),
    "trimode_router_queue_wait_seconds": ("histogram", ("tier",)),
    "trimode_router_retries": ("counter", ()),
    "trimode_router_resumption_seconds": ("histogram", ()),
    "trimode_router_first_token_ratio": ("histogram", ()),
    "trimode_router_predicted_late": ("counter", ("outcome",)),
    "trimode_router_refusals": ("counter", ("reason",)),
    "trimode_router_rejections": ("counter", ("code",)),
    "trimode_router_in_flight": ("gauge", ()),
    "trimode_router_queued": ("gauge", ()),
    "trimode_router_tasks": ("gauge", ()),
    "trimode_router_client_connections": ("gauge", ()),
    "trimode_router_policy_version": ("gauge", ()),
    "trimode_pool_asleep": ("gauge", ("pool",)),
    "trimode_replica_ready": ("gauge", ("pool", "replica")),
    "trimode_replica_running": ("gauge", ("pool", "replica")),
    "trimode_replica_waiting": ("gauge", ("pool", "replica")),
    "trimode_replica_in_flight": ("gauge", ("pool", "replica")),
    "trimode_replica_tokens_per_second": ("gauge", ("pool", "replica")),
    "trimode_replica_report_age_seconds": ("gauge", ("pool", "replica")),
    "trimode_replica_cached_tokens": ("gauge", ("pool", "replica")),
    "trimode_replica_switches": ("counter", ("pool", "replica")),
    "trimode_replica_preemptions": ("counter", ("pool", "replica")),
    "trimode_replica_prompt_tokens": ("counter", ("pool", "replica", "source")),
    "trimode_replica_stored_pages": ("gauge", ("pool", "replica")),
    "trimode_replica_shortages": ("counter", ("pool", "replica")),
    "trimode_replica_busy_seconds": ("counter", ("pool", "replica")),
    "trimode_replica_start_seconds": ("gauge", ("pool", "replica")),
    "trimode_replica_point_info": ("gauge", ("point", "pool", "replica")),
    "trimode_replica_cycle_seconds": ("gauge", ("point", "pool", "replica")),
    "trimode_replica_tokens_per_cycle": ("gauge", ("point", "pool", "replica")),
    "trimode_replica_predicted_tokens_per_second": ("gauge", ("point", "pool", "replica")),
    "trimode_replica_cycles": ("counter", ("point", "pool", "replica")),
    "trimode_replica_tokens": ("counter", ("point", "pool", "replica")),
}


async def families(house: Any) -> dict[str, Any]:
    response = await house.http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {family.name: family for family in text_string_to_metric_families(response.text)}


def value(family: Any, name: str, **labels: str) -> float:
    (sample,) = [s for s in family.samples if s.name == name and labels.items() <= s.labels.items()]
    return float(sample.value)


async def served(house: Any) -> None:
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 5}
    await house.http.post("/v1/chat/completions", json=chat, headers={"x-trimode-tier": "premium"})


async def test_names_types_and_labels_are_pinned(house: Any) -> None:
    await served(house)
    await house.http.post("/v1/chat/completions", json={"model": "tiny", "messages": []})
    house.pass_time(11)
    await house.http.post("/v1/chat/completions", json={"model": "tiny", "messages": []})
    found = await families(house)
    found = {name: family for name, family in found.items() if not name.endswith("_created")}
    assert found.keys() == NAMES.keys()
    for name, (kind, labels) in NAMES.items():
        assert found[name].type == kind, name
        for sample in found[name].samples:
            assert tuple(sorted(sample.labels.keys() - {"le"})) == labels, name


async def test_a_stream_is_counted(house: Any) -> None:
    await served(house)
    found = await families(house)
    requests = found["trimode_router_requests"]
    assert value(requests, "trimode_router_requests_total", tier="premium", status="200") == 1
    tokens = found["trimode_router_output_tokens"]
    assert value(tokens, "trimode_router_output_tokens_total", tier="premium") == 5
    first = found["trimode_router_time_to_first_token_seconds"]
    assert value(first, "trimode_router_time_to_first_token_seconds_count", tier="premium") == 1
    objectives = found["trimode_router_objectives"]
    name = "trimode_router_objectives_total"
    assert value(objectives, name, tier="premium", objective="ttft", met="true") == 1
    assert value(objectives, name, tier="premium", objective="tpot", met="true") == 1
    assert [(tier.name, tier.answers, tier.met) for tier in house.router.viewer.fleet().objectives] == [
        ("premium", 1, 1)
    ]


async def test_objectives_missed(house: Any) -> None:
    async def script(call: Any) -> None:
        house.clock.value += 0.6  # the premium tier promises 0.5 s
        await call.begin()
        await call.say("one")
        await call.go.wait()
        house.clock.value += 0.1
        await call.end(tokens=5)

    house.replicas[0].script = script
    body = {"model": "tiny", "messages": [], "stream": True}
    headers = {"x-trimode-tier": "premium"}
    async with house.http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
        lines = response.aiter_lines()
        await anext(lines)
        house.replicas[0].calls[0].go.set()
        [line async for line in lines]
    objectives = (await families(house))["trimode_router_objectives"]
    name = "trimode_router_objectives_total"
    assert value(objectives, name, tier="premium", objective="ttft", met="false") == 1
    assert value(objectives, name, tier="premium", objective="tpot", met="false") == 1
    assert [(tier.name, tier.answers, tier.met) for tier in house.router.viewer.fleet().objectives] == [
        ("premium", 1, 0)
    ]


async def test_the_running_point_is_one_hot(house: Any) -> None:
    decision = DecisionReport(point="S16", reason="PredictedGain", age_seconds=0)
    await house.report(house.replicas[0].report(point="S16", decision=decision, switches=7))
    found = await families(house)
    hot = {sample.labels["point"]: sample.value for sample in found["trimode_replica_point_info"].samples}
    assert hot == {"AR": 0, "S8": 0, "S16": 1, "S32": 0}
    assert value(found["trimode_replica_switches"], "trimode_replica_switches_total") == 7


async def test_a_forgotten_replica_leaves_no_series(house: Any) -> None:
    house.pass_time(100)
    assert "r1" not in (await house.http.get("/metrics")).text


async def _of(house: Any, cycles: dict[str, int] | None, workload: str | None) -> None:
    """A stream of `workload` whose account names `cycles`."""

    async def script(call: Any) -> None:
        await call.begin()
        await call.say("one")
        await call.end(tokens=5, cycles=cycles)

    house.replicas[0].script = script
    body: dict[str, Any] = {"model": "tiny", "messages": [], "stream": True}
    if workload is not None:
        body["trimode"] = {"workload": workload}
    assert (await house.http.post("/v1/chat/completions", json=body)).status_code == 200


async def test_times_are_told_by_mode_and_workload(house: Any) -> None:
    for cycles, workload in (
        ({"AR": 5}, "coding"),
        ({"S8": 1, "S16@0.9": 1}, "coding"),
        ({"AR": 2, "S8": 1}, None),
        (None, "chat"),
    ):
        await _of(house, cycles, workload)
    for number in range(20):
        await _of(house, {"Q8": 2}, f"w{number}")
    found = await families(house)
    for name in ("time_to_first_token_seconds", "request_seconds", "time_per_output_token_seconds"):
        family = found[f"trimode_router_{name}"]
        counts = {
            (s.labels["mode"], s.labels["workload"]): s.value for s in family.samples if s.name.endswith("_count")
        }
        assert counts["AR", "coding"] == counts["SelfSpeculation", "coding"] == 1
        assert counts["Mixed", "unknown"] == counts["unknown", "chat"] == 1
        assert counts["QuadraticSpeculation", "other"] == 20 - 13  # coding, chat and '' have series, too
        assert len({workload for _, workload in counts}) == 17


async def test_a_workload_is_a_short_plain_name(house: Any) -> None:
    body = {"model": "tiny", "messages": [], "trimode": {"workload": "Source Code"}}
    response = await house.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "trimode.workload"
