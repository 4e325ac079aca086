"""The pools of `trimode up`: what `trimode_workers` is started with for each, why one could not start, their split.

Belongs here: the one translation of the resource into `PoolSettings`, and what is remembered of replicas that pools
share. The decision to move one is policy's, the same as the operator's; what `up` decided is forgotten with it: it
begins anew with most replicas in the pool of AR.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trimode_api.fleet import FleetView
from trimode_api.policy_of import policy_of
from trimode_api.pool_args import pool_args
from trimode_api.resource import NemotronDeployment, Spec
from trimode_local.plan import plan
from trimode_policy.rebalance import MoveReason
from trimode_policy.sharing import Split
from trimode_policy.sharing_inputs import Samples, current_split, next_split, sampled, sharing_pools

if TYPE_CHECKING:
    from trimode_workers.replica.settings import PoolSettings

_ERROR = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Failed|Refused|Died)\b[^:]*: (?P<words>.+)$")


def pool_settings(
    deployment: NemotronDeployment,
    model: Path,
    version: int,
    router_urls: tuple[str, ...],
    targets: Mapping[str, int] | None = None,
) -> list[PoolSettings]:
    """Settings of every pool, in the resource's order. `targets` as in `plan`."""
    from trimode_workers.replica.settings import PoolSettings

    policy = policy_of(deployment, version)
    args = {pool.name: pool_args(deployment, pool, str(model), list(router_urls)) for pool in deployment.spec.pools}
    return [
        PoolSettings(
            **args[pool.name],
            policy=policy,
            min_replicas=pool.replicas,
            max_replicas=pool.most,
            idle_s=pool.idle_s,
            num_cpus=pool.cores,
            num_gpus=float(pool.gpus),
        )
        for pool in plan(deployment, targets)
    ]


def cause(message: str) -> str:
    """The last error in Serve's message, which is a traceback in words; its last line where none is found."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    for line in reversed(lines):
        if (match := _ERROR.match(line)) is not None:
            return match["words"]
    return lines[-1] if lines else "no reason given"


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
