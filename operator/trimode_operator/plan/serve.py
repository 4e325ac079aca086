"""`serveConfigV2`: what Ray Serve runs, one application per pool.

Nothing volatile goes into an application's `args`: Serve replaces every replica when they change. What may change while
replicas run (bounds of their number) is a deployment's option; policy, tiers and mode are neither, replicas get them
from the routers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from trimode_api.pool_args import pool_args
from trimode_api.resource import NemotronDeployment, Pool
from trimode_operator.plan.model import Observed
from trimode_operator.plan.names import SERVE_PORT, Names
from trimode_operator.plan.pods import grace_seconds
from trimode_operator.plan.weights import Weights

IMPORT_PATH = "trimode_workers.app:build"
SCALING_POLICY = "trimode_workers.replica.autoscaling:Scaler"
POD_MARGIN_S = 15
"""Serve gives up on a replica this much earlier than the pod's grace ends, in seconds."""


def serve_config(
    deployment: NemotronDeployment, pools: Sequence[Pool], names: Names, weights: Weights, observed: Observed
) -> str:
    """The whole configuration as YAML, with an application for each of `pools`."""
    config = {
        # KubeRay asks the proxy in each pod for its health; requests never pass through it.
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": SERVE_PORT},
        "applications": [
            _application(deployment, pool, names, weights, observed.targets.get(pool.name)) for pool in pools
        ],
    }
    text: str = yaml.safe_dump(config, sort_keys=False, width=120)
    return text


def placement_resource(pool: str) -> str:
    """Ray resource that only the pool's own pods have, one each: a replica per pod, and never in another's."""
    return f"trimode-{pool}"


def _application(
    deployment: NemotronDeployment, pool: Pool, names: Names, weights: Weights, target: int | None
) -> dict[str, Any]:
    least, most = pool.replicas.min, pool.replicas.max
    if target is not None:
        least = most = max(least, min(target, most))
    return {
        "name": pool.name,
        "route_prefix": f"/{pool.name}",
        "import_path": IMPORT_PATH,
        "args": pool_args(deployment, pool, weights.uri, [names.reports_url]),
        "deployments": [
            {
                "name": pool.name,
                # Autoscaling even between equal bounds: turning it on later would replace the replicas.
                "num_replicas": "auto",
                "autoscaling_config": {
                    "min_replicas": least,
                    "max_replicas": max(1, most),
                    # The same policy whatever the bounds are. A pool that sleeps is woken by requests that wait in the
                    # routers.
                    "policy": {
                        "policy_function": SCALING_POLICY,
                        "policy_kwargs": {"routers": [names.reports_url], "pool": pool.name},
                    },
                    "look_back_period_s": 15.0,
                    "upscale_delay_s": 10.0,
                    "downscale_delay_s": 300.0,
                    "downscale_to_zero_delay_s": float(pool.replicas.idle_seconds),
                },
                "graceful_shutdown_timeout_s": grace_seconds(deployment.spec.drain.timeout_seconds) - POD_MARGIN_S,
                "ray_actor_options": {
                    "num_cpus": 0,
                    "num_gpus": pool.resources.gpus,
                    "resources": {placement_resource(pool.name): 1},
                },
            }
        ],
    }
