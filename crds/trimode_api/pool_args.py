"""From the resource to what a pool's replicas are started with, on a cluster and on one machine.

Pure. Only what a running replica cannot take over: Ray Serve replaces every replica of an application whose arguments
change. Mode, tiers and policy are not among them; replicas hear those from the routers.
"""

from __future__ import annotations

from typing import Any

from trimode_api.errors import Problem
from trimode_api.modes import Mode
from trimode_api.policy_of import pool_points
from trimode_api.resource import EngineType, NemotronDeployment, Pool, Spec
from trimode_api.serving import reserved
from trimode_api.values import cores


def pool_args(deployment: NemotronDeployment, pool: Pool, model: str, router_urls: list[str]) -> dict[str, Any]:
    """Fields of the workers' `PoolArgs`, plain and in a fixed order. `model`: the folder, or its URI on a cluster."""
    engine, served = deployment.spec.engine, deployment.spec.model
    adapter, calls = served.draft_adapter, served.tool_format
    sglang: dict[str, Any] = {}
    if engine.type is not EngineType.NATIVE:
        points = pool_points(pool, deployment.spec)
        # The mode is fixed when a server starts: a change of it replaces the pool's replicas.
        sglang = {
            "mode": pool.modes[0].value,
            "block_lengths": [point.block_length for point in points if point.mode is not Mode.AR],
            "threshold": points[0].threshold,
            "gpus": max(1, pool.resources.gpus),
            "args": list(engine.args or ()),
        }
    return {
        "pool": pool.name,
        "served_name": deployment.served_name,
        "engine": {
            "model": model,
            # Absent, not null: a field that an installed resource does not have must not replace its replicas.
            **({} if adapter is None else {"draft_adapter": adapter}),
            **({} if calls is None else {"tool_format": calls.value}),
            "dtype": engine.dtype.value,
            "max_context_tokens": engine.max_context_tokens,
            "max_running_requests": engine.max_running_requests,
            # One thread per core given: on shared cores a second one waits for the first at every operation.
            "threads": max(1, int(cores(pool.resources.cpu))),
            **({"sglang": sglang} if sglang else {}),
        },
        "router_urls": router_urls,
    }


def start_problems(spec: Spec) -> list[Problem]:
    """What the schema allows and no replica can be started with, on a cluster or on one machine."""
    problems, uri = [], spec.model.uri
    if uri.startswith("file://") and not uri.startswith("file:///"):
        problems.append(Problem("spec.model.uri", f"{uri!r}: write an absolute path, file:///PATH"))
    if wrong := reserved(spec.engine.args or ()):
        problems.append(Problem("spec.engine.args", f"{', '.join(wrong)}: follows from the resource; leave it out"))
    return problems
