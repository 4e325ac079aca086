"""The models and the CRD's structural schema judge every resource alike, offline; tests/cluster asks a real API server.

The judge below is the schema's alone: nulls dropped, types, bounds, patterns, enums, unknown and required fields, lists
without doubles, and the bounds of quantities. CEL rules over several fields are left to the server.
"""

from __future__ import annotations

import copy
import math
import re
import runpy
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from trimode_api.crd import Schema, structural
from trimode_api.errors import problems_of
from trimode_api.resource import broken, defaulted
from trimode_api.rule import Distinct
from trimode_api.rules import RULES
from trimode_api.spec import Spec

CASES = runpy.run_path(str(Path(__file__).with_name("resource_cases.py")))
SPECS = [CASES["changed"](path, value).get("spec") for path, value, *_ in CASES["WRONG"]]
SPECS += [CASES["patched"](changes).get("spec") for changes, *_ in CASES["CONTRADICTIONS"]]
SPECS += [CASES["patched"](changes).get("spec") for changes in CASES["GOOD"]]
SCHEMA = structural(Spec)


# The judge


def judged(spec: Any, schema: Schema = SCHEMA) -> set[str]:
    """Paths that the schema blames."""
    return innermost(set(_blamed(_without_nulls(spec, schema), schema)))


def innermost(paths: set[str]) -> set[str]:
    """pydantic does not count the items of a list in which one is wrong."""
    return {path for path in paths if not any(re.match(rf"{re.escape(path)}[.\[]", other) for other in paths)}


def _without_nulls(value: Any, schema: Schema) -> Any:
    """The API server drops nulls of known fields before it looks at anything else."""
    if isinstance(value, dict):
        fields = schema.get("properties", {})
        kept = {name: each for name, each in value.items() if each is not None or name not in fields}
        return {name: _without_nulls(each, fields.get(name, {})) for name, each in kept.items()}
    return [_without_nulls(each, schema.get("items", {})) for each in value] if isinstance(value, list) else value


def _pattern(_: Any, pattern: str, value: Any, __: Any) -> Iterator[jsonschema.ValidationError]:
    """As RE2 has it: ASCII classes, and an end that is the end."""
    if isinstance(value, str) and not re.search(re.sub(r"\$$", r"\\Z", pattern), value, re.ASCII):
        yield jsonschema.ValidationError(f"{value!r} does not match")


_Validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"pattern": _pattern})


def _strict(node: Schema) -> Schema:
    """JSON schema of a structural one."""
    out = {**node, "type": ["integer", "string"]} if "x-kubernetes-int-or-string" in node else dict(node)
    if "properties" in node:
        out |= {
            "properties": {name: _strict(each) for name, each in node["properties"].items()},
            "additionalProperties": False,
        }
    return out | {"items": _strict(node["items"])} if "items" in node else out


def _blamed(spec: Any, schema: Schema) -> Iterator[str]:
    for error in _Validator(_strict(schema)).iter_errors(spec):
        path = "spec" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
        if error.validator == "required":
            yield from (f"{path}.{name}" for name in error.validator_value if name not in error.instance)
        elif error.validator == "additionalProperties":
            yield from (f"{path}.{name}" for name in error.instance if name not in error.schema["properties"])
        else:
            yield path
    yield from _by_extensions(spec, schema, "spec")


def _by_extensions(value: Any, schema: Schema, path: str) -> Iterator[str]:
    """What Kubernetes' own words in the schema say of a value that is otherwise well-formed."""
    if "x-kubernetes-int-or-string" in schema and isinstance(value, str | int | float):
        low, high = map(_amount, re.findall(r"quantity\('(\w+)'\)", schema["x-kubernetes-validations"][0]["rule"]))
        readable = not isinstance(value, str) or re.search(schema["pattern"], value, re.ASCII)
        if readable and not low <= (_amount(value) if isinstance(value, str) else Decimal(value)) <= high:
            yield path
    if isinstance(value, dict):
        for name, field in schema.get("properties", {}).items():
            if name in value:
                yield from _by_extensions(value[name], field, f"{path}.{name}")
    if isinstance(value, list) and "items" in schema:
        keys = [_key(item, schema) for item in value]
        for index, item in enumerate(value):
            yield from _by_extensions(item, schema["items"], f"{path}[{index}]")
            if keys[index] is not None and keys[index] in keys[:index]:
                yield f"{path}[{index}]"


def _key(item: Any, schema: Schema) -> Any:
    """What tells an item from the others; None where nothing needs to."""
    if schema.get("x-kubernetes-list-type") == "map":
        (key,) = schema["x-kubernetes-list-map-keys"]
        return item.get(key) if isinstance(item, dict) else None
    return item if schema.get("x-kubernetes-list-type") == "set" else None


_SCALES = dict(zip(("n", "u", "m", "", *"kMGTPE"), (Decimal(1000) ** n for n in range(-3, 7)), strict=True))
_SCALES |= {f"{letter}i": Decimal(1024) ** n for n, letter in enumerate("KMGTPE", start=1)}


def _amount(text: str) -> Decimal:
    found = re.fullmatch(r"([+\d.]+(?:[eE][+-]?\d+)?)(\D*)", text, re.ASCII)
    assert found is not None, text
    return Decimal(math.ceil(Decimal(found[1]) * _SCALES[found[2]] * 10**9)) / 10**9


def modelled(spec: Any) -> set[str]:
    """Paths that the models blame, rules over several fields left out but for lists without doubles."""
    paths: set[str] = set()
    try:
        Spec.model_validate(spec)
    except ValidationError as exc:
        paths = {problem.path for problem in problems_of(exc, "spec")}
    doubles = [rule for rule in RULES if isinstance(rule, Distinct)]
    for path, *_ in broken(defaulted(Spec, spec), doubles):
        paths.add("spec" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path))
    return innermost(paths)


# Resources near the edges

ODD = st.sampled_from(
    [None, True, False, 0, -1, 1, 0.5, 2.0, 10**19, 1e300, "", "1", "AR", "ä", "x" * 600, [], {}, [None]]
)
SIGN = st.sampled_from(["\n", " ", ".", "-", "/", "A", "é", "٣", "0", "_", "1"])
NAMES = ["max_context_tokens", "block_lengths", "x", "Name", "served_name"]
QUANTITIES = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "+", "-", "0"]),
    st.sampled_from(["0", "1", "8", "10", "64", "0.5", ".5", "1.", "63.99", "2048", "2049", "67108864", "9" * 19, "٣"]),
    st.sampled_from(
        ["", "m", "u", "k", "K", "Ki", "Mi", "Gi", "G", "T", "Ti", "E", "e3", "e-2", "E+13", "e100", "i", " "]
    ),
)


def near(node: Schema) -> st.SearchStrategy[Any]:
    """Values for a schema: mostly good, some over an edge, few of another kind."""
    kinds = (*[_good] * 27, *[_over] * 2, lambda _: ODD)
    return st.sampled_from(kinds).flatmap(lambda kind: kind(node))


def _good(node: Schema) -> st.SearchStrategy[Any]:
    if "x-kubernetes-int-or-string" in node:
        return st.sampled_from([1, 8, "500m", "2e3"] if node["default"] == "1" else [2**26, 2.0**26, "64Ti", ".5G"])
    if "enum" in node:
        return st.sampled_from([*node["enum"], *(float(each) for each in node["enum"] if isinstance(each, int))])
    if node["type"] == "integer":
        return st.sampled_from([node["minimum"], node["maximum"], float(node["minimum"])])
    if node["type"] == "string":
        most = node["maxLength"]
        matching = st.from_regex(re.compile(node.get("pattern", ".+"), re.ASCII), fullmatch=True)
        return matching if "pattern" in node else st.sampled_from(["a", "a" * most, "ä" * most])
    if node["type"] == "array":
        return st.lists(near(node["items"]), min_size=node.get("minItems", 0), max_size=3)
    return st.booleans() if node["type"] == "boolean" else _mapping(node)


def _over(node: Schema) -> st.SearchStrategy[Any]:
    if "x-kubernetes-int-or-string" in node:
        return QUANTITIES | st.sampled_from([2048, 2049, 2**26 - 1, 2**46, 2**46 + 1])
    if node.get("type") == "integer" and "minimum" in node:
        low, high = node["minimum"], node["maximum"]
        return st.sampled_from([high + 1, low - 1, low + 0.5, str(low)])
    if node.get("type") == "string" and "maxLength" in node:
        spoilt = st.builds(lambda text, at, sign: text[:at] + sign + text[at:], _good(node), st.integers(0, 9), SIGN)
        return spoilt | st.sampled_from(["", "a" * (node["maxLength"] + 1)])
    if node.get("type") == "array":
        return _good(node["items"]).map(lambda item: [copy.deepcopy(item) for _ in range(node["maxItems"] + 1)])
    if node.get("type") == "object" and "properties" not in node:
        values = [{}, {"a": "b"}] if "additionalProperties" not in node else [{"a": "b" * 64}, {"a": 1}, {"a": []}]
        return st.sampled_from(values) | st.sampled_from([[], "a", 1])
    if node.get("type") == "object":
        fields = {name: near(each) for name, each in node["properties"].items()}
        more = st.builds(lambda some, name: {**some, name: None}, _mapping(node), st.sampled_from(NAMES))
        return more | st.fixed_dictionaries({}, optional=fields)
    return ODD


def _mapping(node: Schema) -> st.SearchStrategy[dict[str, Any]]:
    if "properties" not in node:  # keys of the user's own
        return st.sampled_from([{}, {"a": "b"}, {"a": "b" * 63, "c/d": ""}])
    fields = {name: near(each) for name, each in node["properties"].items()}
    required = {name: fields.pop(name) for name in node.get("required", ())}
    return st.fixed_dictionaries(required, optional=fields)


@pytest.mark.parametrize("spec", SPECS)
def test_the_table_is_judged_alike(spec: Any) -> None:
    assert judged(spec) == modelled(spec)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_mapping(SCHEMA))
def test_resources_near_the_edges_are_judged_alike(spec: Any) -> None:
    assert judged(spec) == modelled(spec)


@pytest.mark.parametrize(
    ("where", "change"),
    [
        ("engine.maxContextTokens", {"maximum": 1048577}),
        ("engine.maxContextTokens", {"type": "string"}),
        ("engine.args.*", {"maxLength": 1025}),
        ("model.uri", {"pattern": ".*"}),
        ("model.servedName", {"minLength": 0}),
        ("pools.*.modes.*", {"enum": ["AR", "Diffusion"]}),
        ("pools.*.resources.memory", {"x-kubernetes-validations": [{"rule": "quantity('1') quantity('64Ti')"}]}),
        ("pools.*.modes", {"x-kubernetes-list-type": "atomic"}),
        ("tiers", {"maxItems": 17}),
        ("router.auth", {"required": []}),
        ("router.tls", {"properties": {"secretName": {"type": "string"}, "key": {"type": "string"}}}),
    ],
)
def test_a_schema_that_drifts_is_found_by_the_table(where: str, change: Schema) -> None:
    drifted = node = copy.deepcopy(SCHEMA)
    for part in where.split("."):
        node = node["items"] if part == "*" else node["properties"][part]
    node.update(change)
    assert any(judged(spec, drifted) != modelled(spec) for spec in SPECS)
