"""The control plane starts, and our CRD is what it says: columns, status, explanations, refusals."""

from __future__ import annotations

import json

import pytest
import yaml

from trimode_e2e.api import Refused
from trimode_e2e.crds import CEL_SINCE, ROOT
from trimode_e2e.kubectl import Kubectl
from trimode_e2e.world import KIND, VERSION, World, tiny

pytestmark = pytest.mark.cluster

CONDITIONS = [
    {"type": "Ready", "status": "False", "reason": "PoolsLoading"},
    {"type": "Serving", "status": "True", "reason": "Routed"},
    {"type": "SLOMet", "status": "Unknown", "reason": "NoTraffic"},
]


def test_the_control_plane_answers(world: World) -> None:
    assert world.api.version >= (1, 20)
    assert world.api.knows("apps/v1", "Deployment")


def test_the_crd_is_stored_as_written_but_for_rules_that_an_old_server_refuses(world: World) -> None:
    written = yaml.safe_load((ROOT / "crds" / "nemotrondeployments.trimode.dev.yaml").read_text())
    stored = world.api.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", written["metadata"]["name"])
    assert stored is not None
    told, asked = json.dumps(stored["spec"]), json.dumps(written["spec"])
    expected = asked.count("x-kubernetes-validations") if world.api.version >= CEL_SINCE else 0
    assert told.count("x-kubernetes-validations") == expected
    for text in ("additionalPrinterColumns", "x-kubernetes-list-type", "description", "enum"):
        assert told.count(f'"{text}"') == asked.count(f'"{text}"'), text


def test_defaults_are_filled_in_by_the_server(world: World, paper: str) -> None:
    stored = world.api.create(
        {
            "apiVersion": VERSION,
            "kind": KIND,
            "metadata": {"name": "small", "namespace": paper},
            "spec": {"model": {"uri": "tiny://"}, "pools": [{"name": "a", "modes": ["AR"]}]},
        }
    )
    assert stored["spec"]["switching"]["policy"] == "Predictive"
    assert stored["spec"]["pools"][0]["replicas"] == {"min": 1, "max": 1, "idleSeconds": 300}
    assert stored["spec"]["suspend"] is False


def test_status_is_a_subresource(world: World, paper: str) -> None:
    made = world.api.create({**tiny("small", paper), "status": {"url": "http://sneaked-in"}})
    assert "status" not in made
    changed = world.api.patch_status(VERSION, KIND, "small", paper, {"url": "http://told"})
    assert changed["status"]["url"] == "http://told"
    assert changed["metadata"]["generation"] == made["metadata"]["generation"]


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda file: file.stem)
def test_examples_are_accepted(kubectl: Kubectl, world: World, paper: str, file: str) -> None:
    if KIND not in ROOT.joinpath(file).read_text():
        pytest.skip(f"{file} is no {KIND}")
    assert "created" in kubectl("apply", "-n", paper, "-f", str(file))


def test_columns_show_conditions(kubectl: Kubectl, world: World, paper: str) -> None:
    kubectl("apply", "-f", "-", text=json.dumps(tiny("small", paper)))
    conditions = [
        {**each, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1}
        for each in CONDITIONS
    ]
    decision = {"point": "S16", "reason": "Kept", "since": "2026-01-01T00:00:00Z"}
    status = {"conditions": conditions, "url": "http://small-router", "decision": decision}
    world.api.patch_status(VERSION, KIND, "small", paper, status)
    header, row = kubectl("get", "nd", "-n", paper, "-o", "wide").splitlines()
    assert header.split() == ["NAME", "READY", "SERVING", "POINT", "REPLICAS", "SLO", "AGE", "REASON", "URL"]
    assert row.split()[:4] == ["small", "False", "True", "S16"]
    assert {"Unknown", "PoolsLoading", "http://small-router"} <= set(row.split())


def test_it_is_among_all(kubectl: Kubectl, world: World, paper: str) -> None:
    world.api.create(tiny("small", paper))
    assert "nemotrondeployment.trimode.dev/small" in kubectl("get", "all", "-n", paper)


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("", "tri-mode"),
        (".spec.switching.marginPercent", "percent"),
        (".spec.pools.blockLengths", "block"),
        (".spec.tiers.tpotMilliseconds", "token"),
        (".status.conditions", "ondition"),
    ],
)
def test_explain_reads_well(kubectl: Kubectl, world: World, field: str, words: str) -> None:
    explained = kubectl("explain", f"nd{field}")
    assert "<empty>" not in explained
    assert words in explained, explained


def test_an_unknown_field_is_refused_by_kubectl(kubectl: Kubectl, world: World, paper: str) -> None:
    wrong = tiny("small", paper)
    wrong["spec"]["modle"] = {}
    done = kubectl.attempt("apply", "-f", "-", text=json.dumps(wrong))
    assert done.returncode != 0
    assert "modle" in done.stderr


def test_a_wrong_value_is_refused_by_the_server_naming_field_and_choices(world: World, paper: str) -> None:
    wrong = tiny("small", paper, switching={"policy": "Magic"})
    with pytest.raises(Refused) as caught:
        world.api.create(wrong)
    assert caught.value.status == 422
    assert "spec.switching.policy" in str(caught.value)
    assert '"Predictive"' in str(caught.value)
