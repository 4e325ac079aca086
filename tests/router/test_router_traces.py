"""Spans, as an OTLP collector gets them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from trimode_api.wire import RouterConfig
from trimode_e2e.collector import TRACES, Collector, received
from trimode_lab.doubles.replica.replica import Call, FakeReplica
from trimode_router.edge.server import ProcessOptions, Router
from trimode_router.telemetry.environment import Signal, Telemetry, telemetry_of
from trimode_router.telemetry.traces import Context

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "a secret"}], "stream": True}
PARENT = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with Collector().running() as made:
        yield made


async def serve(make_policy: Any, endpoint: str, deed: Any) -> list[Call]:
    """Run a router with one replica, do `deed` with a client, stop the router; what the replica saw."""
    loop = asyncio.get_running_loop()
    config = RouterConfig(name="demo", model="tiny", port=0, policy=make_policy())
    traces = Signal(endpoint, {"x-key": "a b"} if endpoint else {})
    options = ProcessOptions(telemetry=Telemetry(traces, resource={"service.instance.id": "pod-7"}))
    router = Router(config, "t", options, now=loop.time, wall=time.time)
    await router.start()
    try:
        async with FakeReplica() as replica, httpx.AsyncClient(base_url=router.url, verify=False) as http:
            router.fleet.take_report(replica.report(), loop.time(), time.time())
            await deed(http)
    finally:
        await router.stop(1)
    return replica.calls


async def test_a_request_is_a_span(make_policy: Any, collector: Collector) -> None:
    endpoint = collector.url + TRACES

    async def deed(http: httpx.AsyncClient) -> None:
        await http.post("/v1/chat/completions", json=CHAT, headers={"traceparent": PARENT, "x-request-id": "r-7"})
        await http.post("/v1/chat/completions", json=CHAT | {"max_tokens": 2})

    began = time.time()
    calls = await serve(make_policy, endpoint, deed)
    posted = [said for _, said in collector.posted[TRACES]]
    assert {headers["x-key"] for headers, _ in collector.posted[TRACES]} == {"a b"}
    spans = [span for body in posted for span in body["resourceSpans"][0]["scopeSpans"][0]["spans"]]
    one, two = spans
    assert one["traceId"] == PARENT[3:35]
    assert one["parentSpanId"] == PARENT[36:52]
    assert calls[0].headers["traceparent"] == f"00-{one['traceId']}-{one['spanId']}-01"
    assert two["traceId"] != one["traceId"]
    assert "parentSpanId" not in two
    values = {each["key"]: next(iter(each["value"].values())) for each in one["attributes"]}
    assert values["trimode.request_id"] == "r-7"
    assert values["gen_ai.usage.output_tokens"] == "3"
    assert values["trimode.replica"] == "r1"
    assert began * 1e9 - 1e9 <= int(one["startTimeUnixNano"]) <= int(one["endTimeUnixNano"])
    assert one["events"][0]["name"] == "first byte"
    assert one["status"]["code"] == 1
    (said,) = posted[0]["resourceSpans"][0]["resource"]["attributes"]
    assert said == {"key": "service.instance.id", "value": {"stringValue": "pod-7"}}
    assert "a secret" not in str(posted)


async def test_a_router_says_what_the_real_collector_understood(make_policy: Any, collector: Collector) -> None:
    """Of a request that went well: the kinds of fields, and the names and types of attributes, as recorded."""

    async def deed(http: httpx.AsyncClient) -> None:
        assert (await http.post("/v1/chat/completions", json=CHAT | {"max_tokens": 4})).status_code == 200

    await serve(make_policy, collector.url + TRACES, deed)
    (said,), (recorded, *_) = (
        [
            span
            for each in bodies
            for resource in each["resourceSpans"]
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        ]
        for bodies in ([said for _, said in collector.posted[TRACES]], received()[TRACES])
    )
    assert kinds(said) == kinds(recorded)


def kinds(span: dict[str, Any]) -> tuple[dict[str, type], dict[str, str]]:
    values = {each["key"]: next(iter(each["value"])) for each in span["attributes"]}
    return {key: type(value) for key, value in span.items()}, values


async def test_what_the_client_does_not_sample_is_left_alone(make_policy: Any, collector: Collector) -> None:
    endpoint = collector.url + TRACES
    unsampled = PARENT[:-1] + "0"

    async def deed(http: httpx.AsyncClient) -> None:
        await http.post("/v1/chat/completions", json=CHAT, headers={"traceparent": unsampled})

    calls = await serve(make_policy, endpoint, deed)
    assert collector.posted[TRACES] == []
    assert calls[0].headers["traceparent"] == unsampled


async def test_a_collector_that_is_away_costs_nothing(make_policy: Any) -> None:
    async def deed(http: httpx.AsyncClient) -> None:
        assert (await http.post("/v1/chat/completions", json=CHAT)).status_code == 200

    await serve(make_policy, "http://127.0.0.1:9/v1/traces", deed)


def test_the_standard_variables() -> None:
    def endpoint_of(environment: dict[str, str]) -> str:
        return telemetry_of(environment, {}).traces.endpoint

    assert endpoint_of({}) == ""
    assert endpoint_of({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}) == "http://c:4318/v1/traces"
    exact = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/t", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://d"}
    assert endpoint_of(exact) == "http://c/t"
    assert endpoint_of(exact | {"OTEL_SDK_DISABLED": "true"}) == ""
    assert endpoint_of(exact | {"OTEL_TRACES_EXPORTER": "none"}) == ""


@pytest.mark.parametrize("bad", [b"", b"00-zz", PARENT.upper().encode(), b"01-" + PARENT[3:].encode()])
def test_a_bad_parent_is_none(bad: bytes) -> None:
    context = Context.of(bad)
    assert context is not None
    assert context.parent == ""
