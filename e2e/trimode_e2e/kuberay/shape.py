"""What a change of a RayService's `rayClusterConfig` means.

Belongs here: pure comparison and reading of the spec, as KubeRay does it.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Any

COUNTS = ("replicas", "minReplicas", "maxReplicas", "scaleStrategy")
"""Of a worker group: changes of these make no new cluster."""


@dataclass(frozen=True, slots=True)
class Group:
    """A worker group: bounds of its pods, and what each has. `environment` is its container's, unresolved."""

    name: str
    least: int
    most: int
    cpus: float
    gpus: float
    resources: dict[str, float]
    environment: list[dict[str, Any]]


def in_place(running: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether the running cluster can become the wanted one: same but for counts and groups added at the end."""
    before, after = _without_counts(running), _without_counts(wanted)
    groups_before, groups_after = before.pop("workerGroupSpecs", []), after.pop("workerGroupSpecs", [])
    return before == after and groups_after[: len(groups_before)] == groups_before


def groups(cluster: dict[str, Any]) -> tuple[Group, ...]:
    """The worker groups of a `rayClusterConfig`."""
    return tuple(_group(spec) for spec in cluster.get("workerGroupSpecs", []))


def _group(spec: dict[str, Any]) -> Group:
    start = spec.get("rayStartParams", {})
    return Group(
        name=spec["groupName"],
        least=int(spec.get("minReplicas", 0)),
        most=int(spec.get("maxReplicas", 1)),
        cpus=float(start.get("num-cpus", 1)),
        gpus=float(start.get("num-gpus", 0)),
        resources=_resources(start.get("resources", "")),
        environment=spec["template"]["spec"]["containers"][0].get("env", []),
    )


def _resources(text: str) -> dict[str, float]:
    """The value as it is after the shell that KubeRay hands it to: JSON, perhaps quoted as a JSON string."""
    if not text:
        return {}
    value: Any = " ".join(shlex.split(text))
    for _ in range(2):
        value = json.loads(value) if isinstance(value, str) else value
    return {name: float(amount) for name, amount in value.items()}


def _without_counts(cluster: dict[str, Any]) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(cluster))
    copy["workerGroupSpecs"] = [
        {key: value for key, value in spec.items() if key not in COUNTS} for spec in copy.get("workerGroupSpecs", [])
    ]
    return copy
