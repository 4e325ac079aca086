"""What a container's process is started with, from its pod's spec.

Belongs here: command, environment, files of volumes. Paths in a container become paths below the pod's folder, the
wildcard address becomes the pod's own, because all pods share this machine.
"""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WILDCARD = "0.0.0.0"

Lookup = Callable[[str, str], dict[str, Any] | None]
"""(kind, name) to the ConfigMap or Secret of the pod's namespace."""


class NotYet(Exception):
    """Something that the pod refers to is not there yet; the text says what."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A process to start."""

    command: list[str]
    environment: dict[str, str]


def prepare(pod: dict[str, Any], folder: Path, address: str, look_up: Lookup) -> Launch:
    """Write the pod's volumes below `folder`. Raises NotYet; ValueError for what a pod here cannot have."""
    spec = pod["spec"]
    if len(spec["containers"]) != 1 or spec.get("initContainers"):
        raise ValueError("exactly one container, and no init containers")
    container = spec["containers"][0]
    for volume in spec.get("volumes", []):
        _fill(volume, folder / "volumes" / volume["name"], address, look_up)
    paths = {m["mountPath"]: folder / "volumes" / m["name"] for m in container.get("volumeMounts", [])}
    words = [*container.get("command", []), *container.get("args", [])]
    environment = {v["name"]: _value(v, pod, address, look_up) for v in container.get("env", [])}
    return Launch(
        [_local(word, paths) for word in words],
        _inherited() | {name: _local(value, paths) for name, value in environment.items()},
    )


def _inherited() -> dict[str, str]:
    """The image, so to speak: this interpreter as `python`, and nothing that Kubernetes or Ray said to the tests."""
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    kept = ("LANG", "LC_ALL", "TZ", "LD_PRELOAD", "NSS_WRAPPER_HOSTS")
    return {"PATH": path} | {name: os.environ[name] for name in kept if name in os.environ}


def _fill(volume: dict[str, Any], folder: Path, address: str, look_up: Lookup) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if "emptyDir" in volume:
        return
    if "configMap" in volume:
        data = _found("ConfigMap", volume["configMap"]["name"], look_up).get("data", {})
        content = {key: text.replace(WILDCARD, address).encode() for key, text in data.items()}
    elif "secret" in volume:
        data = _found("Secret", volume["secret"]["secretName"], look_up).get("data", {})
        content = {key: base64.b64decode(text) for key, text in data.items()}
    elif "projected" in volume:
        return  # the ServiceAccount's token: nothing here talks to the API server from a pod
    else:
        raise ValueError(f"volume {volume['name']!r}: only emptyDir, configMap and secret")
    for key, value in content.items():
        (folder / key).write_bytes(value)


def _value(variable: dict[str, Any], pod: dict[str, Any], address: str, look_up: Lookup) -> str:
    source = variable.get("valueFrom")
    if source is None:
        return str(variable.get("value", ""))
    if "secretKeyRef" in source:
        wanted = source["secretKeyRef"]
        data = _found("Secret", wanted["name"], look_up).get("data", {})
        if wanted["key"] not in data:
            raise NotYet(f"secret {wanted['name']!r} has no key {wanted['key']!r}")
        return base64.b64decode(data[wanted["key"]]).decode()
    field = source.get("fieldRef", {}).get("fieldPath")
    known = {
        "metadata.name": pod["metadata"]["name"],
        "metadata.namespace": pod["metadata"]["namespace"],
        "status.podIP": address,
    }
    if field not in known:
        raise ValueError(f"variable {variable['name']!r}: {source} is not played here")
    return str(known[field])


def _found(kind: str, name: str, look_up: Lookup) -> dict[str, Any]:
    found = look_up(kind, name)
    if found is None:
        raise NotYet(f"{kind} {name!r} is not there")
    return found


def _local(text: str, paths: dict[str, Path]) -> str:
    """The text with a mounted path at its start put below the pod's folder."""
    for mounted, folder in paths.items():
        if text == mounted or text.startswith(mounted.rstrip("/") + "/"):
            return str(folder) + text[len(mounted) :]
    return text
