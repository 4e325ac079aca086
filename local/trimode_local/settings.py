"""From the resource to what `trimode_workers` is started with.

Belongs here: the one translation into `PoolSettings`, and reading back why a replica could not start.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trimode_api.policy_of import policy_of
from trimode_api.pool_args import pool_args
from trimode_api.resource import NemotronDeployment
from trimode_local.plan import plan

if TYPE_CHECKING:
    from trimode_workers.replica.settings import PoolSettings

_ERROR = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Failed|Refused|Died)\b[^:]*: (?P<words>.+)$")


def pools(
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
