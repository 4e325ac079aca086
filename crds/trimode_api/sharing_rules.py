"""Rules for pools that share replicas.

Belongs here: what `rebalancing` asks of pools.
"""

from __future__ import annotations

from typing import Any

from trimode_api.rule import PoolRule, Rule, Words, modes_of


def _on(spec: Any) -> bool:
    return spec.get("rebalancing") is not None


def _shares(spec: Any, pool: Any) -> bool:
    """Whether rebalancing moves replicas to and from the pool."""
    return _on(spec) and "Diffusion" not in pool["modes"]


def _sums(spec: Any) -> tuple[int, int]:
    """Fewest and most replicas of the pools that share them."""
    pools = [pool["replicas"] for pool in spec["pools"] if _shares(spec, pool)]
    return sum(replicas["min"] for replicas in pools), sum(replicas["max"] for replicas in pools)


def _total_holds(spec: Any) -> bool:
    low, high = _sums(spec)
    return not _on(spec) or bool(low <= spec["rebalancing"]["totalReplicas"] <= high)


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
        _total_holds,
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
