"""Every wrong resource is refused by the schema or answered by a condition that names the field; nothing else moves."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from trimode_e2e.api import Refused
from trimode_e2e.kubectl import Kubectl
from trimode_e2e.operator_process import Operator
from trimode_e2e.world import KIND, VERSION, World, tiny

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

_TABLE = Path(__file__).parents[1] / "api" / "test_resource.py"


def _table() -> Any:
    """The models' own table of wrong values."""
    spec = importlib.util.spec_from_file_location("resource_table", _TABLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TABLE = _table()
CASES = [(path, value, blamed) for path, value, blamed, _ in TABLE.WRONG]
UNKNOWN_KINDS = ("apiVersion", "kind")
UNKNOWN_FIELDS = tuple(blamed for _, _, blamed, words in TABLE.WRONG if words == "unknown field")

MORE: list[tuple[str, dict[str, Any], str]] = [
    ("a relative path", {"model": {"uri": "file://relative"}}, "spec.model.uri"),
    ("a pool named like Ray's own group", {"pools": [{"name": "headgroup", "modes": ["AR"]}]}, "spec.pools[0].name"),
]


@pytest.fixture(scope="module")
def neighbour(world: World, operator: Operator) -> tuple[str, dict[str, str]]:
    """A good resource beside the bad ones: its namespace, and its children's versions."""
    place = world.namespace("paper-good-")
    world.api.create(tiny("good", place))
    world.api.until(lambda: "RayService/good" in world.children("good", place), "the good one is made")
    return place, versions(world, place)


def versions(world: World, place: str) -> dict[str, str]:
    """Of the neighbour's children, less those that Kubernetes' own controllers write to as well."""
    found = world.children("good", place).items()
    return {n: c["metadata"]["resourceVersion"] for n, c in found if c["kind"] not in ("Deployment", "ServiceAccount")}


@pytest.mark.parametrize(("path", "value", "blamed"), CASES, ids=[f"{path}={value!r:.40}" for path, value, _ in CASES])
def test_a_wrong_value_is_answered(
    world: World,
    kubectl: Kubectl,
    neighbour: tuple[str, dict[str, str]],
    paper: str,
    path: str,
    value: Any,
    blamed: str,
) -> None:
    wrong = TABLE.changed(path, value)
    wrong["metadata"]["namespace"] = paper
    if blamed in UNKNOWN_FIELDS:
        # The server drops these, kubectl does not let them pass.
        done = kubectl.attempt("create", "-f", "-", text=json.dumps(wrong))
        assert done.returncode != 0
        assert blamed.rpartition(".")[2] in done.stderr
    else:
        said = answer(world, wrong, paper)
        assert path in UNKNOWN_KINDS or named(blamed, said), said
    assert world.api.listed("ray.io/v1", "RayService", paper) == []
    place, before = neighbour
    assert versions(world, place) == before


@pytest.mark.parametrize(("spec", "blamed"), [case[1:] for case in MORE], ids=[case[0] for case in MORE])
def test_what_only_a_cluster_cannot_do_is_a_condition(
    world: World, operator: Operator, paper: str, spec: dict[str, Any], blamed: str
) -> None:
    assert named(blamed, answer(world, tiny("odd", paper, **spec), paper))


def answer(world: World, wrong: dict[str, Any], place: str) -> str:
    """The server's refusal, or what the condition says."""
    try:
        world.api.create(wrong)
    except Refused as exc:
        return str(exc)
    name = wrong["metadata"]["name"]

    def told() -> str:
        ready = world.condition(name, place, "Ready")
        return str(ready["message"]) if ready.get("status") == "False" and ready["reason"] == "InvalidSpec" else ""

    return str(world.api.until(told, f"a condition of {json.dumps(wrong['spec'])}", 20))


def named(blamed: str, said: str) -> bool:
    """Whether a text names the field. Old servers leave out indices, and blame the object for what it lacks."""
    field, text = (re.sub(r"\[\d+\]", "", each) for each in (blamed, said))
    parent, _, last = field.rpartition(".")
    return field in text or (parent in text and last in text)


def test_the_table_is_long_enough() -> None:
    assert len(CASES) + len(MORE) >= 40
    assert (VERSION, KIND) == ("trimode.dev/v1alpha1", "NemotronDeployment")
