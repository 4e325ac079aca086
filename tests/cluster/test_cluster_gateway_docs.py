"""The commands of docs/gateways.md as they are written, on paper.

kubectl and the API server with Gateway API's definitions are real, and so is Envoy, which `curl` reaches at the
Gateway's address. Fleets are called Ready by the test, and servers that say their names stand for the routers. In the
place of a controller is what Envoy Gateway did with the same objects, as it is recorded: the statuses that it wrote
and the configuration that it gave Envoy. Whatever it was not given then fails.
"""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from trimode_e2e import gateway as recording
from trimode_e2e.api import Api, Object, Refused
from trimode_e2e.crds import ROOT
from trimode_e2e.envoy import Envoy
from trimode_e2e.errors import Missing
from trimode_e2e.named_servers import named_server
from trimode_e2e.pages import Block, blocks
from trimode_e2e.shell import Shell
from trimode_e2e.world import KIND, VERSION, World

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

PLACE = "models"
GATEWAY, ROUTE = ("gateway.networking.k8s.io/v1", "Gateway"), ("gateway.networking.k8s.io/v1", "HTTPRoute")
STEPS = recording.recorded()
ADDRESSES = {
    "chat-router": ("10.244.0.11", "10.244.0.12"),
    "chat-next-router": ("10.244.0.21",),
    "code-router": ("10.244.0.31",),
}
"""Of the routers in the recording."""


@dataclass
class Controllers:
    """What others do in a cluster, from time to time: fleets become Ready, a controller takes routes over."""

    api: Api
    envoy: Envoy
    ends: dict[str, int]
    port: Path
    """A file with the port where Envoy listens."""
    taken: list[str] = field(default_factory=list)
    """Steps of the recording, in the order of the commands."""
    failed: list[BaseException] = field(default_factory=list)
    ending: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.ending.wait(0.1):
            try:
                self.fleets()
                self.routes()
            except Refused as exc:
                if exc.status not in (404, 409):  # it has gone, or was written, between a look and a write
                    self.failed.append(exc)
                    return
            except BaseException as exc:  # noqa: BLE001 - told by the test, whose thread this is not
                self.failed.append(exc)
                return

    def fleets(self) -> None:
        for each in self.api.listed(VERSION, KIND, PLACE):
            generation = each["metadata"]["generation"]
            told = (each.get("status") or {}).get("conditions") or []
            if not any(c["type"] == "Ready" and c.get("observedGeneration") == generation for c in told):
                ready = {
                    "type": "Ready",
                    "status": "True",
                    "reason": "Ready",
                    "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                    "observedGeneration": generation,
                }
                self.api.patch_status(VERSION, KIND, each["metadata"]["name"], PLACE, {"conditions": [ready]})

    def routes(self) -> None:
        """As the recording has it. While a file is applied, the routes may be those of no step."""
        now = {each["metadata"]["name"]: each["spec"] for each in self.api.listed(*ROUTE, PLACE)}
        found = next((name for name, step in STEPS.items() if now == specs(step)), None)
        if found is None or self.taken[-1:] == [found] or not self.api.listed(*GATEWAY, PLACE):
            return
        self.envoy.take(STEPS[found]["envoy"], self.ends)
        self.port.write_text(str(self.envoy.port))
        self.api.patch_status(*GATEWAY, PLACE, PLACE, timed(STEPS[found]["gateway"]))
        for each in STEPS[found]["routes"]:
            self.api.patch_status(*ROUTE, each["metadata"]["name"], PLACE, timed(each["status"]))
        self.taken.append(found)


def specs(step: Object) -> Object:
    return {each["metadata"]["name"]: each["spec"] for each in step["routes"]}


def timed(status: Any) -> Any:
    """A recorded status with the times that the server asks for in conditions."""
    if isinstance(status, Mapping):
        time = {"lastTransitionTime": "2026-01-01T00:00:00Z"} if {"type", "reason"} <= status.keys() else {}
        return {key: timed(value) for key, value in status.items()} | time
    return [timed(each) for each in status] if isinstance(status, list) else status


@pytest.fixture(scope="module")
def asked() -> Counter[str]:
    return Counter()


@pytest.fixture(scope="module")
def controllers(world: World, asked: Counter[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controllers]:
    try:
        for each in recording.crds():
            world.install(each)
        envoy = Envoy.start(tmp_path_factory.mktemp("envoy"))
    except Missing as exc:
        pytest.skip(f"NO GATEWAY WAS TRIED: {exc}")
    with ExitStack() as stack:
        stack.callback(envoy.stop)
        ports = {name: stack.enter_context(named_server(name, asked)) for name in ADDRESSES}
        ends = {address: ports[name] for name, addresses in ADDRESSES.items() for address in addresses}
        made = Controllers(world.api, envoy, ends, envoy.folder / "port")
        thread = threading.Thread(target=made.run, daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(made.ending.set)
        yield made
    world.api.delete("v1", "Namespace", PLACE)


@pytest.fixture(scope="module")
def shell(world: World, controllers: Controllers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A terminal in which kubectl reaches the cluster, and curl Envoy at whatever address."""
    there = f'"::127.0.0.1:$(cat "{controllers.port}")"'
    running = Shell.terminal(
        tmp_path_factory.mktemp("docs"),
        ROOT,
        world.cluster.kubeconfig,
        curl=f'exec {shutil.which("curl")} --connect-to {there} "$@"',
    )
    yield running
    running.stop()


COMMANDS = [block for block in blocks(ROOT / "docs" / "gateways.md") if not block.needs]
STEP_AFTER = {"by-model.yaml": "by model", "a tenth": "a tenth", "weight: 50": "a half"}
"""By words of a block of commands."""


@pytest.mark.parametrize("block", COMMANDS, ids=lambda block: block.place)
def test_commands_of_the_page(block: Block, shell: Shell, controllers: Controllers, asked: Counter[str]) -> None:
    asked.clear()
    status, printed = shell.run(block.text, timeout_s=400)
    assert controllers.failed == []
    assert status == 0, f"docs/{block.place}: status {status}\n{block.text}{printed}"
    if "curl" in block.text:
        fleet = "code-router" if '"model": "code"' in block.text else "chat-router"
        assert asked == {fleet: 1}
    steps = [step for words, step in STEP_AFTER.items() if words in block.text]
    if steps:
        controllers.api.until(lambda: controllers.taken[-1:] == steps or controllers.failed, f"the routes: {steps}")
        assert answers(controllers) == STEPS[steps[0]]["answered"].keys()


def answers(controllers: Controllers) -> set[str]:
    """Routers that answer requests to the first fleet."""
    with httpx.Client(base_url=f"http://127.0.0.1:{controllers.envoy.port}", trust_env=False) as client:
        told = [client.post("/chat/v1/chat/completions", json={}) for _ in range(60)]
    return {each.raise_for_status().json()["answered_by"] for each in told}


def test_every_step_of_the_page_was_taken(controllers: Controllers) -> None:
    assert controllers.taken == ["by model", "a tenth", "a half", "by model"]
