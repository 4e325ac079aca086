"""The operator answers every wrong resource that another CRD lets in, and the resources beside them do not move.

What our CRD refuses by itself is in test_cluster_schema.py.
"""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trimode_api.crd import custom_resource_definition
from trimode_e2e.api import Object, Refused
from trimode_e2e.operator_process import Operator
from trimode_e2e.world import KIND, RAY, VERSION, World, tiny

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

DEFINITION = ("apiextensions.k8s.io/v1", "CustomResourceDefinition", "nemotrondeployments.trimode.dev")
CASES = runpy.run_path(str(Path(__file__).parents[1] / "api" / "resource_cases.py"))
WRONG = [(CASES["changed"](path, value), blamed) for path, value, blamed, _ in CASES["WRONG"] if "spec" in path]
WRONG += [(CASES["patched"](changes), blamed) for changes, blamed, _ in CASES["CONTRADICTIONS"]]
WRONG += [({**CASES["MINIMAL"], "spec": spec}, "spec") for spec in ("text", [], 7, None)]
ENOUGH_S = 400.0
"""All of them are created at once, and a busy machine takes its time."""


def lax() -> Object:
    """Our CRD with nothing known of `spec`."""
    crd = custom_resource_definition()
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    del schema["required"]
    schema["properties"]["spec"] = {"x-kubernetes-preserve-unknown-fields": True}
    # Its path has to lead through mappings, so with it the server refuses a spec that is text.
    del crd["spec"]["versions"][0]["subresources"]["scale"]
    return crd


def replace(world: World, crd: Object) -> None:
    """Put it into the place of the present one. Not applied: what another manager has set would stay."""
    present = world.api.get(*DEFINITION)
    assert present is not None
    crd["metadata"]["resourceVersion"] = present["metadata"]["resourceVersion"]
    world.api.replace(crd)


def accepts(world: World, resource: Object) -> bool:
    try:
        world.api.create(resource)
    except Refused as exc:
        return exc.status == 409  # it is there from the last time
    return True


@pytest.fixture(scope="module")
def lax_crd(world: World) -> Iterator[None]:
    """A cluster that lets everything in."""
    place = world.namespace()
    replace(world, lax())
    world.api.until(lambda: accepts(world, {**tiny("probe", place), "spec": "text"}), "the lax CRD is in force")
    world.api.delete(VERSION, KIND, "probe", place)
    yield
    replace(world, custom_resource_definition())
    world.api.until(lambda: not accepts(world, {**tiny("late", place), "spec": "text"}), "our CRD is in force again")
    world.api.delete(VERSION, KIND, "late", place)
    world.api.delete("v1", "Namespace", place)


@pytest.fixture(scope="module")
def operator(lax_crd: None, rights: Path, folder: Path) -> Iterator[Operator]:
    """Started under the lax CRD: watches from before would go on without the fields that our CRD does not know."""
    running = Operator.start(rights, folder, name="bad-resources")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def neighbour(world: World, operator: Operator) -> Iterator[str]:
    """The namespace of a good resource with all its children."""
    place = world.namespace()
    world.api.create(tiny("good", place))
    world.api.until(lambda: "RayService/good" in world.children("good", place), "the good one is made", ENOUGH_S)
    yield place
    world.delete("good", place)
    world.api.delete("v1", "Namespace", place)


@pytest.fixture(scope="module")
def wrong(world: World, neighbour: str) -> Iterator[str]:
    """A namespace with all wrong resources."""
    place = world.namespace()
    for number, (resource, _) in enumerate(WRONG):
        world.api.create({**resource, "metadata": {"name": f"wrong-{number}", "namespace": place}})
    yield place
    for item in world.api.listed(VERSION, KIND, place):
        world.api.delete(VERSION, KIND, item["metadata"]["name"], place)
    world.api.until(lambda: not world.api.listed(VERSION, KIND, place), "the wrong ones are gone", ENOUGH_S)
    world.api.delete("v1", "Namespace", place)


@pytest.mark.parametrize("number", range(len(WRONG)), ids=[f"{blamed}-{n}" for n, (_, blamed) in enumerate(WRONG)])
def test_a_wrong_resource_is_told_which_field(world: World, wrong: str, number: int) -> None:
    resource, blamed = WRONG[number]

    def told() -> Any:
        ready = world.condition(f"wrong-{number}", wrong, "Ready")
        return ready if ready.get("status") == "False" else None

    ready = world.api.until(told, f"a condition of {json.dumps(resource['spec'])}", ENOUGH_S)
    assert ready["reason"] == "InvalidSpec"
    assert blamed in ready["message"], ready["message"]


def test_nothing_is_made_of_them(world: World, wrong: str) -> None:
    for kind in (RAY, ("apps/v1", "Deployment"), ("v1", "Service"), ("v1", "Secret")):
        assert world.api.listed(*kind, wrong) == []


def versions(world: World, place: str) -> dict[str, str]:
    """Of the children that Kubernetes' own controllers do not write to."""
    children = world.children("good", place).items()
    return {name: child["metadata"]["resourceVersion"] for name, child in children if child["kind"] != "Deployment"}


def test_a_wrong_edit_changes_nothing_and_can_be_mended(world: World, wrong: str, neighbour: str) -> None:
    before = versions(world, neighbour)
    world.api.patch(VERSION, KIND, "good", neighbour, {"spec": {"pools": [{"name": "flex", "modes": ["Magic"]}]}})
    message = world.until_condition("good", neighbour, "Ready", "False", reason="InvalidSpec")["message"]
    assert "spec.pools[0].modes[0]" in message
    assert versions(world, neighbour) == before
    world.api.patch(VERSION, KIND, "good", neighbour, {"spec": tiny("good", neighbour)["spec"]})

    def mended() -> bool:
        ready, item = world.condition("good", neighbour, "Ready"), world.get("good", neighbour)
        current = ready["observedGeneration"] == item["metadata"]["generation"]
        return bool(current and ready["reason"] != "InvalidSpec")

    world.api.until(mended, "it is no longer told to be wrong")


def test_the_operator_is_none_the_worse(world: World, wrong: str, operator: Operator) -> None:
    assert operator.answers("/healthz")
    assert [line for line in operator.log() if line.get("event") == "reconcile failed"] == []
