"""Releases of the chart over a fleet that serves: uninstalled and installed again, upgraded from an older definition.

Fleets need the operator for edits only, so nothing of one stops, starts or loses a request meanwhile.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from trimode_e2e.api import Object
from trimode_e2e.clients import Traffic
from trimode_e2e.crds import OURS, ROOT
from trimode_e2e.helm import SMALL_VALUES, Helm
from trimode_e2e.kubectl import Kubectl
from trimode_e2e.operator_pods import OperatorPods
from trimode_e2e.world import KIND, VERSION, World, tiny

pytestmark = pytest.mark.timeout(1800)

CHART = ROOT / "charts" / "trimode"
NAME = "lasting"
PATIENT = {
    # An operator that starts beside the load takes its time from it, and late requests would rightly be refused.
    "tiers": [{"name": "patient", "ttftMilliseconds": 120000, "tpotMilliseconds": 10000}],
    "admission": {"maxWaitMilliseconds": 60000},
}
CRD = "nemotrondeployments.trimode.dev"


@pytest.fixture(scope="module")
def serving(operators: OperatorPods, home: str) -> Iterator[World]:
    """The chart is installed, as it is, when the module ends as when it began."""
    world = operators.world
    world.api.create(tiny(NAME, home, **PATIENT))
    world.until_condition(NAME, home, "Ready")
    world.first_answer(NAME, home)
    yield world
    world.delete(NAME, home)


def test_uninstalled_its_fleets_serve_on_and_installed_again_it_keeps_them(
    serving: World, operators: OperatorPods, helm: Helm, home: str
) -> None:
    """What stays is what docs/install.md and the chart's notes say: the definition, and so every resource."""
    before, release = serving.identities(NAME, home), {"release": operators.release, "namespace": operators.namespace}
    made = helm.render(CHART, SMALL_VALUES, **release).objects
    with Traffic(serving.url(NAME, home), NAME) as traffic:
        helm.uninstall(**release)
        assert [name for name in map(named, made) if there(serving, *name, operators.namespace)] == [
            ("apiextensions.k8s.io/v1", "CustomResourceDefinition", CRD)
        ]
        serving.api.until(lambda: not operators.pods(), "the operator's pods are gone")
        # No operator runs that could answer it.
        version = serving.patch(NAME, home, {"switching": {"marginPercent": 9}})["metadata"]["generation"]
        traffic.wait_for(4)
        begun = time.monotonic()
        helm.install(CHART, SMALL_VALUES, "--wait", **release)
        serving.until_condition(NAME, home, "Ready")
        print(f"\ninstalled again: its fleet Ready after {time.monotonic() - begun:.1f} s")
        traffic.wait_for(2)
    fleet = serving.fleet(NAME, home)
    assert fleet is not None
    assert {each.policy_version for each in fleet.replicas} == {version}, "what was edited meanwhile is in force"
    assert serving.identities(NAME, home) == before
    assert traffic.failures == []


def named(manifest: Object) -> tuple[str, str, str]:
    return manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"]


def there(world: World, api_version: str, kind: str, name: str, namespace: str) -> bool:
    everywhere = kind.startswith("Cluster") or kind == "CustomResourceDefinition"
    return world.api.get(api_version, kind, name, None if everywhere else namespace) is not None


def test_an_upgrade_over_what_an_older_definition_stored(
    serving: World, operators: OperatorPods, helm: Helm, kubectl: Kubectl, home: str, tmp_path: Path
) -> None:
    """Objects that the older one stored have none of the new fields and defaults; pods know nothing of it all."""
    before, release = serving.identities(NAME, home), {"release": operators.release, "namespace": operators.namespace}
    with Traffic(serving.url(NAME, home), NAME) as traffic:
        helm.upgrade(older_chart(tmp_path), SMALL_VALUES, "--wait", **release)
        serving.api.until(lambda: "drain" not in serving.get(NAME, home)["spec"], "the older definition")
        serving.patch(NAME, home, {"switching": {"minDwellMilliseconds": 300}})  # stored anew, without them
        serving.until_condition(NAME, home, "Ready")
        stored = serving.get(NAME, home)
        assert "drain" not in stored["spec"]
        helm.upgrade(CHART, SMALL_VALUES, "--wait", **release)
        serving.api.until(lambda: "drain" in serving.get(NAME, home)["spec"], "the newer definition")
        serving.until_condition(NAME, home, "Ready")
        traffic.wait_for(2)
    assert traffic.failures == []
    now = serving.get(NAME, home)
    assert now["metadata"]["generation"] == stored["metadata"]["generation"], "an upgrade is no edit"
    kubectl("get", "nd", NAME, "-n", home)
    serving.api.apply({"apiVersion": VERSION, "kind": KIND, "metadata": names(now), "spec": now["spec"]})
    assert serving.identities(NAME, home) == before


def names(resource: Object) -> Object:
    return {key: resource["metadata"][key] for key in ("name", "namespace")}


def older_chart(folder: Path) -> Path:
    """The chart with a definition that lacks a field with a default."""
    chart = folder / "trimode"
    shutil.copytree(CHART, chart)
    definition = yaml.safe_load(OURS.read_text())
    spec = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    without(spec, "drain")
    (chart / "files" / OURS.name).write_text(yaml.safe_dump(definition))
    return chart


def without(schema: dict[str, Any], field: str) -> None:
    """The field is gone from properties, defaults and rules."""
    del schema["properties"][field]
    schema.get("default", {}).pop(field, None)
    rules = schema.get("x-kubernetes-validations", [])
    schema["x-kubernetes-validations"] = [rule for rule in rules if field not in rule["rule"]]
