"""Examples for Gateways and what the operator makes for them, by Gateway API's and InferencePool's real definitions."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from kubernetes.aio import client, config

from trimode_api.resource import NemotronDeployment
from trimode_e2e import gateway
from trimode_e2e.api import Object
from trimode_e2e.crds import ROOT
from trimode_e2e.errors import Missing
from trimode_e2e.kubectl import Kubectl
from trimode_e2e.world import KIND, World
from trimode_operator.kube.api import ApiServer
from trimode_operator.kube.discovery import GATEWAY, SCHEMAS, Discovery, Published
from trimode_operator.plan import Capabilities, Observed, Owner, make_plan
from trimode_operator.plan.kuberay import knows
from trimode_operator.plan.optional_objects import ROUTE_TIMEOUTS
from trimode_operator.plan.settings import EndpointPicker, Gateway, Settings

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

EXAMPLES = sorted((ROOT / "examples" / "gateways").glob("*.yaml"))
POOL = "inference.networking.k8s.io/v1"
SETTINGS = Settings(
    image="trimode:1",
    gateway=Gateway(name="models", namespace="gateways", section_name="http", hostnames=("llm.example",)),
    endpoint_picker=EndpointPicker(name="picker"),
)


@pytest.fixture(scope="module")
def defined(world: World) -> World:
    try:
        definitions = gateway.crds()
    except Missing as exc:
        pytest.skip(str(exc))
    for each in definitions:
        world.install(each)
    return world


@pytest.fixture
def place(defined: World, namespace: str) -> str:
    return namespace


def created(kubectl: Kubectl, place: str, text: str) -> list[str]:
    """Names of what a server took that refuses fields which it does not know."""
    words = ("create", "--validate=strict", "--output=name", "--namespace", place, "--filename=-")
    return kubectl(*words, text=text).split()


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_is_accepted(kubectl: Kubectl, place: str, file: Any) -> None:
    assert len(created(kubectl, place, file.read_text())) == len(list(yaml.safe_load_all(file.read_text())))


def test_a_canarys_route_takes_the_place_of_the_first(kubectl: Kubectl, place: str) -> None:
    """As docs/gateways.md has it: a tenth, a half, and back."""
    folder = ROOT / "examples" / "gateways"
    canary = (folder / "canary.yaml").read_text()
    first: list[tuple[str, int]] = [("chat-router", 1)]
    for text, weights in (
        ((folder / "by-model.yaml").read_text(), first),
        (canary, [("chat-router", 90), ("chat-next-router", 10)]),
        (re.sub("weight: .0", "weight: 50", canary), [("chat-router", 50), ("chat-next-router", 50)]),
        ((folder / "by-model.yaml").read_text(), first),
    ):
        kubectl("apply", "--namespace", place, "--filename=-", text=text)
        route = yaml.safe_load(kubectl("get", "httproute", "chat", "--namespace", place, "--output=yaml"))
        for rule in route["spec"]["rules"]:
            assert [(backend["name"], backend["weight"]) for backend in rule["backendRefs"]] == weights


def test_routes_lead_to_routers_of_resources_that_there_are() -> None:
    """A backend that is misspelt would be found by a controller only."""
    objects = [each for file in EXAMPLES for each in yaml.safe_load_all(file.read_text())]
    routers = {f"{each['metadata']['name']}-router" for each in objects if each["kind"] == KIND}
    backends = {
        backend["name"]
        for each in objects if each["kind"] == "HTTPRoute"
        for rule in each["spec"]["rules"]
        for backend in rule["backendRefs"]
    }  # fmt: skip
    assert backends == routers
    gateways = {each["metadata"]["name"] for each in objects if each["kind"] == "Gateway"}
    parents = {p["name"] for each in objects if each["kind"] == "HTTPRoute" for p in each["spec"]["parentRefs"]}
    assert parents == gateways


@pytest.mark.parametrize(
    ("words", "others", "told"),
    [
        ("weight: 10}", "weight: -1}", "weight"),
        ("replacePrefixMatch: /v1}", "replacePrefix: /v1}", "replacePrefix"),
        ("type: PathPrefix", "type: Prefix", "Prefix"),
    ],
)
def test_a_wrong_route_is_refused(kubectl: Kubectl, place: str, words: str, others: str, told: str) -> None:
    """So that what is accepted means something."""
    text = (ROOT / "examples" / "gateways" / "canary.yaml").read_text()
    assert words in text
    done = kubectl.attempt(
        "create", "--validate=strict", "--namespace", place, "--filename=-", text=text.replace(words, others)
    )
    assert done.returncode != 0
    assert told in done.stderr


@pytest.fixture
def planned(world: World, place: str) -> list[Object]:
    """What the operator makes of the example's resource `chat` for a Gateway and for an endpoint picker."""
    first = next(yaml.safe_load_all((ROOT / "examples" / "gateways" / "fleets.yaml").read_text()))
    made = world.api.create({**first, "metadata": {"name": "chat", "namespace": place}})
    deployment = NemotronDeployment.parse(made)
    owner = Owner("chat", place, made["metadata"]["uid"], 1)
    everything = Capabilities(http_route=True, inference_pool=True)
    plan = make_plan(deployment, owner, SETTINGS, everything, Observed(token="secret"))
    return [each for each in plan.children if each["kind"] in ("HTTPRoute", "InferencePool")]


def test_what_the_operator_makes_is_accepted(kubectl: Kubectl, place: str, planned: list[Object]) -> None:
    assert created(kubectl, place, yaml.safe_dump_all(planned)) == [
        "httproute.gateway.networking.k8s.io/chat-router",
        "inferencepool.inference.networking.k8s.io/chat-router",
    ]


async def test_the_operator_sees_what_routes_know(defined: World) -> None:
    """Where they did not know `timeouts`, they would be made without, and Envoy would end long answers."""
    configuration = client.Configuration()
    await config.load_kube_config(str(defined.api.kubeconfig), client_configuration=configuration)
    api = ApiServer(configuration)
    found = await Discovery(api).look()
    index = await api.read(SCHEMAS)
    schema = await Published(api, GATEWAY, "HTTPRoute").spec(index)
    await api.close()
    assert (found.http_route, found.route_timeouts, found.inference_pool) == (True, True, True)
    assert schema is not None
    assert knows(schema, ROUTE_TIMEOUTS)
    assert not knows(schema, "rules.patience"), "by the definition itself, as one that is not read knows anything"
