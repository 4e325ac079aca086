"""Replicas that pools share, on one machine: asked each time the fleet is looked at.

What is remembered in between, and the words for a person. What `up` decides is forgotten with it: it begins anew with
most replicas in the pool of AR. The decision is policy's, the same as the operator's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from trimode_api.fleet import FleetView
from trimode_api.resource import Spec
from trimode_policy.rebalance import MoveReason
from trimode_policy.sharing import Split
from trimode_policy.sharing_inputs import Samples, current_split, next_split, sampled, sharing_pools


@dataclass(slots=True)
class Balance:
    """The split so far. `now` is in seconds of a clock that never goes back."""

    split: Split = field(default_factory=Split)
    loads: Samples = ()
    reason: MoveReason | None = None

    def targets(self, spec: Spec) -> Mapping[str, int]:
        """Replicas of each pool that shares them."""
        return current_split(spec, self.split).targets

    def step(self, spec: Spec, fleet: FleetView, now: float) -> str:
        """Take the next step; what to say of it, empty for nothing new."""
        self.loads = sampled(self.loads, [fleet], [pool.name for pool in sharing_pools(spec)], now)
        taken = next_split(spec, self.split, [fleet], self.loads, now)
        if taken is None:
            self.split, self.loads, self.reason = Split(), (), None
            return ""
        moved = taken.split.move != self.split.move or (taken.reason != self.reason and taken.reason is MoveReason.HELD)
        self.split, self.reason = taken.split, taken.reason
        return f"rebalancing: {taken.detail}" if moved else ""
