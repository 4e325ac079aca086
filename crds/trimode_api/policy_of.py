"""From the resource to the policy that routers and replicas run. Pure."""

from __future__ import annotations

from trimode_api.modes import AR, Mode, OperatingPoint, Wish, diffusion, quadratic, resolve, speculation
from trimode_api.resource import NemotronDeployment, Pool, Spec
from trimode_api.spec import LateRequests
from trimode_api.wire import (
    AdmissionPolicy,
    PolicyConfig,
    PoolPolicy,
    StalenessPolicy,
    SwitchingPolicy,
    TierPolicy,
)


def pool_points(pool: Pool, spec: Spec) -> tuple[OperatingPoint, ...]:
    """All points the pool's engines may run, in the order AR, self-speculation, linear and quadratic, by block
    length, diffusion."""
    points: list[OperatingPoint] = []
    if Mode.AR in pool.modes:
        points.append(AR)
    if Mode.SELF_SPECULATION in pool.modes:
        threshold = None if pool.draft_threshold is None else float(pool.draft_threshold)
        points += [speculation(length, threshold) for length in sorted(pool.block_lengths)]
    if Mode.QUADRATIC in pool.modes:
        points += [quadratic(length) for length in sorted(pool.block_lengths)]
    if Mode.DIFFUSION in pool.modes and spec.diffusion is not None:
        points.append(diffusion(spec.diffusion.block_length, float(spec.diffusion.threshold)))
    return tuple(points)


def policy_of(deployment: NemotronDeployment, version: int) -> PolicyConfig:
    """The policy of a valid resource. `version` is its generation; parts run the highest they have seen."""
    spec = deployment.spec
    points = {pool.name: pool_points(pool, spec) for pool in spec.pools}
    mode, length = spec.switching.mode, spec.switching.block_length
    return PolicyConfig(
        version=version,
        tiers=tuple(TierPolicy.model_validate(tier.model_dump()) for tier in spec.tiers),
        pools=tuple(
            PoolPolicy(name=pool.name, points=tuple(map(str, points[pool.name])), sleeps=pool.replicas.min == 0)
            for pool in spec.pools
        ),
        switching=SwitchingPolicy(
            # A pool without the manual mode keeps to what it has.
            fixed={}
            if mode is None
            else {name: str(_point_of(mode, allowed, length)) for name, allowed in points.items()},
            margin_percent=spec.switching.margin_percent,
            min_dwell_milliseconds=spec.switching.min_dwell_milliseconds,
            fallback={name: str(_point_of(spec.switching.fallback_mode, allowed)) for name, allowed in points.items()},
            dry_run=spec.switching.dry_run,
        ),
        admission=AdmissionPolicy(
            max_queued_requests=spec.admission.max_queued_requests,
            max_wait_milliseconds=spec.admission.max_wait_milliseconds,
            refuse_late=spec.admission.late_requests is LateRequests.REFUSE,
        ),
        staleness=StalenessPolicy.model_validate(spec.staleness.model_dump()),
        drain_timeout_seconds=spec.drain.timeout_seconds,
        gpu_hour_cost=float(spec.cost_per_gpu_hour),
    )


def _point_of(mode: Mode, allowed: tuple[OperatingPoint, ...], length: int | None = None) -> OperatingPoint:
    """The point of `mode` with this block length, or its largest; a pool without the mode gives its first point."""
    return resolve(Wish(mode, length), allowed) or resolve(Wish(mode), allowed) or allowed[0]
