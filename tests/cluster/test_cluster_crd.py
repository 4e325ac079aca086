"""Our CRD on the newest and on the oldest Kubernetes: stored as written, defaults, status, columns, explanations."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from trimode_api.crd import custom_resource_definition
from trimode_api.resource import NemotronDeployment
from trimode_e2e.api import Refused
from trimode_e2e.control import provide
from trimode_e2e.crds import ROOT
from trimode_e2e.errors import Missing
from trimode_e2e.kubectl import Kubectl
from trimode_e2e.world import KIND, VERSION, World, tiny

pytestmark = pytest.mark.cluster

PROMISED = (1, 34)
DEFINITION = ("apiextensions.k8s.io/v1", "CustomResourceDefinition", "nemotrondeployments.trimode.dev")
MINIMAL = runpy.run_path(str(Path(__file__).parents[1] / "api" / "resource_cases.py"))["MINIMAL"]
EXAMPLES = [file for file in sorted((ROOT / "examples").glob("*.yaml")) if KIND in file.read_text()]
CONDITIONS = [
    {"type": "Ready", "status": "False", "reason": "PoolsLoading"},
    {"type": "Serving", "status": "True", "reason": "Routed"},
    {"type": "SLOMet", "status": "Unknown", "reason": "NoTraffic"},
]
NARROW = ["NAME", "READY", "SERVING", "POINT", "REPLICAS", "SLO", "AGE"]


@dataclass(frozen=True, slots=True)
class Place:
    """A namespace of a cluster with our CRD."""

    world: World
    kubectl: Kubectl
    namespace: str

    def create(self, manifest: Mapping[str, Any]) -> Any:
        metadata = {**manifest["metadata"], "namespace": self.namespace}
        return self.world.api.create({**manifest, "metadata": metadata})


@pytest.fixture(scope="module")
def oldest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The API server alone of the oldest Kubernetes that the docs promise."""
    try:
        with provide.paper("oldest") as cluster:
            yield World.create(cluster, tmp_path_factory.mktemp("oldest"))
    except Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture(params=["newest", "oldest"])
def place(request: pytest.FixtureRequest, kubectl: Kubectl, tmp_path: Path) -> Iterator[Place]:
    """Both, in turn."""
    world: World = request.getfixturevalue("world" if request.param == "newest" else "oldest")
    namespace = world.namespace()
    yield Place(world, Kubectl(kubectl.program, world.cluster.kubeconfig, tmp_path), namespace)
    world.api.delete("v1", "Namespace", namespace)


def test_the_server_is_one_that_we_promise(place: Place) -> None:
    print(f"\n{place.world.cluster.stands_on}")
    assert place.world.api.version >= PROMISED


def test_the_crd_is_stored_as_written(place: Place) -> None:
    stored, written = place.world.api.get(*DEFINITION), custom_resource_definition()
    assert stored is not None
    (version,), (ours,) = stored["spec"]["versions"], written["spec"]["versions"]
    assert version == ours, "the server has dropped something"
    assert stored["spec"]["names"] == written["spec"]["names"]
    told = {each["type"]: each["status"] for each in stored["status"]["conditions"]}
    assert told.pop("NonStructuralSchema", "False") == "False"
    assert (told["Established"], told["NamesAccepted"]) == ("True", "True")


def test_the_servers_defaults_are_the_models(place: Place) -> None:
    spec = NemotronDeployment.parse(MINIMAL).spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert place.create(MINIMAL)["spec"] == spec


def test_status_is_a_subresource(place: Place) -> None:
    made = place.create({**tiny("small", ""), "status": {"url": "http://sneaked-in"}})
    assert "status" not in made
    told = {"url": "http://told", "made-up": "dropped"}
    changed = place.world.api.patch_status(VERSION, KIND, "small", place.namespace, told)
    assert changed["status"]["url"] == "http://told"
    assert "made-up" not in changed["status"]
    assert changed["metadata"]["generation"] == made["metadata"]["generation"]


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_examples_are_accepted(place: Place, file: Path) -> None:
    assert "created" in place.kubectl("apply", "-n", place.namespace, "-f", str(file))
    written = yaml.safe_load(file.read_text())
    stored = place.world.get(written["metadata"]["name"], place.namespace)
    assert NemotronDeployment.parse(stored).spec == NemotronDeployment.parse(written).spec
    place.kubectl("apply", "-n", place.namespace, "-f", str(file))
    assert place.world.get(written["metadata"]["name"], place.namespace)["metadata"]["generation"] == 1


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4


def test_columns_show_what_a_person_asks_first(place: Place) -> None:
    place.create(tiny("small", ""))
    conditions = [
        {**each, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1}
        for each in CONDITIONS
    ]
    decision = {"point": "S16", "reason": "Kept", "since": "2026-01-01T00:00:00Z"}
    status = {
        "conditions": conditions,
        "url": "http://small-router",
        "decision": decision,
        "replicaSummary": "3/4",
    }
    place.world.api.patch_status(VERSION, KIND, "small", place.namespace, status)
    header, row = place.kubectl("get", "nd", "-n", place.namespace).splitlines()
    assert header.split() == NARROW
    assert row.split()[:-1] == ["small", "False", "True", "S16", "3/4", "Unknown"]
    header, row = place.kubectl("get", "nd", "-n", place.namespace, "-o", "wide").splitlines()
    assert header.split() == [*NARROW, "REASON", "URL"]
    assert row.split()[-2:] == ["PoolsLoading", "http://small-router"]
    waited = place.kubectl("wait", "nd/small", "-n", place.namespace, "--for=condition=Serving", "--timeout=10s")
    assert "condition met" in waited


def test_it_is_no_part_of_all(place: Place) -> None:
    """`kubectl delete all --all` is typed to clear a namespace of what can be made again."""
    place.create(tiny("small", ""))
    assert "small" not in place.kubectl("get", "all", "-n", place.namespace)


def fields(schema: Mapping[str, Any], path: str = "nd") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(path as kubectl explains it, schema) of every field below."""
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}", field
        yield from fields(field, f"{path}.{name}")
        for inner in (field.get("items"), field.get("additionalProperties")):
            if isinstance(inner, dict):
                yield from fields(inner, f"{path}.{name}")


def test_every_field_is_explained(place: Place) -> None:
    schema = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    asked = [(path, field) for path, field in fields(schema) if path.startswith(("nd.spec", "nd.status"))]
    assert len(asked) > 90
    for path, field in asked:
        text = " ".join(place.kubectl("explain", path).split())
        words = re.sub(r"\s+", " ", field["description"])
        assert words in text, f"{path}: {text}"
        assert f"FIELD: {path.rpartition('.')[2]} <" in text, text
        for choice in field.get("enum", ()):
            assert str(choice) in text, f"{path}: {text}"


def test_kubectl_refuses_an_unknown_field(place: Place) -> None:
    wrong = tiny("small", place.namespace)
    wrong["spec"]["modle"] = {}
    done = place.kubectl.attempt("apply", "-f", "-", text=json.dumps(wrong))
    assert done.returncode != 0
    assert 'unknown field "spec.modle"' in done.stderr


def test_kubectl_tells_field_value_and_choices_of_a_wrong_value(place: Place) -> None:
    wrong = tiny("small", place.namespace, switching={"policy": "Magic"})
    done = place.kubectl.attempt("apply", "-f", "-", text=json.dumps(wrong))
    assert done.returncode != 0
    assert 'spec.switching.policy: Unsupported value: "Magic"' in done.stderr
    assert '"Predictive"' in done.stderr


def test_rules_over_several_fields_are_in_force(place: Place) -> None:
    with pytest.raises(Refused, match=r"spec\.switching") as caught:
        place.create(tiny("small", "", switching={"policy": "Manual"}))
    assert caught.value.status == 422
