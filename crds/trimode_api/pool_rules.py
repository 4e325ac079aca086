"""Rules over pools and their engine."""

from __future__ import annotations

from typing import Any

from trimode_api.modes import LONGEST_QUADRATIC, Mode
from trimode_api.rule import AnyRule, Distinct, PoolRule, Rule, Words, modes_of

LOSSLESS = tuple(mode.value for mode in Mode if mode.lossless)
_DIFFUSION = "is required: spec.pools[%d] lists Diffusion in its modes"


def _sglang(spec: Any) -> bool:
    return bool(spec["engine"]["type"] == "SGLang")


POOL_RULES: tuple[AnyRule, ...] = (
    Rule(
        ("pools", "*", "replicas"),
        ("min",),
        "must not be above max",
        "self.min <= self.max",
        lambda r: r["min"] <= r["max"],
    ),
    Distinct(("pools",), "name"),
    Rule(
        (),
        ("replicas",),
        "is for resources with one pool; several are sized each by its own replicas.min and replicas.max",
        "!has(self.replicas) || size(self.pools) == 1",
        lambda s: s.get("replicas") is None or len(s["pools"]) == 1,
    ),
    Distinct(("pools", "*", "modes")),
    Distinct(("pools", "*", "blockLengths")),
    Distinct(("pools", "*", "pod", "resourceClaims"), "name"),
    Rule(
        ("pools", "*", "pod", "resourceClaims", "*"),
        ("resourceClaimName",),
        "is needed where there is no resourceClaimTemplateName, and there only",
        "has(self.resourceClaimName) != has(self.resourceClaimTemplateName)",
        lambda c: (c.get("resourceClaimName") is None) != (c.get("resourceClaimTemplateName") is None),
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
        ("diffusion",),
        "is required where a pool lists Diffusion in its modes",
        "!self.pools.exists(p, 'Diffusion' in p.modes) || has(self.diffusion)",
        lambda s: "Diffusion" not in modes_of(s) or s.get("diffusion") is not None,
        Words(
            f"'{_DIFFUSION}'.format([self.pools.map(p, 'Diffusion' in p.modes).indexOf(true)])",
            lambda s: _DIFFUSION % ["Diffusion" in pool["modes"] for pool in s["pools"]].index(True),
        ),
    ),
    PoolRule(
        ("modes",),
        "an SGLang pool takes exactly one mode; split the modes into pools",
        "self.engine.type != 'SGLang' || size(p.modes) == 1",
        lambda s, p: not _sglang(s) or len(p["modes"]) == 1,
    ),
    PoolRule(
        ("modes",),
        "SGLang has no QuadraticSpeculation; remove it or set engine.type: Native",
        "self.engine.type != 'SGLang' || !('QuadraticSpeculation' in p.modes)",
        lambda s, p: not _sglang(s) or "QuadraticSpeculation" not in p["modes"],
    ),
    PoolRule(
        ("draftThreshold",),
        "SGLang drafts in one forward; remove it or set engine.type: Native",
        "self.engine.type != 'SGLang' || !has(p.draftThreshold)",
        lambda s, p: not _sglang(s) or p.get("draftThreshold") is None,
    ),
    PoolRule(
        ("resources", "gpus"),
        "a replica of the Native engine runs on one GPU; ask for 0 or 1 and for more replicas instead",
        "self.engine.type != 'Native' || p.resources.gpus <= 1",
        lambda s, p: s["engine"]["type"] != "Native" or p["resources"]["gpus"] <= 1,
    ),
    Rule(
        (),
        ("pools",),
        f"at least one pool must allow a lossless mode: {', '.join(LOSSLESS)}",
        f"self.pools.exists(p, p.modes.exists(m, m in {list(LOSSLESS)}))",
        lambda s: bool(modes_of(s) - {"Diffusion"}),
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
)


def _on(spec: Any) -> bool:
    return spec.get("rebalancing") is not None


def _shares(spec: Any, pool: Any) -> bool:
    """Whether rebalancing moves replicas to and from the pool."""
    return _on(spec) and "Diffusion" not in pool["modes"]


def _sums(spec: Any) -> tuple[int, int]:
    """Fewest and most replicas of the pools that share them."""
    pools = [pool["replicas"] for pool in spec["pools"] if _shares(spec, pool)]
    return sum(replicas["min"] for replicas in pools), sum(replicas["max"] for replicas in pools)


_TOTAL = "must be from %d to %d, the sums of replicas.min and of replicas.max of the pools without Diffusion"


_SHARING = "self.pools.filter(q, !('Diffusion' in q.modes))"
_LOW, _HIGH = (f"{_SHARING}.map(q, q.replicas.{bound}).sum()" for bound in ("min", "max"))

SHARING_RULES: tuple[Rule | PoolRule, ...] = (
    PoolRule(
        ("modes",),
        "with rebalancing a pool takes exactly one mode; several modes change in the engine",
        "!has(self.rebalancing) || size(p.modes) == 1",
        lambda s, p: not _on(s) or len(p["modes"]) == 1,
    ),
    Rule(
        (),
        ("rebalancing",),
        "needs a pool with AR and a pool with SelfSpeculation",
        "!has(self.rebalancing) || (self.pools.exists(p, 'AR' in p.modes) && "
        "self.pools.exists(p, 'SelfSpeculation' in p.modes))",
        lambda s: not _on(s) or {"AR", "SelfSpeculation"} <= modes_of(s),
    ),
    Rule(
        (),
        ("rebalancing", "totalReplicas"),
        "must be between the sums of the pools' replicas.min and replicas.max, pools with Diffusion left out",
        f"!has(self.rebalancing) || ({_LOW} <= self.rebalancing.totalReplicas && "
        f"self.rebalancing.totalReplicas <= {_HIGH})",
        lambda s: not _on(s) or _sums(s)[0] <= s["rebalancing"]["totalReplicas"] <= _sums(s)[1],
        Words(
            f"'{_TOTAL}'.format([{_LOW}, {_HIGH}])",
            lambda s: _TOTAL % _sums(s),
        ),
    ),
    PoolRule(
        ("replicas", "min"),
        "must be at least 1 in pools that share replicas by rebalancing",
        "!has(self.rebalancing) || 'Diffusion' in p.modes || p.replicas.min >= 1",
        lambda s, p: not _shares(s, p) or p["replicas"]["min"] >= 1,
    ),
    PoolRule(
        ("resources", "gpus"),
        "must be the same in all pools that share replicas by rebalancing",
        f"!has(self.rebalancing) || 'Diffusion' in p.modes || p.resources.gpus == {_SHARING}[0].resources.gpus",
        lambda s, p: (
            not _shares(s, p)
            or p["resources"]["gpus"] == next(q["resources"]["gpus"] for q in s["pools"] if _shares(s, q))
        ),
    ),
)
