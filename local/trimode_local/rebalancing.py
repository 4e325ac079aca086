"""Replicas that pools share, on one machine: asked at every look at the fleet.

Belongs here: what is remembered between two looks, and the words for a person. The decision is `sharing`'s, making the
pools so is `stack`'s. What `up` decides is forgotten with it: it begins anew with a split that is heavy on AR.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from trimode_api.fleet import FleetView
from trimode_api.resource import Spec, SwitchingMode
from trimode_policy.rebalance import MoveReason
from trimode_policy.sharing import Split, settled, step
from trimode_policy.sharing_inputs import Samples, demand_of, sampled, shared_pools


def begun(spec: Spec, split: Split | None = None) -> Split:
    """The split as the resource has it now; without pools that share replicas, an empty one."""
    pools = shared_pools(spec, ())
    if spec.rebalancing is None or not pools:
        return Split()
    return settled(split or Split(), pools, spec.rebalancing.total_replicas)


@dataclass(slots=True)
class Balance:
    """The split so far. `now` is in seconds of a clock that never goes back."""

    split: Split = field(default_factory=Split)
    loads: Samples = ()
    reason: MoveReason | None = None

    def targets(self, spec: Spec) -> Mapping[str, int]:
        """Replicas of each pool that shares them."""
        return begun(spec, self.split).targets

    def look(self, spec: Spec, fleet: FleetView, now: float) -> str:
        """Take the next step; what to say of it, empty for nothing new."""
        pools = shared_pools(spec, [fleet])
        if spec.rebalancing is None or not pools:
            self.split, self.loads, self.reason = Split(), (), None
            return ""
        self.loads = sampled(self.loads, [fleet], [pool.name for pool in pools], now)
        held = "dry run" if spec.switching.dry_run else ""
        if spec.switching.policy is SwitchingMode.MANUAL:
            held = "switching.policy is Manual"
        demand = demand_of(self.loads)
        taken = step(self.split, pools, spec.rebalancing.total_replicas, demand, now, held=held)
        moved = taken.split.move != self.split.move or (taken.reason != self.reason and taken.reason is MoveReason.HELD)
        self.split, self.reason = taken.split, taken.reason
        return f"rebalancing: {taken.detail}" if moved else ""
