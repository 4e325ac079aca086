"""The CustomResourceDefinition, generated from the models.

Nothing is written by hand twice: fields come from `resource` and `status`, rules from `rules`.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, TypeAdapter

from trimode_api.resource import GROUP, KIND, VERSION, Spec
from trimode_api.rules import RULES
from trimode_api.status import Status
from trimode_api.values import ResourceName

PLURAL = "nemotrondeployments"
LIST_KEYS = {"pools": "name", "tiers": "name", "resourceClaims": "name", "conditions": "type", "points": "point"}
SCALE = {
    "specReplicasPath": ".spec.replicas",
    "statusReplicasPath": ".status.replicas",
    "labelSelectorPath": ".status.selector",
}
SETS = {"modes", "blockLengths"}
COLUMNS = (
    ("Ready", "string", ".status.conditions[?(@.type=='Ready')].status", 0),
    ("Serving", "string", ".status.conditions[?(@.type=='Serving')].status", 0),
    ("Point", "string", ".status.decision.point", 0),
    ("Replicas", "string", ".status.replicaSummary", 0),
    ("SLO", "string", ".status.conditions[?(@.type=='SLOMet')].status", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Reason", "string", ".status.conditions[?(@.type=='Ready')].reason", 1),
    ("URL", "string", ".status.url", 1),
)
"""Of `kubectl get`: name, type, path, priority (1: with `-o wide` only)."""

Schema = dict[str, Any]
CRD_FILE = f"{PLURAL}.{GROUP}.yaml"


def custom_resource_definition() -> dict[str, Any]:
    """The CRD as a mapping, ready to be written as YAML."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["nd"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}, "scale": SCALE},
                    "additionalPrinterColumns": [
                        {"name": name, "type": kind, "jsonPath": path, **({"priority": wide} if wide else {})}
                        for name, kind, path, wide in COLUMNS
                    ],
                    "schema": {"openAPIV3Schema": _resource_schema()},
                }
            ],
        },
    }


def _resource_schema() -> Schema:
    spec = structural(Spec)
    for rule in RULES:
        if (validation := rule.validation()) is not None:
            place = spec
            for part in rule.scope:
                place = place["items"] if part == "*" else place["properties"][part]
            place.setdefault("x-kubernetes-validations", []).append(validation)
    return {
        "type": "object",
        "description": "A tri-mode language model behind one OpenAI-compatible endpoint.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object", "properties": {"name": TypeAdapter(ResourceName).json_schema()}},
            "spec": spec,
            "status": structural(Status),
        },
    }


def structural(model: type[BaseModel]) -> Schema:
    """The model's schema as Kubernetes wants it: no references, no nulls, no titles, a type everywhere."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    definitions = schema.pop("$defs", {})
    inlined: Schema = _inline(schema, definitions)
    return inlined


def _inline(node: Any, definitions: dict[str, Any]) -> Any:
    if "$ref" in node:
        target = definitions[node["$ref"].rpartition("/")[2]]
        return _inline({**target, **{k: v for k, v in node.items() if k != "$ref"}}, definitions)
    # A structural schema has no union with null; `null` is taken for a field that was left out.
    if "anyOf" in node:
        (some,) = [option for option in node["anyOf"] if option.get("type") != "null"]
        return _inline({**some, **{k: v for k, v in node.items() if k not in ("anyOf", "default")}}, definitions)
    out = {k: v for k, v in node.items() if k not in ("title", "additionalProperties", "properties", "items")}
    if out.get("default", 0) in (None, "", [], ()):  # old API servers take an empty text for a null
        del out["default"]
    if out.get("type") == "integer":
        out["format"] = "int64"
    if "x-kubernetes-int-or-string" in out:
        del out["type"]  # a structural schema has one type or this
    if "properties" in node:
        out["properties"] = {}
        for name, child in node["properties"].items():
            field = out["properties"][name] = _inline(child, definitions)
            # By its keys a server-side apply merges a list; without them one manager's list would replace another's.
            if name in LIST_KEYS and field.get("type") == "array":
                field |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [LIST_KEYS[name]]}
            elif name in SETS:
                field["x-kubernetes-list-type"] = "set"
            # API servers check a default by the rules before they fill in those within it: half a default was refused.
            if isinstance(field.get("default"), dict | list):
                field["default"] = completed(field["default"], field)
    if isinstance(values := node.get("additionalProperties"), dict):  # a mapping with keys of the user's own
        out["additionalProperties"] = _inline(values, definitions)
    if "items" in node:
        out["items"] = _inline(node["items"], definitions)
        if out["items"].get("type") == "string" and not {"enum", "maxLength"} & out["items"].keys():
            out["items"]["maxLength"] = 1024
    return out


def completed(value: Any, schema: Schema) -> Any:
    """`value` with the defaults of all fields inside filled in and nulls left out.

    The API server judges a default by the CEL rules around it before it fills in the fields inside: `default: {}`
    beside a rule that reads a field is refused with "no such key" (seen on 1.36; so since CEL came,
    kubernetes/kubernetes pull request 106051).
    """
    if isinstance(value, dict):
        fields = schema["properties"]
        defaults = {name: field["default"] for name, field in fields.items() if "default" in field}
        given = {name: completed(each, fields[name]) for name, each in value.items() if each is not None}
        return defaults | given
    return [completed(each, schema["items"]) for each in value] if isinstance(value, list) else value
