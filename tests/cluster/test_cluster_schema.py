"""A real API server judges resources as the models do and blames the same fields; what an older CRD let in goes on."""

from __future__ import annotations

import copy
import json
import re
import runpy
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import config

from trimode_api.crd import custom_resource_definition
from trimode_api.errors import InvalidInput
from trimode_api.resource import GROUP, NemotronDeployment, Spec, broken, defaulted
from trimode_e2e.crds import ROOT
from trimode_e2e.world import World

pytestmark = pytest.mark.cluster

CEL_QUANTITIES_SINCE = (1, 29)
CASES = runpy.run_path(str(Path(__file__).parents[1] / "api" / "resource_cases.py"))
GOOD = [CASES["patched"](changes) for changes in CASES["GOOD"]]
WRONG = [(CASES["changed"](path, value), blamed) for path, value, blamed, _ in CASES["WRONG"]]
CONTRADICTIONS = [(CASES["patched"](changes), blamed) for changes, blamed, _ in CASES["CONTRADICTIONS"]]
AROUND = [(CASES["patched"](changes), blamed) for changes, blamed, _ in CASES["AROUND"]]
APPLY, MERGE = "application/apply-patch+yaml", "application/merge-patch+json"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
OLDER = "older.trimode.dev"

Call = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def call(world: World) -> Call:
    """One HTTP request: method, path from the namespaces on, body, query; gives the status and the JSON body."""
    if world.api.version < CEL_QUANTITIES_SINCE:
        pytest.skip(f"Kubernetes {world.api.version}: rules know no quantities")
    load: Any = config.new_client_from_config
    api: Any = load(str(world.api.kubeconfig))

    def request(
        method: str,
        path: str,
        body: Any = None,
        kind: str = "application/json",
        accept: str = "application/json",
        group: str = GROUP,
        **query: Any,
    ) -> tuple[int, dict[str, Any]]:
        url = f"/apis/{group}/v1alpha1/namespaces/{path}?{urllib.parse.urlencode(query)}"
        parts = api.param_serialize(method, url, body=body, auth_settings=["BearerToken"])
        parts[2].update({"Content-Type": kind, "Accept": accept})
        answer = api.call_api(*parts)
        return answer.status, json.loads(answer.read())

    return request


def on_the_wire(value: Any) -> Any:
    """As kubectl writes what it read from YAML: whole numbers without a fraction."""
    if isinstance(value, dict):
        return {key: on_the_wire(each) for key, each in value.items()}
    if isinstance(value, list):
        return [on_the_wire(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def tried(call: Call, resource: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    path = "default/nemotrondeployments"
    return call("POST", path, on_the_wire(resource), dryRun="All", fieldValidation="Strict")


def blamed_by(answer: dict[str, Any]) -> set[str]:
    """Fields that a refusal names; where its message begins with the field of a pool, that one."""
    if unknown := re.findall(r'unknown field \\?"([^"\\]+)', answer["message"]):
        return set(unknown)
    if mistyped := re.findall(r"Go struct field ObjectMeta\.(\w+)", answer["message"]):
        return {f"metadata.{field}" for field in mistyped}
    if "does not match the expected API version" in answer["message"]:
        return {"apiVersion"}
    fields = set()
    for cause in answer["details"]["causes"]:
        within = re.search(r"(?:^|: )(spec\.pools\[\d+\][\w.]+): ", cause["message"])
        # The check of the scale subresource's path writes it with a dot in front.
        fields.add(within[1] if within and cause["field"] == "spec.pools" else cause["field"].removeprefix("."))
    if "spec" in fields:
        fields.discard("spec.replicas")  # a spec that is no mapping: the scale subresource's path is blamed besides
    return fields - {"", "<nil>"}


@pytest.mark.parametrize("resource", GOOD, ids=[f"{changes}"[:70] for changes in CASES["GOOD"]])
def test_both_accept_what_is_good(call: Call, resource: dict[str, Any]) -> None:
    status, answer = tried(call, resource)
    assert status == 201, answer["message"]
    assert NemotronDeployment.parse(answer).spec == NemotronDeployment.parse(resource).spec


@pytest.mark.parametrize(("resource", "blamed"), WRONG + CONTRADICTIONS + AROUND)
def test_both_blame_the_same_field(call: Call, resource: dict[str, Any], blamed: str) -> None:
    status, answer = tried(call, resource)
    assert status in (400, 422), "the server accepts it"
    with pytest.raises(InvalidInput) as caught:
        NemotronDeployment.parse(resource)
    assert blamed in {problem.path for problem in caught.value.problems}
    assert blamed in blamed_by(answer), answer
    if blamed != "kind":  # of another kind the server judges the rules with no defaults
        assert blamed_by(answer) <= {problem.path for problem in caught.value.problems}


@pytest.mark.parametrize(("resource", "blamed"), CONTRADICTIONS)
def test_both_say_the_same_words(call: Call, resource: dict[str, Any], blamed: str) -> None:
    said = [each["message"] for each in tried(call, resource)[1]["details"]["causes"]]
    for path, message, _ in broken(defaulted(Spec, resource["spec"])):
        if isinstance(path[-1], str):  # the server has words of its own for items that are there twice
            assert any(each.endswith(message) for each in said), (message, said)


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_example_is_accepted_strictly(call: Call, file: Path) -> None:
    status, answer = tried(call, yaml.safe_load(file.read_text()))
    assert status == 201, answer["message"]


def named(group: str) -> dict[str, Any]:
    """Our CRD in another group, so that it can be changed beside the real one."""
    crd = copy.deepcopy(custom_resource_definition())
    crd["metadata"]["name"] = f"{crd['spec']['names']['plural']}.{group}"
    crd["spec"]["group"] = group
    del crd["spec"]["names"]["shortNames"]
    return crd


def schema_of(crd: dict[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    return properties


def lax() -> dict[str, Any]:
    """The CRD as an older release might have had it: no rules over fields, any text for quantities and names."""
    crd = named(OLDER)
    properties = schema_of(crd)
    del properties["metadata"]
    for node in (properties["spec"], properties["spec"]["properties"]["switching"]):
        del node["x-kubernetes-validations"]
    given = properties["spec"]["properties"]["pools"]["items"]["properties"]["resources"]["properties"]
    given.update({name: {"type": "string", "default": given[name]["default"]} for name in ("cpu", "memory")})
    return crd


def removed(world: World, crd: dict[str, Any]) -> None:
    """A CRD that is still going takes no resources."""
    one = ("apiextensions.k8s.io/v1", "CustomResourceDefinition", crd["metadata"]["name"])
    world.api.delete(*one)
    world.api.until(lambda: world.api.get(*one) is None, f"CRD {one[2]} is gone")


@pytest.fixture
def older(world: World, call: Call, namespace: str) -> Iterator[str]:
    """The path of resources of the lax CRD."""
    world.install(lax())
    yield f"{namespace}/nemotrondeployments"
    removed(world, lax())


def upgraded(world: World, call: Call, path: str) -> None:
    """The strict CRD in the place of the lax one, in force when this returns."""
    world.api.apply(named(OLDER))
    bad = CASES["changed"]("metadata.name", "a.b") | {"apiVersion": f"{OLDER}/v1alpha1"}
    refuses: Callable[[], bool] = lambda: call("POST", path, bad, group=OLDER, dryRun="All")[0] == 422  # noqa: E731
    world.api.until(refuses, "the stricter CRD is in force")


@pytest.mark.parametrize(
    "changes",
    [
        {"metadata.name": "tiny.a"},
        {CASES["MEMORY"]: "1"},
        {CASES["CPU"]: "none"},
        {"spec.switching": {"policy": "Manual"}},
        {"spec.pools": [CASES["FAST"]]},
    ],
)
def test_what_an_older_crd_let_in_is_told_drained_and_deleted(
    world: World, call: Call, older: str, changes: dict[str, Any]
) -> None:
    """An operator that may not write the status, or take its finalizer away, would be stuck with it for ever."""
    resource = CASES["patched"](changes) | {"apiVersion": f"{OLDER}/v1alpha1"}
    resource["metadata"]["finalizers"] = ["trimode.dev/drain"]
    status, made = call("POST", older, resource, group=OLDER)
    assert status == 201, made
    upgraded(world, call, older)
    one = f"{older}/{resource['metadata']['name']}"
    told = {"status": {"url": "http://told", "observedGeneration": 1}}
    assert call("PATCH", f"{one}/status", told, MERGE, group=OLDER)[0] == 200
    assert call("PATCH", one, {"metadata": {"labels": {"seen": "yes"}}}, MERGE, group=OLDER)[0] == 200
    assert call("DELETE", one, group=OLDER)[0] == 200
    assert call("PATCH", one, {"metadata": {"finalizers": None}}, MERGE, group=OLDER)[0] == 200
    assert call("GET", one, group=OLDER)[0] == 404


def test_a_good_resource_outlives_an_upgrade_and_a_bad_one_can_be_mended(world: World, call: Call, older: str) -> None:
    for name, memory in (("good", "2Gi"), ("bad", "1")):
        resource = CASES["patched"]({CASES["MEMORY"]: memory, "metadata.name": name})
        assert call("POST", older, resource | {"apiVersion": f"{OLDER}/v1alpha1"}, group=OLDER)[0] == 201
    upgraded(world, call, older)
    drain = {"spec": {"drain": {"timeoutSeconds": 5}}}
    assert call("PATCH", f"{older}/good", drain, MERGE, group=OLDER)[0] == 200
    pools = call("GET", f"{older}/bad", group=OLDER)[1]["spec"]["pools"]
    pools[0]["resources"] = {"cpu": 1, "memory": 2**31}
    assert call("PATCH", f"{older}/bad", {"spec": {"pools": pools}}, MERGE, group=OLDER)[0] == 200


def test_the_rules_are_far_from_the_budget(world: World, call: Call) -> None:
    """The server estimates what rules cost at most: four times as many pools still fit."""
    crd = named("budget.trimode.dev")
    schema_of(crd)["spec"]["properties"]["pools"]["maxItems"] *= 4
    world.install(crd)
    removed(world, crd)


def test_several_managers_own_parts_of_one_resource(call: Call, namespace: str) -> None:
    one = f"{namespace}/nemotrondeployments/tiny"
    head = {"apiVersion": f"{GROUP}/v1alpha1", "kind": "NemotronDeployment", "metadata": {"name": "tiny"}}

    def apply(manager: str, **spec: Any) -> tuple[int, dict[str, Any]]:
        return call("PATCH", one, head | {"spec": spec}, APPLY, fieldManager=manager, fieldValidation="Strict")

    def pool(name: str, **fields: Any) -> dict[str, Any]:
        return {"name": name, "modes": ["AR"], **fields}

    assert apply("team", model={"uri": "tiny://"}, pools=[pool("a")])[0] == 201
    assert apply("scaler", model={"uri": "tiny://"}, pools=[pool("b", replicas={"max": 3})])[0] == 200
    status, both = apply("team", model={"uri": "tiny://"}, pools=[pool("a", resources={"cpu": 2})])
    assert status == 200
    assert [each["name"] for each in both["spec"]["pools"]] == ["a", "b"]
    assert both["spec"]["pools"][0]["resources"]["cpu"] == 2
    status, conflict = apply("team", model={"uri": "tiny://"}, pools=[pool("b", replicas={"max": 4})])
    assert status == 409
    assert '"scaler"' in conflict["message"]
    assert '.spec.pools[name="b"].replicas.max' in json.dumps(conflict).replace('\\"', '"')
    status, less = apply("scaler", model={"uri": "tiny://"})
    assert [each["name"] for each in less["spec"]["pools"]] == ["a"]


def test_columns_are_what_the_status_says(call: Call, namespace: str) -> None:
    path = f"{namespace}/nemotrondeployments"
    assert call("POST", path, CASES["patched"]({}))[0] == 201
    condition = {"message": "", "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1}
    told = {
        "url": "http://tiny-router",
        "conditions": [
            {"type": "Ready", "status": "False", "reason": "PoolsLoading", **condition},
            {"type": "Serving", "status": "True", "reason": "Routed", **condition},
        ],
        "decision": {"point": "S16", "reason": "Kept", "since": "2026-01-01T00:00:00Z"},
    }
    assert call("PATCH", f"{path}/tiny/status", {"status": told}, MERGE)[0] == 200
    table = call("GET", path, accept=TABLE)[1]
    shown = dict(zip([each["name"] for each in table["columnDefinitions"]], table["rows"][0]["cells"], strict=True))
    wanted = {
        "Ready": "False",
        "Serving": "True",
        "Point": "S16",
        "Reason": "PoolsLoading",
        "URL": "http://tiny-router",
    }
    assert {name: shown[name] for name in wanted} == wanted
