"""What the installed KubeRay knows, by the schema of its RayService, and what it answers with another Ray cluster.

The API server refuses the whole object for one field that it does not know. KubeRay keeps a digest of a cluster's
shape, of its own typed and defaulted view of the spec, which nothing outside it can compute; ours says which clusters
were made from the same manifest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trimode_operator.plan.pods import digest

RAYS_TOKEN = "rayClusterConfig.authOptions"
"""KubeRay 1.5.1 and later. Without it Ray runs without a token."""
NEEDED = (
    "serveConfigV2",
    "upgradeStrategy",
    "excludeHeadPodFromServeSvc",
    "rayClusterDeletionDelaySeconds",  # the last to come, with 1.5.0
    "rayClusterConfig.enableInTreeAutoscaling",
    "rayClusterConfig.autoscalerOptions",
)
OLDEST = "1.5.0"

SHAPE_ANNOTATION = "trimode.dev/shape"
"""On the RayService. KubeRay copies a RayService's annotations to every RayCluster that it makes of it."""
COUNTS = ("replicas", "minReplicas", "maxReplicas")
"""Of a worker group: KubeRay leaves these out of its own comparison, and so never takes a change of them over."""


def knows(spec: Mapping[str, Any], path: str) -> bool:
    """Whether the schema of a spec has the field; of a list, its items. A part that names no fields takes any."""
    at: Mapping[str, Any] = spec
    for name in path.split("."):
        fields = at.get("properties")
        if not fields:
            return True
        if name not in fields:
            return False
        at = fields[name].get("items", fields[name])
    return True


def lacking(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """The fields that we need and the schema does not have."""
    # By the schema, not by a version: KubeRay's operator and its CRDs are upgraded apart, and Helm upgrades no CRDs.
    return tuple(path for path in NEEDED if not knows(spec, path))


def replaces(service: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether KubeRay would answer the wanted `rayClusterConfig` with another cluster than that of the live service.

    Groups added at the end it takes over in place. False where the live shape is not known.
    """
    known = (service["metadata"].get("annotations") or {}).get(SHAPE_ANNOTATION)
    config = (service.get("spec") or {}).get("rayClusterConfig") or {}
    count = len(config.get("workerGroupSpecs") or ())
    return bool(known) and known != shape_of({**wanted, "workerGroupSpecs": wanted["workerGroupSpecs"][:count]})


def shape_of(config: Mapping[str, Any]) -> str:
    """Digest of a `rayClusterConfig` that we write."""
    groups = [{key: value for key, value in group.items() if key not in COUNTS} for group in config["workerGroupSpecs"]]
    # Counts in the digest would make each change of bounds look like an upgrade.
    return digest({**config, "workerGroupSpecs": groups})
