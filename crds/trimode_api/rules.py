"""Rules over several fields of the spec, written once for both worlds.

Belongs here: one `Rule` per contradiction a user can write. `cel` goes into the CRD, `holds` runs here, and both
carry the same message. A predicate gets the raw mapping with defaults filled in; where the mapping is malformed it
may raise, and the rule is passed over, because the schema's own findings already say what is wrong there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined, to_jsonable_python

from trimode_api.modes import LONGEST_QUADRATIC

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """`scope`: where the rule sits in the spec, `*` for each item of a list. `field`: what it blames, from there."""

    scope: Path
    field: Path
    message: str
    cel: str
    holds: Callable[[Any], bool]


def _unique(items: list[Any]) -> bool:
    return len(set(items)) == len(items)


def _modes(spec: Any) -> set[str]:
    return {mode for pool in spec["pools"] for mode in pool["modes"]}


_SPECULATING = ("SelfSpeculation", "QuadraticSpeculation")


def _manual(switching: Any) -> bool:
    return bool(switching["policy"] == "Manual")


def _sharing(spec: Any) -> list[Any]:
    """The pools that rebalancing moves replicas between; none where it is off."""
    pools = spec["pools"] if spec.get("rebalancing") is not None else ()
    return [pool for pool in pools if "Diffusion" not in pool["modes"]]


def _sum(pools: list[Any], bound: str) -> int:
    return sum(pool["replicas"][bound] for pool in pools)


_SHARING = "self.pools.filter(p, !('Diffusion' in p.modes))"

RULES: tuple[Rule, ...] = (
    Rule(
        ("pools", "*", "replicas"),
        ("min",),
        "must not be above max",
        "self.min <= self.max",
        lambda r: r["min"] <= r["max"],
    ),
    Rule(
        ("pools", "*"),
        ("modes",),
        "must not name a mode twice",
        "self.modes.all(m, self.modes.exists_one(n, n == m))",
        lambda p: _unique(p["modes"]),
    ),
    Rule(
        ("pools", "*"),
        ("blockLengths",),
        "must not name a block length twice",
        "self.blockLengths.all(b, self.blockLengths.exists_one(c, c == b))",
        lambda p: _unique(p["blockLengths"]),
    ),
    Rule(
        ("pools", "*"),
        ("blockLengths",),
        "must be 32 at most with QuadraticSpeculation, whose forward grows with their square",
        "!('QuadraticSpeculation' in self.modes) || self.blockLengths.all(b, b <= 32)",
        lambda p: "QuadraticSpeculation" not in p["modes"] or all(b <= LONGEST_QUADRATIC for b in p["blockLengths"]),
    ),
    Rule(
        ("pools", "*"),
        ("draftThreshold",),
        "is for pools with SelfSpeculation in their modes; remove it or add the mode",
        "!has(self.draftThreshold) || 'SelfSpeculation' in self.modes",
        lambda p: p.get("draftThreshold") is None or "SelfSpeculation" in p["modes"],
    ),
    Rule(
        (),
        ("pools",),
        "names must be unique",
        "self.pools.all(p, self.pools.exists_one(q, q.name == p.name))",
        lambda s: _unique([p["name"] for p in s["pools"]]),
    ),
    Rule(
        (),
        ("tiers",),
        "names must be unique",
        "self.tiers.all(t, self.tiers.exists_one(u, u.name == t.name))",
        lambda s: _unique([t["name"] for t in s["tiers"]]),
    ),
    Rule(
        (),
        ("switching", "fallbackMode"),
        "must be in some pool's modes",
        "self.pools.exists(p, self.switching.fallbackMode in p.modes)",
        lambda s: s["switching"]["fallbackMode"] in _modes(s),
    ),
    Rule(
        (),
        ("diffusion",),
        "is required where a pool lists Diffusion in its modes",
        "!self.pools.exists(p, 'Diffusion' in p.modes) || has(self.diffusion)",
        lambda s: "Diffusion" not in _modes(s) or s.get("diffusion") is not None,
    ),
    Rule(
        (),
        ("pools",),
        "SGLang pools take exactly one mode each; split the modes into pools",
        "self.engine.type != 'SGLang' || self.pools.all(p, size(p.modes) == 1)",
        lambda s: s["engine"]["type"] != "SGLang" or all(len(p["modes"]) == 1 for p in s["pools"]),
    ),
    Rule(
        (),
        ("pools",),
        "a replica of the Native engine runs on one GPU; ask for 0 or 1 and for more replicas instead",
        "self.engine.type != 'Native' || self.pools.all(p, p.resources.gpus <= 1)",
        lambda s: s["engine"]["type"] != "Native" or all(p["resources"]["gpus"] <= 1 for p in s["pools"]),
    ),
    Rule(
        (),
        ("pools",),
        "SGLang has neither QuadraticSpeculation nor draftThreshold; remove them or set type: Native",
        "self.engine.type != 'SGLang' || !self.pools.exists(p, 'QuadraticSpeculation' in p.modes || "
        "has(p.draftThreshold))",
        lambda s: (
            s["engine"]["type"] != "SGLang"
            or not any("QuadraticSpeculation" in p["modes"] or p.get("draftThreshold") is not None for p in s["pools"])
        ),
    ),
    Rule(
        (),
        ("pools",),
        "at least one pool must allow a lossless mode: AR or SelfSpeculation",
        "self.pools.exists(p, 'AR' in p.modes || 'SelfSpeculation' in p.modes || 'QuadraticSpeculation' in p.modes)",
        lambda s: bool(_modes(s) - {"Diffusion"}),
    ),
    Rule(
        ("engine",),
        ("image",),
        "is for SGLang only; remove it or set type: SGLang",
        "self.type == 'SGLang' || !has(self.image)",
        lambda e: e["type"] == "SGLang" or e.get("image") is None,
    ),
    Rule(
        ("engine",),
        ("args",),
        "is for SGLang only; remove it or set type: SGLang",
        "self.type == 'SGLang' || !has(self.args)",
        lambda e: e["type"] == "SGLang" or e.get("args") is None,
    ),
    Rule(
        ("engine",),
        ("image",),
        "is required with type: SGLang",
        "self.type != 'SGLang' || has(self.image)",
        lambda e: e["type"] != "SGLang" or e.get("image") is not None,
    ),
    Rule(
        ("switching",),
        ("mode",),
        "is required with policy: Manual; write AR, SelfSpeculation or Diffusion",
        "self.policy != 'Manual' || has(self.mode)",
        lambda w: not _manual(w) or w.get("mode") is not None,
    ),
    Rule(
        ("switching",),
        ("mode",),
        "is for policy: Manual only; remove it or set policy: Manual",
        "self.policy == 'Manual' || !has(self.mode)",
        lambda w: _manual(w) or w.get("mode") is None,
    ),
    Rule(
        ("switching",),
        ("blockLength",),
        "is for policy: Manual with mode: SelfSpeculation or QuadraticSpeculation only",
        "!has(self.blockLength) || (self.policy == 'Manual' && has(self.mode) && "
        "self.mode in ['SelfSpeculation', 'QuadraticSpeculation'])",
        lambda w: w.get("blockLength") is None or (_manual(w) and w.get("mode") in _SPECULATING),
    ),
    Rule(
        (),
        ("switching", "mode"),
        "must be in some pool's modes",
        "!has(self.switching.mode) || self.pools.exists(p, self.switching.mode in p.modes)",
        lambda s: s["switching"].get("mode") is None or s["switching"]["mode"] in _modes(s),
    ),
    Rule(
        (),
        ("switching", "blockLength"),
        "must be in some pool's blockLengths",
        "!has(self.switching.blockLength) || self.pools.exists(p, self.switching.blockLength in p.blockLengths)",
        lambda s: (
            s["switching"].get("blockLength") is None
            or any(s["switching"]["blockLength"] in p["blockLengths"] for p in s["pools"])
        ),
    ),
    Rule(
        (),
        ("switching", "mode"),
        "Diffusion is lossy and cannot be the manual mode; requests ask for it by quality",
        "!has(self.switching.mode) || self.switching.mode != 'Diffusion'",
        lambda s: s["switching"].get("mode") != "Diffusion",
    ),
    Rule(
        (),
        ("switching", "fallbackMode"),
        "Diffusion is lossy and cannot be the fallback",
        "self.switching.fallbackMode != 'Diffusion'",
        lambda s: s["switching"]["fallbackMode"] != "Diffusion",
    ),
    Rule(
        (),
        ("rebalancing",),
        "needs pools of one mode each, some with AR and some with SelfSpeculation; several modes change in the engine",
        "!has(self.rebalancing) || (self.pools.all(p, size(p.modes) == 1) && self.pools.exists(p, 'AR' in p.modes) && "
        "self.pools.exists(p, 'SelfSpeculation' in p.modes))",
        lambda s: (
            s.get("rebalancing") is None
            or (all(len(p["modes"]) == 1 for p in s["pools"]) and {"AR", "SelfSpeculation"} <= _modes(s))
        ),
    ),
    Rule(
        (),
        ("rebalancing", "totalReplicas"),
        "must be between the sums of the pools' replicas.min and replicas.max, pools with Diffusion left out",
        f"!has(self.rebalancing) || ({_SHARING}.map(p, p.replicas.min).sum() <= self.rebalancing.totalReplicas && "
        f"self.rebalancing.totalReplicas <= {_SHARING}.map(p, p.replicas.max).sum())",
        lambda s: (
            s.get("rebalancing") is None
            or _sum(_sharing(s), "min") <= s["rebalancing"]["totalReplicas"] <= _sum(_sharing(s), "max")
        ),
    ),
    Rule(
        (),
        ("pools",),
        "replicas.min must be at least 1 in pools that share replicas by rebalancing",
        f"!has(self.rebalancing) || {_SHARING}.all(p, p.replicas.min >= 1)",
        lambda s: all(p["replicas"]["min"] >= 1 for p in _sharing(s)),
    ),
    Rule(
        (),
        ("pools",),
        "resources.gpus must be the same in pools that share replicas by rebalancing",
        f"!has(self.rebalancing) || {_SHARING}.all(p, {_SHARING}.all(q, p.resources.gpus == q.resources.gpus))",
        lambda s: len({p["resources"]["gpus"] for p in _sharing(s)}) <= 1,
    ),
    Rule(
        ("staleness",),
        ("staleAfterSeconds",),
        "must be below deadAfterSeconds",
        "self.staleAfterSeconds < self.deadAfterSeconds",
        lambda s: s["staleAfterSeconds"] < s["deadAfterSeconds"],
    ),
)


def broken(spec: Any) -> Iterator[tuple[Path, str, Any]]:
    """(path from the spec, message, value) of each rule that the raw spec (defaults filled in) does not keep."""
    for rule in RULES:
        for path, scope in _scopes(spec, rule.scope):
            try:
                kept = rule.holds(scope)
            except (TypeError, KeyError, AttributeError, ValueError):
                continue  # malformed there: the schema's own findings say so
            if not kept:
                yield (*path, *rule.field), rule.message, _at(scope, rule.field)


def _scopes(value: Any, scope: Path, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if not scope:
        yield path, value
    elif scope[0] == "*":
        for index, item in enumerate(value if isinstance(value, (list, tuple)) else ()):
            yield from _scopes(item, scope[1:], (*path, index))
    elif isinstance(value, dict) and scope[0] in value:
        yield from _scopes(value[scope[0]], scope[1:], (*path, scope[0]))


def _at(value: Any, path: Path) -> Any:
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def defaulted(model: type[BaseModel], raw: Any) -> Any:
    """`raw` with the model's defaults filled in where fields are missing, as the API server would."""
    if not isinstance(raw, dict):
        return raw
    filled = dict(raw)
    for name, field in model.model_fields.items():
        key = field.alias or name
        if key not in filled and name in filled:
            key = name
        if key not in filled:
            if field.default not in (PydanticUndefined, None):
                filled[key] = to_jsonable_python(field.default, by_alias=True, exclude_none=True)
        elif (inner := _model_in(field.annotation)) is not None:
            value = filled[key]
            filled[key] = [defaulted(inner, v) for v in value] if isinstance(value, list) else defaulted(inner, value)
    return filled


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, alone, optional or in a tuple."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (tuple, UnionType):
        return next((m for a in get_args(annotation) if (m := _model_in(a)) is not None), None)
    return None
