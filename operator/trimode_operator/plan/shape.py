"""The shape of a Ray cluster: everything of it that KubeRay answers with another cluster when it changes.

A digest of it. KubeRay keeps one too, of its own typed and defaulted view of the spec, which nothing outside it can
compute; ours says which clusters were made from the same manifest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trimode_operator.plan.pods import digest

SHAPE_ANNOTATION = "trimode.dev/shape"
"""On the RayService. KubeRay copies a RayService's annotations to every RayCluster that it makes of it."""
COUNTS = ("replicas", "minReplicas", "maxReplicas")
"""Of a worker group: KubeRay leaves these out of its own comparison, and so never takes a change of them over."""


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
