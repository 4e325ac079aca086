"""Rules for pools that share replicas.

Belongs here: what `rebalancing` asks of pools.
"""

from __future__ import annotations

from typing import Any

from trimode_api.rule import Rule, modes_of


def _sharing(spec: Any) -> list[Any]:
    """The pools that rebalancing moves replicas between; none where it is off."""
    pools = spec["pools"] if spec.get("rebalancing") is not None else ()
    return [pool for pool in pools if "Diffusion" not in pool["modes"]]


def _sum(pools: list[Any], bound: str) -> int:
    return sum(pool["replicas"][bound] for pool in pools)


_SHARING = "self.pools.filter(p, !('Diffusion' in p.modes))"

SHARING_RULES: tuple[Rule, ...] = (
    Rule(
        (),
        ("rebalancing",),
        "needs pools of one mode each, some with AR and some with SelfSpeculation; several modes change in the engine",
        "!has(self.rebalancing) || (self.pools.all(p, size(p.modes) == 1) && self.pools.exists(p, 'AR' in p.modes) && "
        "self.pools.exists(p, 'SelfSpeculation' in p.modes))",
        lambda s: (
            s.get("rebalancing") is None
            or (all(len(p["modes"]) == 1 for p in s["pools"]) and {"AR", "SelfSpeculation"} <= modes_of(s))
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
)
