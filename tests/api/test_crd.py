"""The CRD is made from the models, complete and in Kubernetes' terms."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from trimode_api.crd import custom_resource_definition
from trimode_api.reference import markdown
from trimode_api.rule import Distinct
from trimode_api.rules import RULES

ROOT = Path(__file__).parents[2]


def schema() -> dict[str, Any]:
    version = custom_resource_definition()["spec"]["versions"][0]
    return dict(version["schema"]["openAPIV3Schema"])


def nodes(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    if "items" in node:
        yield from nodes(node["items"], f"{path}[]")


def test_the_file_in_the_tree_is_current() -> None:
    written = yaml.safe_load((ROOT / "crds" / "nemotrondeployments.trimode.dev.yaml").read_text())
    assert written == custom_resource_definition(), "run: trimode crd > crds/nemotrondeployments.trimode.dev.yaml"


def test_the_schema_is_structural() -> None:
    for path, node in nodes(schema()):
        assert ("type" in node) != ("x-kubernetes-int-or-string" in node), path
        assert not {"$ref", "$defs", "anyOf", "oneOf", "const", "title"} & node.keys(), path


def test_there_are_no_floats() -> None:
    assert [path for path, node in nodes(schema()) if node.get("type") == "number"] == []


def test_every_field_of_spec_and_status_is_described() -> None:
    bare = [path for path, node in nodes(schema()) if "description" not in node and not path.endswith("[]")]
    assert bare == [".apiVersion", ".kind", ".metadata", ".metadata.name"]


def test_every_rule_is_in_the_schema_with_its_message() -> None:
    spec = schema()["properties"]["spec"]
    found = [
        (check["rule"], check["message"])
        for path, node in nodes(spec)
        for check in node.get("x-kubernetes-validations", [])
        if "x-kubernetes-int-or-string" not in node
    ]
    checks = [check for rule in RULES if (check := rule.validation())]
    assert sorted(found) == sorted((check["rule"], check["message"]) for check in checks)
    assert len(found) >= 20


def test_lists_without_doubles_are_sets_or_maps_for_kubernetes() -> None:
    listed = {
        path.replace("[]", ".*").strip("."): node.get("x-kubernetes-list-map-keys", [None])
        for path, node in nodes(schema()["properties"]["spec"])
        if node.get("x-kubernetes-list-type") in ("set", "map")
    }
    assert listed == {".".join(map(str, rule.scope)): [rule.key] for rule in RULES if isinstance(rule, Distinct)}


def test_quantities_have_bounds_in_words() -> None:
    found = {path: node for path, node in nodes(schema()) if "x-kubernetes-int-or-string" in node}
    assert found.keys() == {".spec.pools[].resources.cpu", ".spec.pools[].resources.memory"}
    for node in found.values():
        (check,) = node["x-kubernetes-validations"]
        assert re.fullmatch(r"write \w+ from \w+ to \w+, such as .*", check["message"])


def test_field_paths_of_rules_exist() -> None:
    for path, node in nodes(schema()):
        for check in node.get("x-kubernetes-validations", []):
            at = node
            for part in filter(None, check.get("fieldPath", "").split(".")):
                assert part in at["properties"], (path, check)
                at = at["properties"][part]


def test_lists_that_rules_walk_are_bounded() -> None:
    """CEL's cost estimate needs a bound on every list and string."""
    spec = schema()["properties"]["spec"]
    unbounded = [path for path, node in nodes(spec) if node.get("type") == "array" and "maxItems" not in node]
    assert unbounded == []


def lacking(default: Any, node: dict[str, Any], path: str) -> Iterator[str]:
    """Paths of the fields with a default of their own that `default`, a value for `node`, leaves out."""
    if isinstance(default, list):
        for item in default:
            yield from lacking(item, node["items"], f"{path}[]")
    elif isinstance(default, dict):
        for name, field in node["properties"].items():
            if name in default:
                yield from lacking(default[name], field, f"{path}.{name}")
            elif "default" in field:
                yield f"{path}.{name}"


def test_every_default_is_complete() -> None:
    """The API server judges a default by CEL rules before it fills in the fields inside, and refuses the whole CRD."""
    spec = schema()["properties"]["spec"]
    incomplete = [name for path, node in nodes(spec) for name in lacking(node.get("default"), node, path)]
    assert incomplete == []


def test_an_incomplete_default_would_be_found() -> None:
    bounds = {"min": {"type": "integer", "default": 1}, "max": {"type": "integer", "default": 1}}
    replicas = {"type": "object", "properties": bounds}
    assert list(lacking({}, replicas, "replicas")) == ["replicas.min", "replicas.max"]
    assert list(lacking([{"min": 2}], {"type": "array", "items": replicas}, "pools")) == ["pools[].max"]


def test_names_and_columns_are_pinned() -> None:
    crd = custom_resource_definition()["spec"]
    assert crd["names"]["shortNames"] == ["nd"]
    assert "categories" not in crd["names"], "`kubectl get all` is for what Kubernetes itself runs"
    columns = [(c["name"], c.get("priority", 0)) for c in crd["versions"][0]["additionalPrinterColumns"]]
    assert columns == [
        ("Ready", 0), ("Serving", 0), ("Point", 0), ("Replicas", 0), ("SLO", 0), ("Age", 0), ("Reason", 1), ("URL", 1),
    ]  # fmt: skip


def test_the_reference_page_is_current() -> None:
    page = (ROOT / "docs" / "resource.md").read_text()
    assert page == markdown(), "run: python -m trimode_api.reference > docs/resource.md"
