"""Kueue: quota for the pods of a fleet.

What is handed through to the RayService. KubeRay copies labels and annotations of a RayService to the Ray clusters that
it makes of it, and Kueue admits those: it holds a cluster with `suspend` until there is quota.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trimode_api.resource import Metadata

PREFIX = "kueue.x-k8s.io/"
QUEUE_LABEL = f"{PREFIX}queue-name"


def queue_metadata(metadata: Metadata) -> dict[str, dict[str, str]]:
    """Kueue's labels and annotations of the resource, as they are; nothing of others."""
    given = {"labels": metadata.labels, "annotations": metadata.annotations}
    return {
        name: {key: value for key, value in (pairs or {}).items() if key.startswith(PREFIX)}
        for name, pairs in given.items()
    }


def queue_of(body: Mapping[str, Any]) -> str:
    """The queue that an object waits in; empty where in none."""
    return str((body["metadata"].get("labels") or {}).get(QUEUE_LABEL) or "")
