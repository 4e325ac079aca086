"""Watches the objects of one fleet and keeps every change that a reader of statuses could act on.

Belongs here: the watches, and which fields are kept. What happens meanwhile is `scenarios`' matter.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimode_e2e.api import Api, Object
from trimode_e2e.world import KIND, RAY, RAY_CLUSTER, VERSION

WATCHED = (RAY, RAY_CLUSTER, ("v1", "Pod"), ("apps/v1", "Deployment"), (VERSION, KIND))
NAMESPACE = "recorded"
"""What every namespace is called in a recording."""
TIMES = ("lastTransitionTime", "lastUpdateTime", "healthLastUpdateTime", "lastProbeTime", "startTime", "startedAt")
DROPPED = frozenset(
    (*TIMES, "finishedAt", "stateTransitionTimes", "containerID", "imageID", "podIP", "serviceIP", "endpoints", "url")
)
"""Times, addresses and identities: they differ from run to run, and nothing is decided by them."""
POD_STATUS = ("phase", "conditions", "initContainerStatuses", "containerStatuses")
CONTAINER = ("name", "ready", "restartCount", "state", "lastState")
METADATA = ("name", "namespace", "generation", "annotations", "deletionTimestamp")
LABELS = ("app.kubernetes.io/component", "app.kubernetes.io/instance", "trimode.dev/pool")


class Recorder:
    """From `start` on it keeps changes of all objects in a namespace; `begin` and `written` mark a sequence."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self._kubeconfig, self._namespace = kubeconfig, namespace
        self._lock = threading.Lock()
        self._now: dict[tuple[str, str], Object] = {}
        self._steps: list[Object] = []
        self._begun = time.monotonic()

    def start(self) -> None:
        """The watches end with the process."""
        for api_version, kind in WATCHED:
            threading.Thread(target=self._watch, args=(api_version, kind), daemon=True).start()

    def begin(self) -> None:
        """A sequence starts with every object as it is now, at second 0."""
        with self._lock:
            self._begun = time.monotonic()
            self._steps = [{"at": 0.0, **_named(key), "object": body} for key, body in sorted(self._now.items())]

    def written(self, file: Path, about: Mapping[str, str]) -> int:
        """The sequence since `begin` as JSON, one step a line; how many steps it has."""
        with self._lock:
            steps = list(self._steps)
        lines = ",\n".join(json.dumps(step, sort_keys=True) for step in steps)
        file.write_text(f'{{"about": {json.dumps(dict(about))}, "steps": [\n{lines}\n]}}\n')
        return len(steps)

    def _watch(self, api_version: str, kind: str) -> None:
        api = Api(self._kubeconfig)  # the client's discovery is not made for several threads
        for event, body in api.watched(api_version, kind, self._namespace):
            self._take(kind, event == "DELETED", trimmed(kind, body))

    def _take(self, kind: str, gone: bool, body: Object) -> None:
        key = kind, body["metadata"]["name"]
        with self._lock:
            if gone:
                self._now.pop(key, None)
            elif self._now.get(key) == body:
                return
            else:
                self._now[key] = body
            at = round(time.monotonic() - self._begun, 2)
            self._steps.append({"at": at, **_named(key), "object": None if gone else body})


def trimmed(kind: str, body: Mapping[str, Any]) -> Object:
    """The fields that are kept of an object."""
    metadata = {key: value for key, value in body["metadata"].items() if key in METADATA}
    metadata["namespace"] = NAMESPACE
    metadata["labels"] = {key: value for key, value in (body["metadata"].get("labels") or {}).items() if key in LABELS}
    if "deletionTimestamp" in metadata:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    status: Any = body.get("status") or {}
    if kind == "Pod":
        metadata.pop("annotations", None)
        status = {key: status[key] for key in POD_STATUS if key in status}
        for key in POD_STATUS[2:]:
            if key in status:
                status[key] = [{name: each[name] for name in CONTAINER if name in each} for each in status[key]]
    return {"metadata": metadata, "spec": _spec(kind, body.get("spec") or {}), "status": _without_noise(status)}


def _spec(kind: str, spec: Mapping[str, Any]) -> Object:
    """Of specs: the numbers that statuses are compared with."""
    if kind == "RayService":
        return {"rayClusterConfig": _spec("RayCluster", spec["rayClusterConfig"])}
    if kind == "RayCluster":
        kept = ("groupName", "replicas", "minReplicas", "maxReplicas")
        groups = [{key: group[key] for key in kept if key in group} for group in spec.get("workerGroupSpecs") or []]
        return {"workerGroupSpecs": groups}
    return {"replicas": spec["replicas"]} if kind == "Deployment" else {}


def _without_noise(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_noise(part) for key, part in value.items() if key not in DROPPED}
    return [_without_noise(part) for part in value] if isinstance(value, list) else value


def _named(key: tuple[str, str]) -> Object:
    return {"kind": key[0], "name": key[1]}
