"""From the resource to what `trimode_workers` is started with.

Belongs here: the one translation into `PoolSettings`, and reading back why a replica could not start.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trimode_api.modes import Mode
from trimode_api.policy_of import policy_of, pool_points
from trimode_api.resource import EngineType, NemotronDeployment, Pool, Spec
from trimode_local.plan import plan

if TYPE_CHECKING:
    from trimode_workers.replica.settings import PoolSettings
    from trimode_workers.sglang.options import SGLangOptions

_ERROR = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Failed|Refused|Died)\b[^:]*: (?P<words>.+)$")


def pools(
    deployment: NemotronDeployment,
    model: Path,
    version: int,
    router_urls: tuple[str, ...],
    targets: Mapping[str, int] | None = None,
) -> list[PoolSettings]:
    """Settings of every pool, in the resource's order. `targets` as in `plan`."""
    from trimode_workers.replica.settings import EngineOptions, PoolSettings

    spec = deployment.spec
    engine = EngineOptions(
        model=str(model),
        draft_adapter=spec.model.draft_adapter,
        dtype=spec.engine.dtype.value,
        max_context_tokens=spec.engine.max_context_tokens,
        max_running_requests=spec.engine.max_running_requests,
    )
    sglang = {pool.name: _sglang(spec, pool) for pool in spec.pools}
    return [
        PoolSettings(
            pool=pool.name,
            served_name=deployment.served_name,
            # One thread per core given: on shared cores a second one waits for the first at every operation.
            engine=engine.model_copy(update={"threads": max(1, int(pool.cores)), "sglang": sglang[pool.name]}),
            policy=policy_of(deployment, version),
            router_urls=router_urls,
            min_replicas=pool.replicas,
            max_replicas=pool.most,
            idle_s=pool.idle_s,
            num_cpus=pool.cores,
            num_gpus=float(pool.gpus),
        )
        for pool in plan(deployment, targets)
    ]


def _sglang(spec: Spec, pool: Pool) -> SGLangOptions | None:
    """What the pool's servers are told; None where the engine is our own."""
    from trimode_workers.sglang.options import SGLangOptions

    if spec.engine.type is EngineType.NATIVE:
        return None
    points = pool_points(pool, spec)
    return SGLangOptions(
        mode=pool.modes[0],
        block_lengths=tuple(point.block_length for point in points if point.mode is not Mode.AR),
        threshold=points[0].threshold,
        gpus=max(1, pool.resources.gpus),
        args=spec.engine.args or (),
    )


def cause(message: str) -> str:
    """The last error in Serve's message, which is a traceback in words; its last line where none is found."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    for line in reversed(lines):
        if (match := _ERROR.match(line)) is not None:
            return match["words"]
    return lines[-1] if lines else "no reason given"
