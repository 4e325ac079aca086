"""From the fleet's policy to one pool's part of it.

Belongs here: pure translations of `PolicyConfig`.
"""

from __future__ import annotations

from trimode_api.modes import OperatingPoint
from trimode_api.wire import PolicyConfig, PoolPolicy
from trimode_workers.engine.messages import Configure


def pool_policy(policy: PolicyConfig, pool: str) -> PoolPolicy | None:
    """The pool's own part; None where the policy does not know the pool."""
    return next((each for each in policy.pools if each.name == pool), None)


def pool_points(policy: PolicyConfig, pool: str) -> tuple[OperatingPoint, ...]:
    """The points the pool may use; none where the policy does not know it."""
    own = pool_policy(policy, pool)
    return () if own is None else tuple(OperatingPoint.parse(name) for name in own.points)


def configure_for(policy: PolicyConfig, pool: str) -> Configure | None:
    """What the pool's engines are told; None where the policy does not know the pool."""
    own = pool_policy(policy, pool)
    if own is None:
        return None
    switching = policy.switching
    return Configure(
        points=list(own.points),
        fallback=switching.fallback.get(pool, own.points[0]),
        fixed=switching.fixed.get(pool),
        margin_percent=switching.margin_percent,
        min_dwell_s=switching.min_dwell_milliseconds / 1000,
        dry_run=switching.dry_run,
        version=policy.version,
    )
