"""Who used what: the router's counts by tenant, tier and mode, from answers and from what replicas tell afterwards."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from trimode_api.wire import UnansweredReport
from trimode_router.request.account import account_of, reason_of

PATH = "/v1/chat/completions"
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 5}
BUSY = {"AR": 0.25, "S8": 0.5, "S16": 0.125, "prompt": 0.0625}


@pytest.mark.parametrize(
    ("tail", "mode", "busy"),
    [
        (
            b'"trimode":{"cycles":{"AR":3},"gpuSeconds":{"AR":0.5,"prompt":1e-06},"x":1}}',
            "AR",
            {"AR": 0.5, "prompt": 1e-06},
        ),
        (b'"cycles":{},"gpuSeconds":{}', "", {}),
        (b'"cycles":{"S8":1,"S16@0.9":2}', "SelfSpeculation", {}),
        (b'"cycles":{"AR":1,"D8@0.95":2}', "Mixed", {}),
        # A stream's last account counts.
        (
            b'"cycles":{"AR":1},"gpuSeconds":{"AR":1}}\n\ndata: {"cycles":{"Q8":1},"gpuSeconds":{"Q8":2}',
            "QuadraticSpeculation",
            {"Q8": 2.0},
        ),
        # Text cannot forge it.
        (b'"content":"\\"cycles\\":{\\"AR\\":9},\\"gpuSeconds\\":{\\"AR\\":9}"', "", {}),
        (b'"cycles":{"AR":1},"gpuSeconds":{"AR":"much"}', "AR", {}),
        (b'"cycles":{"AR":1},"gpuSeconds":{"AR":1', "AR", {}),
        (b'"cycles":{"AR":1},"gpuSeconds":7}', "AR", {}),
        (b'"cycles":7', "", {}),
        (b"", "", {}),
    ],
)
@pytest.mark.parametrize("usage", [b"", b'"usage":{"prompt_tokens":2,"completion_tokens":3},'])
def test_what_decoded_an_answer_and_its_seconds_are_found(
    tail: bytes, mode: str, busy: dict[str, float], usage: bytes
) -> None:
    account = account_of(usage + tail)
    assert (account.mode, account.busy) == (mode, busy)
    assert (account.tokens, account.prompt_tokens) == ((3, 2) if usage else (None, 0))


@pytest.mark.parametrize(
    ("tail", "tokens", "prompt"),
    [
        (b'"prompt_tokens": 12,"completion_tokens": 7,"prompt_tokens_details":{}', 7, 12),
        (b'"completion_tokens":7,"prompt_tokens":12', 7, 12),  # in the order of others
        (b'"completion_tokens":1,"prompt_tokens":12}}\n\n"completion_tokens":2,"prompt_tokens":12}', 2, 12),
        (b'"prompt_tokens_details":{"a":1}', None, 0),
        (b'"completion_tokens":null', None, 0),
        (b"", None, 0),
    ],
)
def test_tokens_are_found(tail: bytes, tokens: int | None, prompt: int) -> None:
    account = account_of(tail)
    assert (account.tokens, account.prompt_tokens) == (tokens, prompt)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"error":{"message":"m","type":"invalid_request_error","param":null,"code":"too_long"}}', "too_long"),
        (b'29\r\n{"error": {"code": "a.b-c", "type": "t"}}\r\n0\r\n\r\n', "a.b-c"),
        # Other servers: a status for a code, no object around it, FastAPI's list.
        (b'{"object":"error","message":"m","type":"BadRequestError","code":400}', "BadRequestError"),
        (b'{"detail":[{"type":"missing","loc":["body"],"input":{}}]}', "missing"),
        # What a client wrote, and a message has repeated, is no word of the server.
        (b'{"error":{"message":"got \\"code\\": \\"mine\\"","type":"t"}}', "t"),
        (b'{"error":{"type":"two words","code":"%s"}}' % (b"x" * 65), ""),
        (b"Bad Request", ""),
    ],
)
def test_why_a_server_refused_is_found(body: bytes, reason: str) -> None:
    assert reason_of(body) == reason


async def counted(house: Any, name: str) -> dict[tuple[str, ...], float]:
    """Of a counter: its values by tenant, tier, mode, and kind where it has one."""
    text = (await house.http.get("/metrics")).text
    (family,) = [f for f in text_string_to_metric_families(text) if f.name == f"trimode_router_{name}"]
    keys = ("tenant", "tier", "mode", "kind")
    return {
        tuple(s.labels[key] for key in keys if key in s.labels): s.value
        for s in family.samples
        if s.name.endswith("_total") and s.value
    }


async def costly(call: Any) -> None:
    await call.begin()
    await call.say("a")
    account = {"cycles": {"S8": 2}, "gpuSeconds": BUSY}
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    await call.event(json.dumps({"choices": [], "usage": usage, "trimode": account}, separators=(",", ":")))
    await call.event("[DONE]")
    await call.raw(b"0\r\n\r\n")


@pytest.fixture
async def metered(open_house: Any, tmp_path: Path) -> Any:
    file = tmp_path / "keys.json"
    keys = [{"tenant": "acme", "sha256": sha256(b"tm-acme").hexdigest()}]
    file.write_text(json.dumps({"tenants": [{"name": "acme"}], "keys": keys}))
    return await open_house(config={"keys_file": str(file)}, script=costly)


ACME = {"Authorization": "Bearer tm-acme"}


async def test_an_answer_is_counted_for_its_tenant_tier_and_modes(metered: Any) -> None:
    for tier in ("premium", "standard", "standard"):
        answer = await metered.http.post(PATH, json=CHAT, headers=ACME | {"x-trimode-tier": tier})
        assert '"gpuSeconds":{"AR":0.25' in answer.text  # the client is told, too
    assert await counted(metered, "gpu_seconds") == {
        ("acme", tier, mode): times * seconds
        for tier, times in (("premium", 1), ("standard", 2))
        for mode, seconds in (("AR", 0.25), ("SelfSpeculation", 0.625), ("Prompt", 0.0625))
    }
    assert await counted(metered, "answers") == {
        ("acme", "premium", "SelfSpeculation"): 1,
        ("acme", "standard", "SelfSpeculation"): 2,
    }
    tokens = await counted(metered, "tenant_tokens")
    assert tokens["acme", "standard", "SelfSpeculation", "prompt"] == 14
    assert tokens["acme", "standard", "SelfSpeculation", "output"] == 10


async def test_without_keys_the_tenant_is_none(open_house: Any) -> None:
    house = await open_house(script=costly)
    await house.http.post(PATH, json=CHAT)
    assert ("none", "standard", "AR") in await counted(house, "gpu_seconds")


async def test_what_no_answer_tells_is_charged_once_when_the_replica_tells_it(metered: Any) -> None:
    async def endless(call: Any) -> None:
        await call.begin()
        await call.say("a")
        await call.go.wait()

    replica = metered.replicas[0]
    replica.script = endless
    async with metered.http.stream("POST", PATH, json=CHAT, headers=ACME) as response:
        await anext(response.aiter_lines())
        request_id = response.headers["x-request-id"]
    await metered.until(lambda: not metered.router.dispatcher.in_flight)
    assert await counted(metered, "gpu_seconds") == {}
    told = (
        UnansweredReport(request_id=request_id, busy_seconds={"AR": 2.0, "prompt": 1.0, "D8@0.5": -5.0}),
        UnansweredReport(request_id="another router's", busy_seconds={"AR": 9.0}),
    )
    for _ in range(3):  # reports repeat it
        await metered.report(replica.report().model_copy(update={"unanswered": told}))
    assert await counted(metered, "gpu_seconds") == {
        ("acme", "standard", "AR"): 2.0,
        ("acme", "standard", "Prompt"): 1.0,
    }
    assert await counted(metered, "answers") == {}


async def test_both_replicas_of_a_resumed_stream_are_paid(open_house: Any) -> None:
    house = await open_house(replicas=2)

    async def breaks(call: Any) -> None:
        for replica in house.replicas:
            replica.script = costly
        await call.begin()
        await call.say("a", [1])
        call.close()

    for replica in house.replicas:
        replica.script = breaks
    request = await house.http.post(PATH, json=CHAT)
    assert request.status_code == 200
    assert "[DONE]" in request.text
    (broken,) = [r for r in house.replicas if r.calls and not r.calls[0].path.startswith("/internal")]
    told = (UnansweredReport(request_id=request.headers["x-request-id"], busy_seconds={"AR": 1.0}),)
    await house.report(broken.report().model_copy(update={"unanswered": told}))
    assert (await counted(house, "gpu_seconds"))["none", "standard", "AR"] == 1.25
