"""What all of our pods have in common (hardening, writable folders, where they may run), and what a pool adds."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from trimode_api.resource import Pool
from trimode_api.serving import Pod
from trimode_api.wire import TOKEN_VARIABLE
from trimode_operator.plan.names import TOKEN_KEY, Names
from trimode_operator.plan.settings import PodResources, Settings

TMP = "tmp"
_AS_THEY_ARE = ("runtimeClassName", "priorityClassName", "affinity", "topologySpreadConstraints", "resourceClaims")
"""Fields of a pool's `pod` that are taken over as they are."""
GRACE_RUNGS_S = (600, 3600, 14400, 86400)
GRACE_MARGIN_S = 60
"""What ending takes beside the drain, in seconds: the pause before it, last answers, the engine's own end."""
ROLL_ANNOTATION = "trimode.dev/roll"
"""On pod templates: changes where pods have to be replaced although their own fields stay the same."""


def pod_security(settings: Settings) -> dict[str, Any]:
    """Security context of a pod: never root, and no system calls beyond the runtime's default set."""
    user = settings.run_as_user
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> dict[str, Any]:
    """Security context of a container. What has to be writable is a volume."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def tmp_volume() -> dict[str, Any]:
    return {"name": TMP, "emptyDir": {}}


def tmp_mount() -> dict[str, Any]:
    return {"name": TMP, "mountPath": "/tmp"}


def user_variables() -> list[dict[str, Any]]:
    """Caches and settings of libraries go where writing is allowed; the user has no entry that could name them."""
    return [{"name": "HOME", "value": "/tmp"}, {"name": "USER", "value": "trimode"}]


def token_variable(names: Names) -> dict[str, Any]:
    """The fleet's token, from its Secret."""
    return {"name": TOKEN_VARIABLE, "valueFrom": {"secretKeyRef": {"name": names.secret, "key": TOKEN_KEY}}}


def resources(given: PodResources) -> dict[str, Any]:
    """Memory is bounded by what is asked for; cores are not, since a bound would only throttle."""
    return {"requests": {"cpu": given.cpu, "memory": given.memory}, "limits": {"memory": given.memory}}


def placement(settings: Settings) -> dict[str, Any]:
    """Fields of a pod's spec that say where it may run and how its image is had."""
    fields: dict[str, Any] = {}
    if settings.node_selector:
        fields["nodeSelector"] = dict(settings.node_selector)
    if settings.tolerations:
        # A change of these never reaches a running cluster: KubeRay leaves them out of its comparison since 1.5.2.
        fields["tolerations"] = [dict(toleration) for toleration in settings.tolerations]
    if settings.image_pull_secrets:
        fields["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    return fields


def grace_seconds(drain_timeout_s: int) -> int:
    """Termination grace above a drain of this length, in seconds.

    In rungs, because the grace is part of the pod template: a small change of the drain must not replace pods. A
    grace that is longer than the drain costs nothing; the drain itself ends on time.
    """
    # KubeRay answers any change of a pod template with a second cluster.
    return next(rung for rung in GRACE_RUNGS_S if drain_timeout_s <= rung) + GRACE_MARGIN_S


def digest(*parts: Any) -> str:
    """Short hash of plain data, the same for the same data."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def http_probe(
    path: str, port: int | str, *, period_s: int = 5, failures: int = 3, timeout_s: int = 5
) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period_s,
        "timeoutSeconds": timeout_s,
        "failureThreshold": failures,
    }


def pool_placement(pool: Pool, settings: Settings) -> dict[str, Any]:
    """Fields of the pods' spec: the settings', and the pool's own. A label of nodes that both name is the pool's."""
    fields, own = placement(settings), _written(pool)
    if "nodeSelector" in own:
        fields["nodeSelector"] = fields.get("nodeSelector", {}) | own["nodeSelector"]
    if "tolerations" in own:
        fields["tolerations"] = [*fields.get("tolerations", ()), *own["tolerations"]]
    return fields | {name: own[name] for name in _AS_THEY_ARE if name in own}


def pool_resources(pool: Pool, settings: Settings) -> dict[str, Any]:
    """Resources of the worker's container. GPUs come from the pod's claims of devices where it has any."""
    given, claims = pool.resources, _written(pool).get("resourceClaims", ())
    gpus = {settings.gpu_resource: str(given.gpus)} if given.gpus and not claims else {}
    return {
        "requests": {"cpu": given.cpu, "memory": given.memory, **gpus},
        "limits": {"memory": given.memory, **gpus},
        **({"claims": [{"name": claim["name"]} for claim in claims]} if claims else {}),
    }


def unnoticed(pool: Pool) -> tuple[Any, ...]:
    """What KubeRay leaves out of its comparison (tolerations, since 1.5.2), so that pods have to be rolled for it."""
    return tuple(_written(pool)[name] for name in ("tolerations",) if name in _written(pool))


def _written(pool: Pool) -> dict[str, Any]:
    """What is there and not empty. Where nothing of `pod` is written nothing is added: KubeRay answers any change of a
    pod template with another cluster."""
    written = (pool.pod or Pod()).model_dump(mode="json", by_alias=True, exclude_none=True)
    return {name: value for name, value in written.items() if value}
