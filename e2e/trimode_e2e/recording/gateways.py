"""What Envoy Gateway makes of the examples of docs/gateways.md and of the operator's own route.

Belongs here: the steps, each of which ends when the controller has come to rest, and what is kept of them: the
objects' statuses, the configuration that Envoy was given, and where requests went by it.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import yaml

from trimode_api.resource import NemotronDeployment
from trimode_e2e import envoy_gateway
from trimode_e2e.api import Api, Object
from trimode_e2e.control import provide
from trimode_e2e.control.build import ENVOY_GATEWAY, build
from trimode_e2e.crds import ROOT
from trimode_e2e.envoy import Configuration
from trimode_e2e.gateway import RECORDED
from trimode_e2e.kubectl import Kubectl, kubectl_program
from trimode_e2e.named_servers import PATH, named_server
from trimode_e2e.node import network
from trimode_e2e.world import World
from trimode_operator.apply.diff import with_digest
from trimode_operator.plan import Capabilities, Observed, Owner, make_plan
from trimode_operator.plan.names import MANAGER
from trimode_operator.plan.settings import Gateway, Settings

COMMAND = "PYTHONPATH=e2e python -m trimode_e2e record-gateway"
EXAMPLES = ROOT / "examples" / "gateways"
PLACE = "models"
ROUTE = "gateway.networking.k8s.io/v1", "HTTPRoute"
ROUTERS = {
    "chat-router": ("10.244.0.11", "10.244.0.12"),
    "chat-next-router": ("10.244.0.21",),
    "code-router": ("10.244.0.31",),
}
"""Addresses of the routers' pods, two copies of the first. They exist in the recording's own network."""
ASKED = 200
"""Requests of a step to the model `chat`."""
PATIENCE_S, REST_S = 60.0, 2.0
DROPPED = ("resourceVersion", "creationTimestamp", "lastTransitionTime", "time", "last_updated")
"""They differ from run to run, and nothing is decided by them."""

Say = Callable[[str], None]


def record(say: Say) -> None:
    """Write `RECORDED`. Root. Raises Missing and Broken."""
    build(ENVOY_GATEWAY, say)
    definitions = envoy_gateway.definitions()  # before the network goes: the module may have to be fetched
    network.enter()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trimode-")))
        cluster = stack.enter_context(provide.paper())
        world = World.create(cluster, folder)
        for each in definitions:
            world.install(each)
        controller = stack.enter_context(envoy_gateway.EnvoyGateway.running(world.api, folder))
        asked = Counter[str]()
        for name, addresses in ROUTERS.items():
            for address in addresses:
                network.add_address(address)
                stack.enter_context(named_server(name, asked, address, 8000))
        recording = Recording(world.api, Kubectl(kubectl_program(), cluster.kubeconfig, folder), asked)
        recording.prepare()
        recording.admin = controller.follow(PLACE)
        steps = recording.steps(say)
        about = {
            "command": COMMAND,
            "envoyGateway": ENVOY_GATEWAY.version(envoy_gateway.MODULE),
            "definitions": bundle_version(definitions),
            "envoy": recording.admin.get("/server_info").json()["version"],
            "kubernetes": cluster.stands_on,
        }
    RECORDED.write_text(json.dumps({"about": about, "steps": steps}, indent=1, sort_keys=True) + "\n")
    say(f"wrote {RECORDED.relative_to(ROOT)}: {len(steps)} steps")


def bundle_version(definitions: list[Object]) -> str:
    """Of Gateway API's."""
    key = "gateway.networking.k8s.io/bundle-version"
    annotations = [each["metadata"].get("annotations") or {} for each in definitions]
    (found,) = {each[key] for each in annotations if key in each}
    return f"Gateway API {found}"


class Recording:
    """The steps, on a cluster with the controller. `admin` is its Envoy's."""

    admin: httpx.Client

    def __init__(self, api: Api, kubectl: Kubectl, asked: Counter[str]) -> None:
        self._api, self._kubectl, self._asked = api, kubectl, asked

    def prepare(self) -> None:
        """The Gateway, and what the operator makes of the fleets as far as a controller looks at it."""
        self._api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": PLACE}})
        for file in ("fleets", "next"):
            for each in yaml.safe_load_all((EXAMPLES / f"{file}.yaml").read_text()):
                made = self._api.apply({**each, "metadata": {**each["metadata"], "namespace": PLACE}})
                for child in planned(made):
                    if (child["kind"], child["metadata"]["name"]) == ("Service", f"{each['metadata']['name']}-router"):
                        self._api.apply(child)
        for name in ROUTERS:
            self._endpoints(name)
        self._apply((EXAMPLES / "gateway.yaml").read_text())

    def steps(self, say: Say) -> list[Object]:
        first, canary = ((EXAMPLES / f"{name}.yaml").read_text() for name in ("by-model", "canary"))
        done = []

        def step(name: str, *texts: str) -> None:
            for text in texts:
                self._apply(text)
            done.append({"name": name, **self._at_rest()})
            say(f"{name}: {done[-1]['answered']}")

        step("by model", first)
        step("a tenth", canary)
        step("a half", re.sub("weight: .0", "weight: 50", canary))
        step("all", canary.replace("weight: 90", "weight: 0").replace("weight: 10", "weight: 100"))
        step("back", first)
        self._endpoints("chat-router", leaving=True)
        step("a router leaves")
        self._endpoints("chat-router", gone=True)
        step("a router is gone")
        step("by an endpoint picker", (EXAMPLES / "inference-pool.yaml").read_text())
        self._kubectl("--namespace", PLACE, "delete", "httproutes", "--all")
        resource = self._api.get("trimode.dev/v1alpha1", "NemotronDeployment", "chat", PLACE)
        (route,) = [each for each in planned(resource or {}) if each["kind"] == "HTTPRoute"]
        self._kubectl(
            "apply", "--server-side", f"--field-manager={MANAGER}", "-f", "-", text=json.dumps(with_digest(route))
        )
        step("the operator's own")
        return done

    def _apply(self, text: str) -> None:
        self._kubectl("--namespace", PLACE, "apply", "--filename=-", text=text)

    def _endpoints(self, name: str, leaving: bool = False, gone: bool = False) -> None:
        """As Kubernetes' controller has them. The first of several pods is leaving, or has gone."""
        ready = {"ready": True, "serving": True, "terminating": False}
        ends = [{"addresses": [each], "conditions": ready} for each in ROUTERS[name]]
        if leaving:
            ends[0]["conditions"] = {"ready": False, "serving": True, "terminating": True}
        self._api.apply(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": name,
                    "namespace": PLACE,
                    "labels": {
                        "kubernetes.io/service-name": name,
                        "endpointslice.kubernetes.io/managed-by": "recording",
                    },
                },
                "addressType": "IPv4",
                "ports": [{"name": "http", "port": 8000, "protocol": "TCP"}],
                "endpoints": ends[gone:],
            }
        )

    def _at_rest(self) -> Object:
        """Everything as it is once nothing has changed for `REST_S`, and who answers then."""
        self._api.until(self._judged, "the controller has judged every route", PATIENCE_S)
        now, since = self._state(), time.monotonic()
        deadline = since + PATIENCE_S
        while time.monotonic() - since < REST_S:
            assert time.monotonic() < deadline, "the controller comes to no rest"
            if (found := self._state()) != now:
                now, since = found, time.monotonic()
        return {**now, "answered": self._ask()}

    def _judged(self) -> bool:
        parents = [
            parent
            for route in self._api.listed(*ROUTE, PLACE)
            for parent in (route.get("status") or {}).get("parents") or [{}]
            if all(c["observedGeneration"] == route["metadata"]["generation"] for c in parent.get("conditions", ()))
        ]
        routes = self._api.listed(*ROUTE, PLACE)
        return bool(routes) and len([each for each in parents if each]) == len(routes)

    def _state(self) -> Object:
        xds: Configuration = envoy_gateway.configuration(self.admin)
        gateway = self._api.get("gateway.networking.k8s.io/v1", "Gateway", PLACE, PLACE)
        return {
            "gateway": without_noise((gateway or {})["status"]),
            "routes": [without_noise(each) for each in self._api.listed(*ROUTE, PLACE)],
            "envoy": without_noise(xds),
        }

    def _ask(self) -> dict[str, int]:
        """Answers by router, of requests by the first route's path; refusals by their status."""
        before, refused = self._asked.copy(), Counter[str]()
        listeners = self.admin.get("/listeners?format=json").json()["listener_statuses"]
        (port,) = [
            each["local_address"]["socket_address"]["port_value"] for each in listeners if f"/{PLACE}/" in each["name"]
        ]
        own = any(each["metadata"]["name"] == "chat-router" for each in self._api.listed(*ROUTE, PLACE))
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            for _ in range(ASKED):
                status = client.post(PATH if own else f"/chat{PATH}", json={}).status_code
                if status != 200:
                    refused[str(status)] += 1
        return dict(self._asked - before) | dict(refused)


def planned(resource: Mapping[str, Any]) -> list[Object]:
    """What the operator makes of a resource where its settings name the Gateway."""
    owner = Owner(resource["metadata"]["name"], PLACE, resource["metadata"]["uid"], 1)
    settings = Settings(image="trimode:1", gateway=Gateway(name=PLACE))
    plan = make_plan(
        NemotronDeployment.parse(resource), owner, settings, Capabilities(http_route=True), Observed(token="secret")
    )
    return [dict(each) for each in plan.children]


def without_noise(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: without_noise(part) for key, part in value.items() if key not in DROPPED}
    return [without_noise(part) for part in value] if isinstance(value, list) else value
