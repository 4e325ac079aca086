"""The RayService: Ray's head, a worker group per pool, and what Serve runs on them.

KubeRay answers almost any change of `rayClusterConfig` with a second cluster beside the first, which takes over when it
is ready: right for another model or image, and twice the GPUs for as long as it lasts. Groups added at the end are
taken over in place. Bounds of worker groups are not taken over at all by a cluster that runs: `observe.ray_clusters`
writes them there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from trimode_api.pool_args import pool_args
from trimode_api.resource import NemotronDeployment, Pool
from trimode_api.values import cores
from trimode_operator.plan.kuberay import SHAPE_ANNOTATION, shape_of
from trimode_operator.plan.model import Inputs, Manifest, Observed
from trimode_operator.plan.names import SERVE_PORT, Names, head_labels, labels, queue_metadata
from trimode_operator.plan.objects import child
from trimode_operator.plan.pods import (
    ROLL_ANNOTATION,
    container_security,
    digest,
    grace_seconds,
    http_probe,
    placement,
    pod_security,
    pool_placement,
    pool_resources,
    resources,
    tmp_mount,
    tmp_volume,
    token_variable,
    unnoticed,
    user_variables,
)
from trimode_operator.plan.serve import placement_resource, serve_config
from trimode_operator.plan.settings import Settings
from trimode_operator.plan.weights import Weights, weights

AGENT_PORT = 52365
HEALTH_PATH = "/api/healthz"
"""Of Ray's agent in every pod: its node manager, and on the head the cluster's store, are alive."""
PROXY_HEALTH_PATH = "/-/healthz"
HEAD_PORTS = {"gcs": 6379, "dashboard": 8265, "client": 10001, "serve": SERVE_PORT}
POOL_LABEL = "trimode.dev/pool"
OLD_CLUSTER_STAYS_S = 60
UNPROMOTED_CLUSTER_STAYS_S = 3600
"""KubeRay calls a cluster active when all its applications run. One that serves without that, because some pool never
starts, is replaced by the next change of shape whether or not the new one is ready, and ended after this delay."""
IDLE_POD_STAYS_S = 60
_SIGNALLED = {"shareProcessNamespace": True}
"""Has the pod's own first process get what the kernel spares a container's first one: SIGTERM without a handler.

KubeRay's autoscaler container (Python) and its init container (bash) have none, and stood Terminating for the whole
grace of 660 s, the head with the one, a worker that was still starting with the other.
"""
LEAVE_MODULE = "trimode_workers.replica.pre_stop"
LEAVE_MARGIN_S = 20
"""What a pod's end takes after its requests are done, in seconds."""


def ray_service(inputs: Inputs) -> Manifest:
    """The RayService, with a token of Ray's own where the installed KubeRay can have it."""
    deployment, observed, settings = inputs.deployment, inputs.observed, inputs.settings
    owner, names, rays_token = inputs.owner, inputs.names, inputs.capabilities.rays_token
    spec = deployment.spec
    source = weights(spec.model, settings)
    pools = in_live_order(spec.pools, observed)
    config: dict[str, Any] = {
        "rayVersion": settings.ray_version,
        **({"authOptions": {"mode": "token"}} if rays_token else {}),
        # Always: turning it on later would make a new cluster.
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": _autoscaler(settings),
        "headGroupSpec": _head(inputs),
        "workerGroupSpecs": [_group(inputs, pool, source) for pool in pools],
    }
    if not rays_token:
        # Said in every container: Ray asks for tokens by itself as soon as it finds one, and KubeRay would have none.
        templates = [group["template"] for group in (config["headGroupSpec"], *config["workerGroupSpecs"])]
        containers = [container for template in templates for container in template["spec"]["containers"]]
        for each in (config["autoscalerOptions"], *containers):
            each["env"] = [*each["env"], {"name": "RAY_AUTH_MODE", "value": "disabled"}]
    body = child("ray.io/v1", "RayService", names.ray_service, owner, "worker")
    queue = queue_metadata(deployment.metadata)
    return {
        **body,
        "metadata": {
            **body["metadata"],
            "labels": queue["labels"] | body["metadata"]["labels"],
            "annotations": queue["annotations"] | {SHAPE_ANNOTATION: shape_of(config)},
        },
        "spec": {
            # Not KubeRay's steps (NewClusterWithIncrementalUpgrade): they shift traffic of Serve's proxies, which serve
            # no request here, and 1.5.0 sends the new configuration to the old cluster as well (docs/upgrade.md).
            "upgradeStrategy": {"type": "NewCluster"},
            "rayClusterDeletionDelaySeconds": UNPROMOTED_CLUSTER_STAYS_S
            if observed.unpromoted
            else OLD_CLUSTER_STAYS_S,
            "excludeHeadPodFromServeSvc": True,
            "serveConfigV2": serve_config(deployment, pools, names, source, observed),
            "rayClusterConfig": config,
        },
    }


def in_live_order(pools: Sequence[Pool], observed: Observed) -> tuple[Pool, ...]:
    """The pools in the order of the live worker groups, new ones last: any other order makes a new cluster.

    By the cluster that serves where it has just these pools: a pool that was taken away and comes back before the
    upgrade without it is done would be the last one otherwise.
    """
    config = ((observed.ray_service or {}).get("spec") or {}).get("rayClusterConfig") or {}
    order = [group.get("groupName") for group in config.get("workerGroupSpecs") or []]
    if set(observed.serving_groups) == {pool.name for pool in pools}:
        # KubeRay compares groups in their order, so a pool in another place is another cluster, with its GPUs twice.
        order = list(observed.serving_groups)
    place = {name: index for index, name in enumerate(order)}
    return tuple(sorted(pools, key=lambda pool: place.get(pool.name, len(order))))


def _autoscaler(settings: Settings) -> dict[str, Any]:
    return {
        "upscalingMode": "Default",
        "idleTimeoutSeconds": IDLE_POD_STAYS_S,
        "imagePullPolicy": settings.image_pull_policy,
        "resources": resources(settings.autoscaler),
        "securityContext": container_security(),
        "env": user_variables(),
        "volumeMounts": [tmp_mount()],
    }


def _head(inputs: Inputs) -> dict[str, Any]:
    deployment, names, settings = inputs.deployment, inputs.names, inputs.settings
    container = {
        "name": "ray-head",
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "env": [*user_variables(), token_variable(names), *_ray_environment()],
        "ports": [{"name": name, "containerPort": port} for name, port in HEAD_PORTS.items()],
        "resources": resources(settings.head),
        "securityContext": container_security(),
        "volumeMounts": [tmp_mount()],
        "livenessProbe": http_probe(HEALTH_PATH, AGENT_PORT, failures=24),
        "readinessProbe": http_probe(HEALTH_PATH, AGENT_PORT, failures=2),
        "lifecycle": _leave(deployment, names, "--head"),
    }
    return {
        # No cores: nothing of ours is placed on the head.
        "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},
        "template": {
            "metadata": {"labels": head_labels(inputs.owner.name)},
            "spec": {
                **placement(settings),
                **_SIGNALLED,
                "securityContext": pod_security(settings),
                "terminationGracePeriodSeconds": grace_seconds(deployment.spec.drain.timeout_seconds),
                "containers": [container],
                "volumes": [tmp_volume()],
            },
        },
    }


def _group(inputs: Inputs, pool: Pool, source: Weights) -> dict[str, Any]:
    deployment, names, settings = inputs.deployment, inputs.names, inputs.settings
    args = pool_args(deployment, pool, source.uri, [names.reports_url])
    # No `replicas`: that number is the autoscaler's.
    return {
        "groupName": pool.name,
        "minReplicas": pool.replicas.min,
        # KubeRay takes neither bound over once the cluster runs: `observe.ray_clusters` writes them there.
        "maxReplicas": pool.replicas.max,
        "rayStartParams": {
            "num-cpus": str(max(1, math.ceil(cores(pool.resources.cpu)))),
            "num-gpus": str(pool.resources.gpus),
            # Quoted twice, as KubeRay puts these on a shell's command line.
            "resources": json.dumps(json.dumps({placement_resource(pool.name): 1})),
        },
        "template": {
            "metadata": {
                "labels": labels(inputs.owner.name, "worker") | {POOL_LABEL: pool.name},
                "annotations": {ROLL_ANNOTATION: digest(args, inputs.observed.token, *unnoticed(pool))},
            },
            "spec": {
                **pool_placement(pool, settings),
                **_SIGNALLED,
                "serviceAccountName": names.service_account,
                "automountServiceAccountToken": False,
                "securityContext": pod_security(settings),
                "terminationGracePeriodSeconds": grace_seconds(deployment.spec.drain.timeout_seconds),
                "containers": [_worker(inputs, pool, source)],
                "volumes": [tmp_volume(), *source.volumes],
            },
        },
    }


def _worker(inputs: Inputs, pool: Pool, source: Weights) -> dict[str, Any]:
    deployment, names, settings = inputs.deployment, inputs.names, inputs.settings
    return {
        "name": "ray-worker",
        # SGLang's own, which holds trimode and the same Ray besides the server.
        "image": deployment.spec.engine.image or settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "env": [*user_variables(), token_variable(names), *source.environment, *_ray_environment()],
        "ports": [{"name": "serve", "containerPort": SERVE_PORT}],
        "resources": pool_resources(pool, settings),
        "securityContext": container_security(),
        "volumeMounts": [tmp_mount(), *source.mounts],
        "livenessProbe": http_probe(HEALTH_PATH, AGENT_PORT, failures=24),
        # Our own probe, since KubeRay adds one with wget where it is missing, and the slim image has no wget.
        "readinessProbe": http_probe(PROXY_HEALTH_PATH, SERVE_PORT, failures=1),
        "lifecycle": _leave(deployment, names),
    }


def _leave(deployment: NemotronDeployment, names: Names, *more: str) -> dict[str, Any]:
    """Before a pod ends, its requests do: Ray itself ends its processes on the spot."""
    limit = grace_seconds(deployment.spec.drain.timeout_seconds) - LEAVE_MARGIN_S
    command = ["python", "-m", LEAVE_MODULE, "--routers", names.reports_url, "--timeout-s", str(limit), *more]
    return {"preStop": {"exec": {"command": command}}}


def _ray_environment() -> list[dict[str, Any]]:
    return [
        {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"},
        # On SIGTERM Ray waits for its actors to go, which Serve's never do by themselves: 30 s for nothing after our
        # preStop has seen requests through.
        {"name": "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "value": "0"},
        # Ray would have engines stand back behind whatever else the node runs.
        {"name": "RAY_worker_niceness", "value": "0"},
        # Seconds between two figures of a replica's load; the autoscaler averages the last 15 s.
        {"name": "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S", "value": "1"},
    ]
