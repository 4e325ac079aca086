"""Behind an endpoint picker of the Inference Extension: what it did before real routers is recorded.

`trimode_e2e.recording.pickers` ran it with the example's rights and configuration on a real API server. Here the
recording is held to the example and the operator, and routers to what the picker asks of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from trimode_e2e import endpoint_picker
from trimode_e2e.crds import ROOT
from trimode_e2e.recording.pickers import ADDRESSES, ASKED, planned
from trimode_lab.doubles.replica.replica import Call

RECORDED = endpoint_picker.recorded()
STEPS = {step["name"]: step for step in RECORDED["steps"]}
FIRST, SECOND = ADDRESSES


def test_the_recording_is_of_the_example() -> None:
    """An example that has changed is to be recorded again."""
    config = endpoint_picker.example("ConfigMap")["data"]["picker.yaml"]
    assert RECORDED["configuration"] == yaml.safe_load(config)
    assert RECORDED["arguments"] == endpoint_picker.arguments()
    (container,) = endpoint_picker.example("Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"].endswith(f":{RECORDED['about']['picker']}")


def test_the_recording_is_of_the_operators_pool() -> None:
    """Which names the example's Service, and its pool is the one that the example's picker serves."""
    text = (ROOT / "examples" / "gateways" / "fleets.yaml").read_text()
    chat = next(iter(yaml.safe_load_all(text)))
    (pool,) = [
        each
        for each in planned({**chat, "metadata": {"name": "chat", "namespace": "models", "uid": "u"}})
        if each["kind"] == "InferencePool"
    ]
    assert RECORDED["pool"].items() >= pool["spec"].items()
    assert pool["spec"]["endpointPickerRef"]["name"] == endpoint_picker.example("Service")["metadata"]["name"]
    assert f"--pool-name={pool['metadata']['name']}" in RECORDED["arguments"]


def test_it_picks_by_what_routers_tell() -> None:
    """A request goes to the router that has less to do, and to none that leaves; all are answered."""
    assert STEPS["one is busy"]["answered"] == {SECOND: ASKED}
    assert STEPS["the other is busy"]["answered"] == {FIRST: ASKED}
    assert STEPS["a router leaves"]["answered"] == {SECOND: ASKED}
    for name in ("at rest", "it is back"):
        assert sum(STEPS[name]["answered"].values()) == ASKED
        assert STEPS[name]["answered"].keys() == {FIRST, SECOND}
    told = STEPS["one is busy"]["picker"]
    assert told["ready"] == 2
    assert told["waiting"][FIRST] > told["waiting"][SECOND] == 0
    assert STEPS["a stream"]["pieces_before_the_end"] == 1, "streams are not held back"


def test_by_its_defaults_it_knows_nothing_of_routers() -> None:
    """Why the example has a configuration: otherwise the busy router gets its share all the same."""
    step = STEPS["by its defaults"]
    assert step["picker"]["ready"] == 0
    assert step["answered"][FIRST] > ASKED / 4
    assert "vllm:num_requests_waiting" in "".join(step["says"])


def engine() -> dict[str, str]:
    """What the example's picker asks routers for."""
    (extractor,) = [each for each in RECORDED["configuration"]["plugins"] if each["type"] == "core-metrics-extractor"]
    (found,) = extractor["parameters"]["engineConfigs"]
    assert found.pop("name") == extractor["parameters"]["defaultEngine"]
    return dict(found)


async def test_a_router_tells_what_the_picker_asks_for(open_house: Callable[..., Any]) -> None:
    """Each as one gauge without labels, since a picker takes the first series: seven requests at a full replica."""
    go = asyncio.Event()

    async def story(call: Call) -> None:
        await call.begin()
        await go.wait()
        await call.end()

    house = await open_house(script=story, max_running=4)
    body = {"model": "tiny", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    async with asyncio.TaskGroup() as group:
        for _ in range(7):
            group.create_task(house.http.post("/v1/chat/completions", json=body))
        await house.until(lambda: len(house.router.dispatcher.in_flight) + len(house.router.dispatcher.queue) == 7)
        families = text_string_to_metric_families((await house.http.get("/metrics")).text)
        told = {family.name: family for family in families}
        values = {}
        for what, name in engine().items():
            (sample,) = told[name].samples
            assert (told[name].type, sample.labels) == ("gauge", {})
            values[what] = sample.value
        go.set()
    assert values["runningRequestsSpec"] + values["queuedRequestsSpec"] == 7
    assert min(values.values()) > 0
