"""Servers of others behind the router: which has which model, where it is reached, and whose key it is sent."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from trimode_lab.doubles.replica.replica import Call, FakeReplica, polite
from trimode_router.fleet.catalog import Catalog
from trimode_router.fleet.health_probe import base_of, id_of


def chat(model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "good morning"}]}


def a_server(*models: str, below: str = "", key: str = "", error: int = 0) -> Callable[[Call], Any]:
    """A script: lists `models`, answers for them only, under paths that begin with `below`, for holders of `key`;
    with `error` every completion ends in that status."""

    async def script(call: Call) -> None:
        if key and call.headers.get("authorization") != f"Bearer {key}":
            await call.answer({"error": {"message": "no such key"}}, status=401)
        elif call.path == f"{below}/v1/models":
            await call.answer({"object": "list", "data": [{"id": name, "object": "model"} for name in models]})
        elif call.path != f"{below}/v1/chat/completions" or call.json["model"] not in models:
            await call.answer({"detail": "Not Found"}, status=404)
        elif error:
            await call.answer({"error": {"message": "the engine is dead"}}, status=error)
        else:
            await polite(call)

    return script


def posts(replica: FakeReplica) -> list[Call]:
    return [call for call in replica.calls if call.method == "POST"]


@pytest.fixture
async def before(open_house: Any) -> Any:
    """Opens a router before servers at these URLs; waits until it has heard of `ready` of them (all)."""

    async def make(*urls: str, ready: int | None = None, key: str = "", **config: Any) -> Any:
        settings = {"name": "router", "model": "", "static_replicas": urls, **config}
        house = await open_house(replicas=0, config=settings, replica_key=key)
        await house.until(lambda: len(list(house.router.fleet)) == (len(urls) if ready is None else ready))
        return house

    return make


async def ask(house: Any, model: str, **headers: str) -> Any:
    return await house.http.post("/v1/chat/completions", json=chat(model), headers=headers)


# Models.


async def test_requests_go_to_servers_that_have_the_model(before: Any) -> None:
    lists = (("llama", "llama-sql"), ("llama",), ("qwen/qwen3",))
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(FakeReplica(script=a_server(*names))) for names in lists]
        house = await before(*(server.url for server in servers))
        listed = (await house.http.get("/v1/models")).json()["data"]
        assert {model["id"] for model in listed} == {"llama", "llama-sql", "qwen/qwen3"}
        for model in ("llama", "llama-sql", "qwen/qwen3") * 8:
            assert (await ask(house, model)).status_code == 200
        seen = [Counter(call.json["model"] for call in posts(server)) for server in servers]
        assert seen[2] == {"qwen/qwen3": 8}
        assert seen[0]["llama-sql"] == 8
        assert seen[0]["llama"] + seen[1]["llama"] == 8
        assert seen[1].keys() <= {"llama"}
        unknown = await ask(house, "gpt-9")
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


async def test_another_fleets_endpoint_is_a_server_like_any(before: Any, house: Any) -> None:
    """It has tiers of its own, and would refuse the name of one that it does not know."""
    first = await before(house.router.url)
    assert (await ask(first, "tiny")).status_code == 200
    assert posts(house.replicas[0])[0].headers["x-trimode-tier"] == "standard"


@pytest.mark.parametrize("written", ["qwen/qwen3", "qwen%2Fqwen3", "qwen%2fqwen3/"])
async def test_a_model_with_a_slash_is_found_as_clients_write_it(before: Any, written: str) -> None:
    async with FakeReplica(script=a_server("qwen/qwen3")) as server:
        house = await before(server.url)
        assert (await house.http.get(f"/v1/models/{written}")).json()["id"] == "qwen/qwen3"


async def test_a_full_server_does_not_hold_up_requests_for_another(before: Any) -> None:
    async def slow(call: Call) -> None:
        if call.method == "POST" and call.json["model"] == "slow":
            await call.go.wait()
        await a_server("slow")(call)

    async with FakeReplica(script=slow) as one, FakeReplica(script=a_server("quick")) as two:
        house = await before(one.url, two.url, static_max_running=1)
        body = json.dumps(chat("slow")).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        for _ in range(3):
            await house.raw(head + body)
        await house.until(lambda: len(house.router.dispatcher.queue) > 0)
        assert (await ask(house, "quick")).status_code == 200
        assert len(house.router.dispatcher.queue) > 0


async def test_until_servers_are_known_clients_are_told_to_come_again(before: Any) -> None:
    async with FakeReplica(script=a_server("llama")) as one:
        house = await before("http://127.0.0.1:9", one.url, ready=1)
        assert (await ask(house, "llama")).status_code == 200
        answer = await ask(house, "of-the-other")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "127.0.0.1:9" in answer.json()["error"]["message"]
        assert (await house.http.get("/v1/models/of-the-other")).status_code == 503


async def test_before_any_answer_nothing_is_said_of_models(before: Any) -> None:
    house = await before("http://127.0.0.1:9", ready=0)
    for model in ("llama", ""):
        assert (await ask(house, model)).status_code == 503


async def test_a_model_whose_server_is_gone_is_no_unknown_model(before: Any) -> None:
    async with FakeReplica(script=a_server("llama")) as one, FakeReplica(script=a_server("qwen")) as two:
        house = await before(one.url, two.url)
        await two.stop()
        assert (await ask(house, "qwen")).status_code == 503
        assert (await ask(house, "llama")).status_code == 200


# Errors of servers.


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("error", [500, 501, 502, 503, 507, 404])
async def test_a_server_that_only_fails_is_left_for_the_other(before: Any, error: int, stream: bool) -> None:
    async with FakeReplica(script=a_server("m", error=error)) as bad, FakeReplica(script=a_server("m")) as good:
        house = await before(bad.url, good.url)
        for _ in range(30):
            answer = await house.http.post("/v1/chat/completions", json=chat("m") | {"stream": stream})
            assert (answer.status_code, answer.text.endswith("data: [DONE]\n\n")) == (200, stream)
        assert len(posts(bad)) <= 1  # the clock stands still: once it has failed it is passed over
        assert len(posts(good)) == 30


async def test_an_error_of_every_server_is_passed_on_and_slows_none(before: Any) -> None:
    async with FakeReplica(script=a_server("m", error=500)) as one, FakeReplica(script=a_server("m", error=500)) as two:
        house = await before(one.url, two.url)
        answer = await ask(house, "m")
        assert (answer.status_code, answer.json()["error"]["message"]) == (500, "the engine is dead")
        assert len(posts(one)) == len(posts(two)) == 1
        assert sorted(replica.failures for replica in house.router.fleet) == [0, 1]


async def test_the_only_server_keeps_its_places_when_it_answers_500(before: Any) -> None:
    async with FakeReplica(script=a_server("m", error=500)) as only:
        house = await before(only.url)
        for _ in range(3):
            assert (await ask(house, "m")).status_code == 500
        assert [replica.failures for replica in house.router.fleet] == [0]


async def test_our_own_replicas_too(open_house: Any) -> None:
    house = await open_house(replicas=2)
    bad, good = house.replicas
    await house.report(good.report(running=3))

    async def dead(call: Call) -> None:
        await call.answer({"error": {"message": "internal error"}}, status=500)

    bad.script = dead
    for _ in range(6):
        assert (await ask(house, "tiny")).status_code == 200
    assert (len(bad.calls), len(good.calls)) == (1, 6)
    house.pass_time(0.3)
    await house.report(good.report(running=3))
    assert (await ask(house, "tiny")).status_code == 200
    assert len(bad.calls) == 2  # tried again, by one request
    bad.script = polite
    house.pass_time(0.6)
    assert (await ask(house, "tiny")).status_code == 200
    assert [replica.failures for replica in house.router.fleet] == [0, 0]


# URLs.


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/"])
async def test_a_server_below_a_path_is_asked_there(before: Any, ending: str) -> None:
    async with FakeReplica(script=a_server("m", below="/openai")) as server:
        house = await before(f"{server.url}/openai{ending}")
        assert (await ask(house, "m")).status_code == 200
        assert posts(server)[0].path == "/openai/v1/chat/completions"


async def test_two_paths_of_one_host_are_two_servers(before: Any) -> None:
    async def gateway(call: Call) -> None:
        name = call.path.split("/")[1]
        await a_server(f"model-{name}", below=f"/{name}")(call)

    async with FakeReplica(script=gateway) as host:
        house = await before(f"{host.url}/a", f"{host.url}/b")
        for name in ("a", "b", "a"):
            assert (await ask(house, f"model-{name}")).status_code == 200
        ids = [each["replicaId"] for each in (await house.http.get("/fleet")).json()["replicas"]]
        assert sorted(ids) == [f"127.0.0.1:{host.port}/{name}" for name in "ab"]


def test_names_of_servers() -> None:
    assert base_of("http://h:1/openai/v1/") == "http://h:1/openai"
    assert id_of(base_of("http://h:1/v1")) == "h:1"
    assert id_of("http://h:1/openai") == "h:1/openai"


# Keys.


async def test_a_server_that_wants_the_clients_key_gets_it(before: Any) -> None:
    async with FakeReplica(script=a_server("m", key="of-the-server")) as server:
        house = await before(server.url)
        assert (await house.http.get("/readyz")).status_code == 200
        assert (await ask(house, "m", authorization="Bearer of-the-server")).status_code == 200
        refused = await ask(house, "m", authorization="Bearer wrong")
        assert (refused.status_code, refused.json()["error"]["message"]) == (401, "no such key")
        assert (await ask(house, "other", authorization="Bearer of-the-server")).status_code == 404
        assert [replica.failures for replica in house.router.fleet] == [0]


async def test_a_server_that_wants_a_key_gets_nothing_that_another_one_lists(before: Any) -> None:
    async with FakeReplica(script=a_server("m")) as plain, FakeReplica(script=a_server("n", key="k")) as locked:
        house = await before(plain.url, locked.url)
        for _ in range(10):
            assert (await ask(house, "m")).status_code == 200
        assert not posts(locked)
        assert (await ask(house, "n", authorization="Bearer k")).status_code == 200
        assert (await ask(house, "n")).status_code == 401


async def test_a_server_that_does_not_take_the_routers_key_is_not_ready(open_house: Any) -> None:
    async with FakeReplica(script=a_server("m", key="right")) as server:
        config = {"model": "", "static_replicas": (server.url,)}
        house = await open_house(replicas=0, config=config, replica_key="wrong")
        await server.next_call()
        assert (await house.http.get("/readyz")).status_code == 503


@pytest.mark.parametrize(("told", "seen"), [(False, None), (True, "Bearer of-the-tenant")])
async def test_a_tenants_key_stays_unless_told_otherwise(
    before: Any, tmp_path: Path, told: bool, seen: str | None
) -> None:
    digest = sha256(b"of-the-tenant").hexdigest()
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"tenants": [{"name": "acme"}], "keys": [{"tenant": "acme", "sha256": digest}]}))
    async with FakeReplica(script=a_server("m")) as server:
        house = await before(server.url, keys_file=str(file), forward_client_keys=told)
        headers = {"Authorization": "Bearer of-the-tenant"}
        assert (await ask(house, "m", **headers)).status_code == 200
        asked = {"model": "m", "input": "good morning"}
        assert (await house.http.post("/v1/responses", json=asked, headers=headers)).status_code == 200
        assert [call.headers.get("authorization") for call in posts(server)] == [seen, seen]
        assert ("of-the-tenant" in str([call.headers for call in server.calls])) is told


# The catalog.


@pytest.mark.parametrize(
    ("lists", "mute", "model", "without"),
    [
        ({"a": ("x",), "b": ("x",)}, (), "x", ""),
        ({"a": ("x",), "b": ("y",)}, (), "x", "b"),
        ({"a": ("x",), "b": ("y",)}, ("c",), "y", "ac"),
        ({"a": ("x",), "b": ("y",)}, ("c",), "unlisted", "ab"),
        ({}, ("c",), "x", ""),
    ],
)
def test_who_lacks_a_model(lists: Any, mute: Iterable[str], model: str, without: str) -> None:
    assert Catalog.of_servers(lists, tuple(mute)).without(model) == frozenset(without)


def test_servers_that_are_alike_cost_no_look_up() -> None:
    assert not Catalog.of_servers({"a": ("x", "y"), "b": ("y", "x")}).split
    assert Catalog.of_servers({"a": ("x",), "b": ("x", "y")}).split
    assert Catalog(("tiny",)).without("tiny") == frozenset()
