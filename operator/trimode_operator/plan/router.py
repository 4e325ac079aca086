"""The routers: their configuration, Deployment and Services.

Belongs here: pure construction of the manifests of everything in front of the pools.
"""

from __future__ import annotations

from typing import Any

from trimode_api.resource import NemotronDeployment
from trimode_api.wire import PolicyConfig, RouterConfig
from trimode_operator.plan.model import Manifest, Observed, Owner
from trimode_operator.plan.names import CONFIG_KEY, INTERNAL_PORT, PUBLIC_PORT, Names, labels, matching
from trimode_operator.plan.objects import child
from trimode_operator.plan.pods import (
    ROLL_ANNOTATION,
    container_security,
    digest,
    grace_seconds,
    http_probe,
    placement,
    pod_security,
    resources,
    tmp_mount,
    tmp_volume,
    token_variable,
    user_variables,
)
from trimode_operator.settings import Settings

CONFIG_FOLDER = "/etc/trimode"
LEAVE_S = 5
"""A router that is going still takes requests this long, in seconds, until nobody sends it any."""


def router_config(deployment: NemotronDeployment, policy: PolicyConfig) -> RouterConfig:
    """What a router is started with. It binds all addresses of its pod."""
    pools = () if deployment.spec.suspend else deployment.spec.pools
    return RouterConfig(
        name=deployment.metadata.name,
        model=deployment.served_name,
        host="0.0.0.0",
        port=PUBLIC_PORT,
        internal_host="0.0.0.0",
        internal_port=INTERNAL_PORT,
        replicas_expected=sum(pool.replicas.min for pool in pools),
        policy=policy,
    )


def config_map(owner: Owner, names: Names, config: RouterConfig) -> Manifest:
    """Read when a router starts. Running ones are told of changes by the operator."""
    return {
        **child("v1", "ConfigMap", names.config, owner, "router"),
        "data": {CONFIG_KEY: config.model_dump_json(by_alias=True, indent=2)},
    }


def router_deployment(
    deployment: NemotronDeployment,
    owner: Owner,
    names: Names,
    settings: Settings,
    config: RouterConfig,
    observed: Observed,
) -> Manifest:
    """The routers. A new policy does not replace them; another served model does."""
    spec = deployment.spec
    fixed = config.model_dump(mode="json", exclude={"policy", "replicas_expected"})
    return {
        **child("apps/v1", "Deployment", names.router, owner, "router"),
        "spec": {
            "replicas": 0 if spec.suspend else spec.router.replicas,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "selector": {"matchLabels": matching(owner.name, "router")},
            "template": {
                "metadata": {
                    "labels": labels(owner.name, "router"),
                    "annotations": {ROLL_ANNOTATION: digest(fixed, observed.token)},
                },
                "spec": {
                    **placement(settings),
                    "serviceAccountName": names.service_account,
                    "automountServiceAccountToken": False,
                    "securityContext": pod_security(settings),
                    "terminationGracePeriodSeconds": grace_seconds(spec.drain.timeout_seconds),
                    "topologySpreadConstraints": [_spread(owner)],
                    "containers": [_container(names, settings)],
                    "volumes": [tmp_volume(), {"name": "config", "configMap": {"name": names.config}}],
                },
            },
        },
    }


def services(owner: Owner, names: Names) -> tuple[Manifest, Manifest]:
    """The Service that clients use, and the headless one that replicas report to.

    Reports also go to routers that are not ready: only reports make them so, and one that drains still needs them.
    """
    public = {
        **child("v1", "Service", names.router, owner, "router"),
        "spec": {
            "type": "ClusterIP",
            "selector": matching(owner.name, "router"),
            "ports": [_port("http", PUBLIC_PORT)],
        },
    }
    reports = {
        **child("v1", "Service", names.reports, owner, "reports"),
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": matching(owner.name, "router"),
            "ports": [_port("internal", INTERNAL_PORT)],
        },
    }
    return public, reports


def _container(names: Names, settings: Settings) -> dict[str, Any]:
    return {
        "name": "router",
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["python", "-m", "trimode_router", "--config", f"{CONFIG_FOLDER}/{CONFIG_KEY}"],
        "env": [*user_variables(), token_variable(names)],
        "ports": [
            {"name": "http", "containerPort": PUBLIC_PORT, "protocol": "TCP"},
            {"name": "internal", "containerPort": INTERNAL_PORT, "protocol": "TCP"},
        ],
        "resources": resources(settings.router),
        "securityContext": container_security(),
        "volumeMounts": [tmp_mount(), {"name": "config", "mountPath": CONFIG_FOLDER, "readOnly": True}],
        "livenessProbe": http_probe("/healthz", "http", period_s=10),
        "readinessProbe": http_probe("/readyz", "http", period_s=2, failures=2),
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(LEAVE_S)]}}},
    }


def _port(name: str, number: int) -> dict[str, Any]:
    return {"name": name, "port": number, "targetPort": name, "protocol": "TCP"}


def _spread(owner: Owner) -> dict[str, Any]:
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": matching(owner.name, "router")},
    }
