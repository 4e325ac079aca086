"""What a pool says of its own pods, beside what the settings say of all.

Belongs here: pure translation of a pool's `pod`. Where nothing of it is written nothing is added: KubeRay answers any
change of a pod template with another cluster.
"""

from __future__ import annotations

from typing import Any

from trimode_api.resource import Pool
from trimode_api.serving import Pod
from trimode_operator.plan.pods import placement
from trimode_operator.plan.settings import Settings

_AS_THEY_ARE = ("runtimeClassName", "priorityClassName", "affinity", "topologySpreadConstraints", "resourceClaims")


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
    """What is there and not empty."""
    written = (pool.pod or Pod()).model_dump(mode="json", by_alias=True, exclude_none=True)
    return {name: value for name, value in written.items() if value}
