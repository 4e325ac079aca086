"""What the installed KubeRay knows, by the schema of its RayService.

Fields that came with some version of KubeRay, and which of them we cannot do without. The API server refuses the whole
object for one field that it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
