"""The chart's values: what is allowed, and that what is not is refused with its path."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from trimode_e2e.helm import Helm, HelmError

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
]


@pytest.mark.parametrize(("values", "words"), WRONG, ids=[json.dumps(values) for values, _ in WRONG])
def test_wrong_values_are_refused_by_path(helm: Helm, chart: Path, values: dict[str, Any], words: str) -> None:
    with pytest.raises(HelmError) as refused:
        helm.render(chart, values)
    assert words in str(refused.value)


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
    assert known.keys() - values.keys() == {"global"}
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
