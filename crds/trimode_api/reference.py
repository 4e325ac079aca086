"""The resource field by field, as Markdown, from the same schema as the CRD.

Belongs here: the rendering only; words come from the models' descriptions and the rules' messages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trimode_api.crd import custom_resource_definition

_HEAD = """\
# The resource, field by field

`NemotronDeployment` (`trimode.dev/v1alpha1`, short name `nd`). This page is generated from the models by
`python -m trimode_api.reference`; unknown fields are refused, and all problems are reported together.
"""


def markdown() -> str:
    """The whole page."""
    schema = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    parts = [_HEAD]
    for section in ("spec", "status"):
        rows = list(_rows(schema["properties"][section], section))
        parts.append(f"## {section}\n\n| field | type | default | meaning |\n|---|---|---|---|\n" + "\n".join(rows))
    rules = [f"- `{path}` {message}." for path, message in _rules(schema["properties"]["spec"], "spec")]
    parts.append("## Rules over several fields\n\n" + "\n".join(rules))
    return "\n".join(part + "\n" for part in parts)


def _rows(node: dict[str, Any], path: str) -> Iterator[str]:
    required = node.get("required", [])
    for name, child in node.get("properties", {}).items():
        here = f"{path}.{name}"
        inner = child["items"] if child["type"] == "array" else child
        default = "required" if name in required else _default(child)
        yield f"| `{here}` | {_type(child)} | {default} | {child['description']} |"
        yield from _rows(inner, here + ("[]" if child["type"] == "array" else ""))


def _type(node: dict[str, Any]) -> str:
    if node["type"] == "array":
        return f"list of {_type(node['items'])}"
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    low, high = node.get("minimum"), node.get("maximum")
    if low is not None and high is not None:
        return f"{node['type']}, {low} to {high}"
    return f"{node['type']}, from {low}" if low is not None else str(node["type"])


def _default(node: dict[str, Any]) -> str:
    value = node.get("default")
    if value is None or isinstance(value, dict):
        return ""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return ", ".join(f"`{item['name']}`" for item in value)
    return f"`{value}`".replace("False", "false")


def _rules(node: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for check in node.get("x-kubernetes-validations", []):
        yield path + check["fieldPath"], check["message"]
    for name, child in node.get("properties", {}).items():
        yield from _rules(child, f"{path}.{name}")
    if "items" in node:
        yield from _rules(node["items"], f"{path}[]")


if __name__ == "__main__":
    import sys

    sys.stdout.write(markdown())
