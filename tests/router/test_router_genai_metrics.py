"""OpenTelemetry's metrics of generative AI servers, as a collector gets them: over HTTP, in protobuf.

The collector is a double; what OpenTelemetry's own did with a router's metrics is recorded, and both are held to it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE

from trimode_api.wire import RouterConfig
from trimode_e2e.collector import JSON, METRICS, PROTOBUF, Collector, exchanges, received, understood
from trimode_lab.doubles.replica.replica import Call, FakeReplica
from trimode_router.edge.server import ProcessOptions, Router
from trimode_router.telemetry.environment import Signal, Telemetry, telemetry_of

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "a secret"}], "stream": True}
FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
DURATION = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Bounds as the conventions have them."""


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with Collector().running() as made:
        yield made


async def serve(
    make_policy: Any, options: ProcessOptions, deed: Callable[[httpx.AsyncClient, FakeReplica], Awaitable[None]]
) -> None:
    """Run a router with one replica, do `deed` with a client, stop the router."""
    loop = asyncio.get_running_loop()
    router = Router(
        RouterConfig(name="demo", model="tiny", port=0, policy=make_policy()),
        "t",
        options,
        now=loop.time,
        wall=time.time,
    )
    await router.start()
    try:
        async with FakeReplica() as replica, httpx.AsyncClient(base_url=router.url, verify=False) as http:
            router.fleet.take_report(replica.report(), loop.time(), time.time())
            await deed(http, replica)
    finally:
        await router.stop(1)


async def exported(make_policy: Any, collector: Collector) -> tuple[Any, dict[str, Any]]:
    """Fields and content of what a router sends at its end, after two streams, a whole answer, and a refusal."""

    async def fails(call: Call) -> None:
        await call.answer({"error": {"message": "no"}}, status=400)

    async def deed(http: httpx.AsyncClient, replica: FakeReplica) -> None:
        for path, body in (
            ("/v1/chat/completions", CHAT | {"max_tokens": 4}),
            ("/v1/chat/completions", CHAT | {"stream": False}),
            ("/v1/completions", {"model": "tiny", "prompt": "a secret", "stream": True}),
        ):
            assert (await http.post(path, json=body)).status_code == 200
        replica.script = fails
        assert (await http.post("/v1/chat/completions", json=CHAT)).status_code == 400

    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url + "/",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-key=a%20b, other=c",
    }
    about = {"service.name": "trimode-router", "service.instance.id": "pod-7"}
    await serve(make_policy, ProcessOptions(telemetry=telemetry_of(environment, about)), deed)
    return collector.posted[METRICS][-1]


async def test_a_collector_gets_the_three_histograms(make_policy: Any, collector: Collector) -> None:
    headers, said = await exported(make_policy, collector)
    assert (headers["x-key"], headers["other"], headers["content-type"]) == ("a b", "c", PROTOBUF)
    (resource,) = said["resourceMetrics"]
    about = labels(resource["resource"])
    assert (about["service.name"], about["service.instance.id"]) == ("trimode-router", "pod-7")
    metrics = metrics_of(said)
    for name, bounds in (
        ("gen_ai.server.time_to_first_token", FIRST),
        ("gen_ai.server.time_per_output_token", PER_TOKEN),
        ("gen_ai.server.request.duration", DURATION),
    ):
        histogram = metrics[name]["histogram"]
        assert metrics[name]["unit"] == "s"
        assert histogram["aggregationTemporality"] == AGGREGATION_TEMPORALITY_CUMULATIVE
        for point in histogram["dataPoints"]:
            assert tuple(point["explicitBounds"]) == bounds
            assert sum(map(int, point["bucketCounts"])) == int(point["count"]) > 0
            assert len(point["bucketCounts"]) == len(bounds) + 1
            assert 0 <= point["min"] <= point["sum"]
    tiny = {"gen_ai.provider.name": "trimode", "gen_ai.request.model": "tiny"}
    good = tiny | {"gen_ai.response.model": "tiny"}
    counts = counted(metrics["gen_ai.server.request.duration"])
    assert counts == {
        frozenset((good | {"gen_ai.operation.name": "chat"}).items()): 2,
        frozenset((good | {"gen_ai.operation.name": "text_completion"}).items()): 1,
        frozenset((tiny | {"gen_ai.operation.name": "chat", "error.type": "400"}).items()): 1,
    }
    # Streams only, and good ones only.
    streams = {
        frozenset((good | {"gen_ai.operation.name": "chat"}).items()): 1,
        frozenset((good | {"gen_ai.operation.name": "text_completion"}).items()): 1,
    }
    assert counted(metrics["gen_ai.server.time_to_first_token"]) == streams
    assert counted(metrics["gen_ai.server.time_per_output_token"]) == streams
    assert "a secret" not in json.dumps(said)


def labels(value: Any) -> dict[str, Any]:
    return {each["key"]: next(iter(each["value"].values())) for each in value["attributes"]}


def metrics_of(said: Any) -> dict[str, Any]:
    (resource,) = said["resourceMetrics"]
    (scope,) = resource["scopeMetrics"]
    return {metric["name"]: metric for metric in scope["metrics"]}


def counted(metric: Any) -> dict[frozenset[tuple[str, str]], int]:
    return {frozenset(labels(point).items()): int(point["count"]) for point in metric["histogram"]["dataPoints"]}


def without_measures(said: Any) -> Any:
    """All that a collector goes by: names, units, attributes, kinds, bounds, counts, but for what was measured."""
    measured = {"bucketCounts", "min", "max", "sum", "startTimeUnixNano", "timeUnixNano"}
    if isinstance(said, dict):
        return {key: without_measures(value) for key, value in said.items() if key not in measured}
    return [without_measures(each) for each in said] if isinstance(said, list) else said


async def test_a_router_says_what_the_real_collector_understood(make_policy: Any, collector: Collector) -> None:
    """Recorded from a router before such requests; a change of what is exported is to be recorded again."""
    (recorded,) = received()[METRICS]
    _, said = await exported(make_policy, collector)
    assert without_measures(metrics_of(said)) == without_measures(metrics_of(recorded))
    keys = [list(labels(each["resourceMetrics"][0]["resource"])) for each in (said, recorded)]
    assert keys[0] == keys[1]


def test_the_double_understands_what_the_real_collector_did() -> None:
    """And the real one took all of what a router sent: no part of it was rejected."""
    for path, theirs in received().items():
        well = [each for each in exchanges() if each.path == path and each.status == 200]
        assert [understood(each.content_type, each.body) for each in well] == theirs != []
        for each in well:
            assert each.answer in (b"", b"\n\x00", b'{"partialSuccess":{}}')
    refused = [each for each in exchanges() if each.status != 200]
    assert [(each.content_type, each.status) for each in refused] == [(PROTOBUF, 400), (JSON, 400), ("text/plain", 415)]
    assert [understood(each.content_type, each.body) for each in refused[:2]] == [None, None]


async def test_a_collector_that_is_away_holds_up_nothing(make_policy: Any) -> None:
    async def deed(http: httpx.AsyncClient, replica: FakeReplica) -> None:
        assert (await http.post("/v1/chat/completions", json=CHAT)).status_code == 200

    await serve(make_policy, ProcessOptions(telemetry=Telemetry(metrics=Signal("http://127.0.0.1:9/v1/metrics"))), deed)


@pytest.mark.parametrize(
    ("environment", "endpoint"),
    [
        ({}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "http://c:4318/v1/metrics"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c/x/", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://m"}, "http://m"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_METRICS_EXPORTER": "none"}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "true"}, ""),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c"}, ""),
    ],
)
def test_metrics_go_where_the_standard_variables_say(environment: dict[str, str], endpoint: str) -> None:
    assert telemetry_of(environment, {}).metrics.endpoint == endpoint


def test_what_a_process_says_of_itself_may_be_overruled() -> None:
    own = {"service.name": "trimode-router", "service.instance.id": "host-1"}
    assert telemetry_of({}, own).resource == own
    said = {"OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=pod%2D7,k8s.pod.name=pod-7", "OTEL_SERVICE_NAME": "chat"}
    assert telemetry_of(said, own).resource == {
        "service.name": "chat",
        "service.instance.id": "pod-7",
        "k8s.pod.name": "pod-7",
    }
