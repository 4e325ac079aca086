"""The routers: their configuration, Deployment and Services. The manifests of everything in front of the pools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trimode_api.resource import NemotronDeployment
from trimode_api.spec import Router
from trimode_api.wire import PolicyConfig, RouterConfig
from trimode_operator.plan.model import Inputs, Manifest, Owner
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
from trimode_operator.plan.settings import Settings, Telemetry

CONFIG_FOLDER = "/etc/trimode"
KEYS_FOLDER = "/etc/trimode-keys"
KEYS_KEY = "keys.json"
"""In the Secret of `spec.router.auth`."""
TLS_FOLDER = "/etc/trimode-tls"
HEADERS_KEY = "headers"
"""In the Secret of `settings.telemetry`."""
SECRET_MODE = 0o440
"""Readable by the pod's group, which is the router's."""
LEAVE_S = 5
"""A router that is going still takes requests this long, in seconds, until no Service or gateway sends it any."""


@dataclass(frozen=True, slots=True)
class UserSecret:
    """A Secret that `field` of the resource names; routers find its files in `folder`, by `read_as` of their own
    configuration."""

    field: str
    read_as: str
    name: str
    volume: str
    folder: str


def user_secrets(router: Router) -> tuple[UserSecret, ...]:
    """Mounted as whole folders, because only these are renewed while a pod runs."""
    named: list[UserSecret] = []
    if router.auth is not None:
        named.append(
            UserSecret("spec.router.auth.secretName", "keysFile", router.auth.secret_name, "keys", KEYS_FOLDER)
        )
    if router.tls is not None:
        named.append(
            UserSecret("spec.router.tls.secretName", "tlsCertificate", router.tls.secret_name, "tls", TLS_FOLDER)
        )
    return tuple(named)


def router_config(deployment: NemotronDeployment, names: Names, policy: PolicyConfig) -> RouterConfig:
    """What a router is started with. It binds all addresses of its pod; one process, as more of them are more pods."""
    router = deployment.spec.router
    return RouterConfig(
        name=deployment.metadata.name,
        model=deployment.served_name,
        host="0.0.0.0",
        port=PUBLIC_PORT,
        internal_host="0.0.0.0",
        internal_port=INTERNAL_PORT,
        keys_file=f"{KEYS_FOLDER}/{KEYS_KEY}" if router.auth is not None else "",
        peers=(names.reports_url,) if router.auth is not None else (),
        tls_certificate=f"{TLS_FOLDER}/tls.crt" if router.tls is not None else "",
        tls_key=f"{TLS_FOLDER}/tls.key" if router.tls is not None else "",
        **router.edge(),
        policy=policy,
    )


def config_map(owner: Owner, names: Names, config: RouterConfig) -> Manifest:
    """Read when a router starts. Running ones get changes from the operator."""
    return {
        **child("v1", "ConfigMap", names.config, owner, "router"),
        "data": {CONFIG_KEY: config.model_dump_json(by_alias=True, indent=2)},
    }


def router_deployment(inputs: Inputs, config: RouterConfig) -> Manifest:
    """The routers. A new policy does not replace them; another served model does."""
    spec, owner, names = inputs.deployment.spec, inputs.owner, inputs.names
    fixed = config.model_dump(mode="json", exclude={"policy"})
    return {
        **child("apps/v1", "Deployment", names.router, owner, "router"),
        "spec": {
            "replicas": 0 if spec.suspend else spec.router.replicas,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "selector": {"matchLabels": matching(owner.name, "router")},
            "template": {
                "metadata": {
                    "labels": labels(owner.name, "router"),
                    "annotations": {ROLL_ANNOTATION: digest(fixed, inputs.observed.token)},
                },
                "spec": {
                    **placement(inputs.settings),
                    "serviceAccountName": names.service_account,
                    "automountServiceAccountToken": False,
                    "securityContext": pod_security(inputs.settings),
                    "terminationGracePeriodSeconds": grace_seconds(spec.drain.timeout_seconds),
                    "topologySpreadConstraints": [
                        {
                            "maxSkew": 1,
                            "topologyKey": "kubernetes.io/hostname",
                            "whenUnsatisfiable": "ScheduleAnyway",
                            "labelSelector": {"matchLabels": matching(owner.name, "router")},
                        }
                    ],
                    "containers": [_container(spec.router, names, inputs.settings)],
                    "volumes": [
                        tmp_volume(),
                        {"name": "config", "configMap": {"name": names.config}},
                        *(
                            {"name": each.volume, "secret": {"secretName": each.name, "defaultMode": SECRET_MODE}}
                            for each in user_secrets(spec.router)
                        ),
                    ],
                },
            },
        },
    }


def services(router: Router, owner: Owner, names: Names) -> tuple[Manifest, Manifest]:
    """The Service that clients use, and the headless one that replicas report to.

    Gateways and meshes learn from the port that it is HTTPS. Reports also go to routers that are not ready: only
    reports make them so, and one that drains still needs them.
    """
    public = {
        **child("v1", "Service", names.router, owner, "router"),
        "spec": {
            "type": "ClusterIP",
            "selector": matching(owner.name, "router"),
            "ports": [_port("http", PUBLIC_PORT) | ({} if router.tls is None else {"appProtocol": "https"})],
        },
    }
    reports = {
        **child("v1", "Service", names.reports, owner, "reports"),
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "None",
            # Without it no router would ever get ready: readiness waits for reports, which come by this Service.
            "publishNotReadyAddresses": True,
            "selector": matching(owner.name, "router"),
            "ports": [_port("internal", INTERNAL_PORT)],
        },
    }
    return public, reports


def _container(router: Router, names: Names, settings: Settings) -> dict[str, Any]:
    readiness = http_probe("/readyz", "http", period_s=2, failures=2)
    liveness = http_probe("/healthz", "http", period_s=10)
    if router.tls is not None:
        readiness["httpGet"]["scheme"] = "HTTPS"
        # A certificate that cannot be used is no reason to restart: the router waits for a better one, and says so.
        liveness["httpGet"]["port"] = "internal"
    return {
        "name": "router",
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["python", "-m", "trimode_router", "--config", f"{CONFIG_FOLDER}/{CONFIG_KEY}"],
        "env": [*user_variables(), token_variable(names), *_telemetry_variables(settings.telemetry, names)],
        "ports": [
            {"name": "http", "containerPort": PUBLIC_PORT, "protocol": "TCP"},
            {"name": "internal", "containerPort": INTERNAL_PORT, "protocol": "TCP"},
        ],
        "resources": resources(settings.router),
        "securityContext": container_security(),
        "volumeMounts": [
            tmp_mount(),
            {"name": "config", "mountPath": CONFIG_FOLDER, "readOnly": True},
            *({"name": each.volume, "mountPath": each.folder, "readOnly": True} for each in user_secrets(router)),
        ],
        "livenessProbe": liveness,
        "readinessProbe": readiness,
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(LEAVE_S)]}}},
    }


def _telemetry_variables(telemetry: Telemetry | None, names: Names) -> list[dict[str, Any]]:
    """OpenTelemetry's own; the router reads no others."""
    if telemetry is None:
        return []
    # The pod's name first, as variables name only those before them. Instances of the same id would overwrite one
    # another's metrics; a pod has one router process.
    about = {
        "service.instance.id": "$(POD_NAME)",
        "k8s.pod.name": "$(POD_NAME)",
        "k8s.deployment.name": names.router,
        "k8s.namespace.name": names.namespace,
    }
    variables: list[dict[str, Any]] = [
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": telemetry.endpoint},
        {"name": "OTEL_TRACES_EXPORTER", "value": "otlp" if telemetry.traces else "none"},
        {"name": "OTEL_METRICS_EXPORTER", "value": "otlp" if telemetry.metrics else "none"},
        {"name": "OTEL_METRIC_EXPORT_INTERVAL", "value": str(1000 * telemetry.metric_seconds)},
        {"name": "OTEL_RESOURCE_ATTRIBUTES", "value": ",".join(f"{name}={value}" for name, value in about.items())},
    ]
    if telemetry.headers_secret is not None:
        # Optional: a fleet without the Secret serves, and its routers log that the collector refuses them.
        reference = {"name": telemetry.headers_secret, "key": HEADERS_KEY, "optional": True}
        variables.append({"name": "OTEL_EXPORTER_OTLP_HEADERS", "valueFrom": {"secretKeyRef": reference}})
    return variables


def _port(name: str, number: int) -> dict[str, Any]:
    return {"name": name, "port": number, "targetPort": name, "protocol": "TCP"}
