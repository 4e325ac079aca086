"""The resource field by field, as Markdown, from the same schema as the CRD."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trimode_api.crd import custom_resource_definition
from trimode_api.rules import RULES

_HEAD = """\
# The resource, field by field

`NemotronDeployment` (`trimode.dev/v1alpha1`, short name `nd`). This page is generated from the models by
`python -m trimode_api.reference`; unknown fields are refused, and all problems are reported together.

A cluster's API server and `trimode up` accept the same resources and blame the same fields:

- **Names of fields** are camelCase: `max_context_tokens` is an unknown field.
- **`null`** is the same as leaving the field out: its default is filled in, and a required field is missed.
- **Whole numbers**: `1024.0` is read as 1024; `"1024"` and `10.5` are refused.
- **Quantities** follow Kubernetes' grammar: cores such as `8`, `500m` or `"0.5"`; bytes such as `64Gi` (powers of
  1024), `64G` (powers of 1000), `1.5Gi`, `500M`, `1e9` or a plain number. A number with a fraction needs quotes: the
  schema of a custom resource can allow whole numbers and text, but no fractions, so both refuse `cpu: 0.5`. `64GB` is
  no quantity.
- **`metadata.name`** is a DNS label that starts with a letter, without dots, since Services are named after it. Further
  fields of `metadata` are Kubernetes' own and not checked by `trimode up`, but for labels and annotations, which map
  text to text.
- **Rules that compare a pool with the rest of the spec** are reported by the API server at `spec.pools`, with the
  pool's field at the beginning of the message, since it cannot blame one item of a list there.
"""


def markdown() -> str:
    """The whole page."""
    schema = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    parts = [_HEAD]
    for section in ("spec", "status"):
        rows = list(_rows(schema["properties"][section], section))
        parts.append(f"## {section}\n\n| field | type | default | meaning |\n|---|---|---|---|\n" + "\n".join(rows))
    blamed = ["".join("[]" if part == "*" else f".{part}" for part in rule.blamed) for rule in RULES]
    rules = [f"- `spec{path}` {rule.message}." for path, rule in zip(blamed, RULES, strict=True)]
    parts.append("## Rules over several fields\n\n" + "\n".join(rules))
    return "\n".join(part + "\n" for part in parts)


def _rows(node: dict[str, Any], path: str) -> Iterator[str]:
    required = node.get("required", [])
    for name, child in node.get("properties", {}).items():
        here = f"{path}.{name}"
        listed = child.get("type") == "array"
        inner = child["items"] if listed else child
        value = child.get("default")
        if name in required:
            default = "required"
        elif value is None or isinstance(value, dict):
            default = ""
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            default = ", ".join(f"`{item['name']}`" for item in value)
        else:
            default = f"`{value}`".replace("False", "false")
        yield f"| `{here}` | {_type(child)} | {default} | {child['description']} |"
        yield from _rows(inner, here + ("[]" if listed else ""))


def _type(node: dict[str, Any]) -> str:
    if "x-kubernetes-int-or-string" in node:
        return "quantity"
    if node["type"] == "array":
        return f"list of {_type(node['items'])}"
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    low, high = node.get("minimum"), node.get("maximum")
    if low is not None and high is not None:
        return f"{node['type']}, {low} to {high}"
    return f"{node['type']}, from {low}" if low is not None else str(node["type"])


if __name__ == "__main__":
    import sys

    sys.stdout.write(markdown())
