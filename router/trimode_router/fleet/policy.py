"""The policy in the form that requests need: looked up, not searched, computed once per version. [pure]"""

from __future__ import annotations

from dataclasses import dataclass

from trimode_api.errors import ApiError
from trimode_api.modes import OperatingPoint
from trimode_api.wire import PolicyConfig
from trimode_policy.admit import AdmissionLimits
from trimode_policy.route import Staleness


@dataclass(frozen=True, slots=True)
class Tier:
    """One tier; objectives in seconds, the latter per output token."""

    name: str
    priority: int
    ttft_s: float
    tpot_s: float


@dataclass(frozen=True, slots=True)
class Rules:
    """`points` are all points of all pools, each once, in the policy's order; `may_sleep` pools that may have no
    replica."""

    policy: PolicyConfig
    tiers: dict[str, Tier]
    default_tier: Tier
    points: tuple[OperatingPoint, ...]
    pools: dict[str, tuple[OperatingPoint, ...]]
    may_sleep: tuple[str, ...]
    staleness: Staleness
    admission: AdmissionLimits

    @classmethod
    def of(cls, policy: PolicyConfig) -> Rules:
        tiers = {
            tier.name: Tier(tier.name, tier.priority, tier.ttft_milliseconds / 1000, tier.tpot_milliseconds / 1000)
            for tier in policy.tiers
        }
        pools = {pool.name: tuple(OperatingPoint.parse(name) for name in pool.points) for pool in policy.pools}
        return cls(
            policy=policy,
            tiers=tiers,
            # A request that names no tier passes none that does: the lowest priority, the first listed of several.
            default_tier=min(tiers.values(), key=lambda tier: tier.priority),
            points=tuple(dict.fromkeys(point for points in pools.values() for point in points)),
            pools=pools,
            may_sleep=tuple(pool.name for pool in policy.pools if pool.sleeps),
            staleness=Staleness(policy.staleness.stale_after_seconds, policy.staleness.dead_after_seconds),
            admission=AdmissionLimits(
                policy.admission.max_queued_requests,
                policy.admission.max_wait_milliseconds / 1000,
                policy.admission.refuse_late,
            ),
        )

    def tier(self, name: str | None) -> Tier:
        """The tier of that name, the default for None. Raises ApiError (400) that lists the tiers."""
        if name is None:
            return self.default_tier
        tier = self.tiers.get(name)
        if tier is None:
            allowed = ", ".join(self.tiers)
            raise ApiError(
                400, f"x-trimode-tier: {name!r} is not a tier; allowed: {allowed}", code="unknown_tier", param="tier"
            )
        return tier
