"""The chart's values: what is allowed, and that what is not is refused with its path."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from trimode_api.crd import custom_resource_definition
from trimode_api.resource import GROUP, VERSION, NemotronDeployment
from trimode_api.values import amount
from trimode_e2e.helm import Helm, HelmError
from trimode_operator.plan.settings import Settings

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"replica": 2}, "additional properties 'replica' not allowed"),
    ({"replicas": 0}, "at '/replicas': minimum: got 0, want 1"),
    ({"replicas": "two"}, "at '/replicas': got string, want integer"),
    ({"image": "trimode:1"}, "at '/image': got string, want object"),
    ({"image": {"repository": ""}}, "at '/image/repository'"),
    ({"image": {"tag": "not a tag"}}, "at '/image/tag'"),
    ({"image": {"digest": "sha256:123"}}, "at '/image/digest'"),
    ({"image": {"pullPolicy": "Sometimes"}}, "at '/image/pullPolicy': value must be one of 'Always', 'IfNotPresent'"),
    ({"watchNamespaces": "team-a"}, "at '/watchNamespaces': got string, want array"),
    ({"watchNamespaces": ["Team A"]}, "at '/watchNamespaces/0'"),
    ({"settings": {"colour": "red"}}, "at '/settings': additional properties 'colour' not allowed"),
    ({"settings": {"rayVersion": "latest"}}, "at '/settings/rayVersion'"),
    ({"settings": {"router": {"cpu": "two"}}}, "at '/settings/router/cpu'"),
    ({"settings": {"head": {"memory": "64GB"}}}, "at '/settings/head/memory'"),
    ({"settings": {"runAsUser": 0}}, "at '/settings/runAsUser': minimum: got 0, want 1"),
    ({"settings": {"gateway": {"namespace": "gateways"}}}, "missing property 'name'"),
    ({"crd": {"install": "no"}}, "at '/crd/install': got string, want boolean"),
    ({"resources": {"limits": {"memory": "lots"}}}, "at '/resources/limits/memory'"),
    ({"podLabels": {"team": 7}}, "at '/podLabels/team': got number, want string"),
    ({"networkPolicy": {"apiServerPorts": []}}, "at '/networkPolicy/apiServerPorts': minItems"),
    ({"networkPolicy": {"apiServerPorts": [70000]}}, "at '/networkPolicy/apiServerPorts/0': maximum"),
    ({"serviceMonitor": {"interval": "often"}}, "at '/serviceMonitor/interval'"),
    ({"prometheusRule": {"runbook": ""}}, "at '/prometheusRule/runbook'"),
    ({"dashboards": {"enabled": 1}}, "at '/dashboards/enabled': got number, want boolean"),
    ({"kuberay": {"enabled": True}}, "additional properties 'kuberay' not allowed"),
    ({"image": {"repository": "registry.example:5000/team/trimode:1.0"}}, "at '/image/repository'"),
    ({"image": {"repository": "trimode@sha256"}}, "at '/image/repository'"),
    ({"enabled": False}, "at '/enabled': value must be true"),
    ({"resources": {"limits": {"cpu": -0.5}}}, "at '/resources/limits/cpu': minimum"),
    ({"settings": {"router": {"cpu": 0}}}, "at '/settings/router/cpu': exclusiveMinimum"),
    ({"settings": {"router": None}}, "at '/settings/router': got null, want object"),
    ({"crd": None}, "missing property 'crd'"),
    ({"settings": None}, "missing property 'settings'"),
    ({"image": {"pullPolicy": None}}, "at '/image': missing property 'pullPolicy'"),
]


@pytest.mark.parametrize(("values", "words"), WRONG, ids=[json.dumps(values) for values, _ in WRONG])
def test_wrong_values_are_refused_by_path(helm: Helm, chart: Path, values: dict[str, Any], words: str) -> None:
    with pytest.raises(HelmError) as refused:
        helm.render(chart, values)
    assert words in str(refused.value)


@pytest.mark.parametrize("cpu", [2, 0.5, "500m", "0.5", ".5"])
def test_quantities_are_written_as_in_any_pod(helm: Helm, chart: Path, cpu: Any) -> None:
    given = {"cpu": cpu, "memory": 2000000000}
    rendered = helm.render(chart, {"resources": {"requests": given}, "settings": {"router": given}})
    (container,) = rendered.one("Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["requests"]["cpu"] == cpu
    settings = Settings.model_validate(yaml.safe_load(rendered.one("ConfigMap")["data"]["settings.yaml"]))
    assert amount(settings.router.cpu) == amount(str(cpu))
    assert amount(settings.router.memory) == 2_000_000_000


@pytest.mark.parametrize(
    "repository", ["trimode", "registry.example:5000/trimode", "localhost:5000/a/b_c", "ghcr.io/a/b"]
)
def test_repositories_may_be_anywhere(helm: Helm, chart: Path, repository: str) -> None:
    rendered = helm.render(chart, {"image": {"repository": repository, "tag": "1.0"}})
    (container,) = rendered.one("Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"{repository}:1.0"


def paths_of(values: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Paths of all values and sections."""
    for name, value in values.items():
        yield (name,)
        for inner in paths_of(value) if isinstance(value, dict) else ():
            yield (name, *inner)


def told(helm: Helm, chart: Path, values: dict[str, Any]) -> str:
    """What Helm says against the values; empty where it renders."""
    try:
        helm.render(chart, values)
    except HelmError as refused:
        return str(refused)
    return ""


def test_null_leaves_a_value_out_or_is_refused_by_name(helm: Helm, chart: Path) -> None:
    """A section whose lines are all commented out must not end in the words of a template."""
    text = (chart / "ci" / "all-values.yaml").read_text()
    values = yaml.safe_load((chart / "values.yaml").read_text())
    refused = []
    for *parents, name in paths_of(values):
        given = at = yaml.safe_load(text)
        for parent in parents:
            at = at.setdefault(parent, {})
        at[name] = None
        if words := told(helm, chart, given):
            assert f"missing property '{name}'" in words or f"'{name}'" in words.partition("missing properties")[2]
            refused.append(name)
    assert {"crd", "image", "settings", "pullPolicy", "apiServerPorts", "interval"} <= set(refused)
    assert not {"resources", "limits", "tag", "nodeSelector", "affinity", "labels"} & set(refused)


@pytest.mark.parametrize("enabled", [True, False])
def test_another_chart_may_depend_on_it(helm: Helm, chart: Path, tmp_path: Path, enabled: bool) -> None:
    shutil.copytree(chart, tmp_path / "charts" / "trimode")
    needed = {"name": "trimode", "version": "0.1.0", "condition": "trimode.enabled"}
    about = {"apiVersion": "v2", "name": "platform", "version": "1.0.0", "dependencies": [needed]}
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(about))
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "own.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: own}\n")
    rendered = helm.render(tmp_path, {"global": {"region": "x"}, "trimode": {"enabled": enabled}}, release="platform")
    assert len(rendered.of("Deployment")) == enabled


def test_everything_wrong_is_told_at_once(helm: Helm, chart: Path) -> None:
    with pytest.raises(HelmError) as refused:
        helm.render(chart, {"replicas": 0, "image": {"pullPolicy": "Sometimes"}, "colour": "red"})
    assert all(word in str(refused.value) for word in ("/replicas", "/image/pullPolicy", "colour"))


def schema(chart: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((chart / "values.schema.json").read_text())
    return found


def test_the_schema_knows_every_value_and_values_every_part_of_the_schema(chart: Path) -> None:
    values = yaml.safe_load((chart / "values.yaml").read_text())
    known = schema(chart)["properties"]
    assert known.keys() - values.keys() == {"global", "enabled"}  # Helm's own
    assert values.keys() <= known.keys()
    for name, part in values.items():
        if isinstance(part, dict) and "properties" in known[name] and name != "settings":
            assert part.keys() == known[name]["properties"].keys(), name


def test_all_values_changes_every_value(chart: Path) -> None:
    values = yaml.safe_load((chart / "values.yaml").read_text())
    changed = yaml.safe_load((chart / "ci" / "all-values.yaml").read_text())
    same = {name for name in values if changed[name] == values[name]}
    assert same == {"podDisruptionBudget"}  # on by default


def test_what_is_generated_is_up_to_date(chart: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(chart.parent)
    generate = importlib.import_module("generate")
    for path, content in generate.files().items():
        assert path.read_text() == content, f"{path.name} is stale: run `make crd`"
    assert set((chart / "dashboards").iterdir()) <= generate.files().keys()


def test_every_setting_is_in_the_docs(chart: Path) -> None:
    page = (chart.parents[1] / "docs" / "install.md").read_text()
    assert [name for name in schema(chart)["properties"]["settings"]["properties"] if f"`{name}`" not in page] == []


def test_what_artifact_hub_shows_is_true(chart: Path) -> None:
    told = yaml.safe_load((chart / "Chart.yaml").read_text())["annotations"]
    assert all(isinstance(value, str) for value in told.values()), "Helm takes text only"
    (crd,), (example,) = (yaml.safe_load(told[f"artifacthub.io/{name}"]) for name in ("crds", "crdsExamples"))
    names = custom_resource_definition()["spec"]["names"]
    assert (crd["kind"], crd["version"], crd["name"]) == (names["kind"], VERSION, f"{names['plural']}.{GROUP}")
    assert NemotronDeployment.parse(example).metadata.name == "tiny"
