"""`sharing`, asked about a resource with what routers show of its fleet.

Pure. The operator and `trimode up` own the number of a pool's replicas, and both decide it here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from trimode_api.fleet import FleetView, Freshness, ReplicaState
from trimode_api.modes import Mode
from trimode_api.prefix import PAGE_TOKENS
from trimode_api.resource import Pool, Spec, SwitchingMode
from trimode_policy.capacity import Paces
from trimode_policy.rebalance import Demand
from trimode_policy.sharing import SharedPool, Split, Step, settled, step

SAMPLE_S, WINDOW_S, LEAST_S = 2.0, 120.0, 60.0
"""Seconds between two samples of the load, as far back as they go, and the least that they must span."""
REACH = 2.0
"""A pace is predicted for batches up to this many times larger or smaller than those that were measured."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Requests in flight and waiting at one moment, in seconds of the caller's clock."""

    at: float
    requests: int


Samples = tuple[Sample, ...]


def sampled(before: Samples, views: Sequence[FleetView], pools: Iterable[str], now: float) -> Samples:
    """The samples with one of now, unless the last one is of just now."""
    if not views or (before and 0 <= now - before[-1].at < SAMPLE_S):
        return before
    names = set(pools)
    # Every router sees every replica, so replicas count once; each router has a queue of its own, so those add up.
    inside = sum(r.running + r.waiting for r in merged(views) if r.pool in names and r.freshness is not Freshness.DEAD)
    sample = Sample(now, inside + sum(view.router.queued for view in views))
    return (*(one for one in before if 0 <= now - one.at <= WINDOW_S), sample)


def demand_of(samples: Samples) -> Demand | None:
    """The calm and the busy end of the window, None while it is too short."""
    if not samples or samples[-1].at - samples[0].at < LEAST_S:
        return None
    ordered = sorted(sample.requests for sample in samples)
    return Demand(ordered[len(ordered) // 10], ordered[len(ordered) * 9 // 10])


def current_split(spec: Spec, split: Split) -> Split:
    """The split as the spec's bounds and total are now; an empty one where no pools share replicas."""
    pools = shared_pools(spec, ())
    if spec.rebalancing is None or not pools:
        return Split()
    return settled(split, pools, spec.rebalancing.total_replicas)


def next_split(
    spec: Spec, split: Split, views: Sequence[FleetView], samples: Samples, now: float, *, release_s: float = 0.0
) -> Step | None:
    """The next step, see `sharing.step`; None where no pools share replicas. `samples` have a clock of their own."""
    pools = shared_pools(spec, views)
    if spec.rebalancing is None or not pools:
        return None
    held = "switching.policy is Manual" if spec.switching.policy is SwitchingMode.MANUAL else ""
    held = "dry run" if spec.switching.dry_run else held
    total = spec.rebalancing.total_replicas
    return step(split, pools, total, demand_of(samples), now, release_s=release_s, held=held)


def sharing_pools(spec: Spec) -> tuple[Pool, ...]:
    """The pools that share replicas; none where rebalancing is off."""
    if spec.rebalancing is None or spec.suspend:
        return ()
    return tuple(pool for pool in spec.pools if Mode.DIFFUSION not in pool.modes)


def shared_pools(spec: Spec, views: Sequence[FleetView]) -> tuple[SharedPool, ...]:
    """The pools that share replicas, as the routers see them."""
    alive = [replica for replica in merged(views) if replica.freshness is not Freshness.DEAD]
    shared = []
    for pool in sharing_pools(spec):
        there = [replica for replica in alive if replica.pool == pool.name]
        ready = [replica for replica in there if usable(replica)]
        # Seconds that the prompts took which each of them keeps, 0 where its speed is not known.
        kept = [r.stored_pages * PAGE_TOKENS / s if (s := r.prompt_tokens_per_second) > 0 else 0.0 for r in ready]
        shared.append(
            SharedPool(
                name=pool.name,
                least=pool.replicas.min,
                most=pool.replicas.max,
                there=len(there),
                ready=len(ready),
                pace=pace_of([replica.paces for replica in ready]),
                capacity=min((replica.max_running for replica in ready), default=1),
                first=Mode.AR in pool.modes,
                kept_s=fmean(kept) if kept else 0.0,
            )
        )
    return tuple(shared)


def merged(views: Iterable[FleetView]) -> tuple[ReplicaState, ...]:
    """Every replica once, as the router sees it that heard of it last; without those gone for good."""
    latest: dict[str, ReplicaState] = {}
    for view in views:
        for replica in view.replicas:
            known = latest.get(replica.replica_id)
            if known is None or replica.age_seconds < known.age_seconds:
                latest[replica.replica_id] = replica
    return tuple(r for _, r in sorted(latest.items()) if not (r.freshness is Freshness.DEAD and r.draining))


def usable(replica: ReplicaState) -> bool:
    """Whether routers send it requests."""
    return replica.ready and not replica.draining and replica.freshness is not Freshness.DEAD


def pace_of(known: Sequence[Paces]) -> Callable[[int], float | None]:
    """Seconds per token by batch: the mean of the replicas that can tell."""

    def pace(batch: int) -> float | None:
        found = [one for paces in known if (one := _pace_at(paces, batch)) is not None]
        return fmean(found) if found else None

    return pace


def _pace_at(paces: Paces, batch: int) -> float | None:
    """Between two measured batches by a straight line, beyond them as at the nearest, far from them unknown."""
    if not paces or batch * REACH < paces[0][0] or batch > REACH * paces[-1][0]:
        return None
    below = [pair for pair in paces if pair[0] <= batch]
    above = [pair for pair in paces if pair[0] >= batch]
    if not below or not above:
        return (below[-1] if below else above[0])[1]
    (b0, p0), (b1, p1) = below[-1], above[0]
    return p0 if b0 == b1 else p0 + (p1 - p0) * (batch - b0) / (b1 - b0)
