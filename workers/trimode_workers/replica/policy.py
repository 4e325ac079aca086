"""From the fleet's policy to one pool's part of it."""

from __future__ import annotations

from trimode_api.modes import AR, BLOCK_LENGTHS, OperatingPoint, diffusion, speculation
from trimode_api.wire import (
    AdmissionPolicy,
    PolicyConfig,
    PoolPolicy,
    StalenessPolicy,
    SwitchingPolicy,
    TierPolicy,
)
from trimode_workers.engine.messages import Configure

NO_POLICY_YET = 0
"""Version of a policy that only holds the place; the resource's generation starts at 1."""


def stand_in(pool: str) -> PolicyConfig:
    """What an engine starts on before a router has given it the fleet's policy: autoregressive, nothing else.

    All points that a policy could allow are in it, so that the engine runs each of them once while it warms up.
    """
    points = (AR, *map(speculation, BLOCK_LENGTHS), diffusion(32, 0.9))
    return PolicyConfig(
        version=NO_POLICY_YET,
        tiers=(TierPolicy(name="standard", ttft_milliseconds=1000, tpot_milliseconds=25, percentile=95, priority=0),),
        pools=(PoolPolicy(name=pool, points=tuple(map(str, points))),),
        switching=SwitchingPolicy(
            fixed={pool: str(AR)}, margin_percent=5, min_dwell_milliseconds=200, fallback={pool: str(AR)}
        ),
        admission=AdmissionPolicy(max_queued_requests=0, max_wait_milliseconds=0),
        staleness=StalenessPolicy(stale_after_seconds=3, dead_after_seconds=10),
    )


def pool_policy(policy: PolicyConfig, pool: str) -> PoolPolicy | None:
    """The pool's own part; None where the policy does not know the pool."""
    return next((each for each in policy.pools if each.name == pool), None)


def keeping(policy: PolicyConfig, pool: str, before: PolicyConfig) -> PolicyConfig:
    """The policy, with what `before` says of the pool where it no longer knows it.

    A pool that is taken away serves until its successors are ready, as it did.
    """
    own = pool_policy(before, pool)
    if own is None or pool_policy(policy, pool) is not None:
        return policy
    old, new = before.switching, policy.switching
    fixed = {pool: old.fixed[pool]} if pool in old.fixed else {}
    fallback = {pool: old.fallback[pool]} if pool in old.fallback else {}
    switching = new.model_copy(update={"fixed": new.fixed | fixed, "fallback": new.fallback | fallback})
    return policy.model_copy(update={"pools": (*policy.pools, own), "switching": switching})


def pool_points(policy: PolicyConfig, pool: str) -> tuple[OperatingPoint, ...]:
    """The points the pool may use; none where the policy does not know it."""
    own = pool_policy(policy, pool)
    return () if own is None else tuple(OperatingPoint.parse(name) for name in own.points)


def configure_for(policy: PolicyConfig, pool: str) -> Configure | None:
    """What the pool's engines are configured with; None where the policy does not know the pool."""
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
