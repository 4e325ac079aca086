"""What a container's process is started with, from its pod's spec.

Belongs here: command, environment, files of volumes. Paths in a container become paths below the pod's folder, also in
ConfigMaps, and the wildcard address becomes the pod's own, because all pods share this machine.
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
    paths = {m["mountPath"]: folder / "volumes" / m["name"] for m in container.get("volumeMounts", [])}
    for volume in spec.get("volumes", []):
        _fill(volume, folder / "volumes" / volume["name"], address, paths, look_up)
    words = [*container.get("command", []), *container.get("args", [])]
    environment = {v["name"]: _value(v, pod, address, look_up) for v in container.get("env", [])}
    return Launch(
        [_local(word, paths) for word in words],
        _inherited() | {name: _local(value, paths) for name, value in environment.items()},
    )


def renew(pod: dict[str, Any], folder: Path, look_up: Lookup) -> None:
    """Bring files from Secrets up to date, as a kubelet does while a pod runs; one that was deleted stays as it was."""
    for volume in pod["spec"].get("volumes", []):
        if "secret" in volume and (found := look_up("Secret", volume["secret"]["secretName"])) is not None:
            _write(folder / "volumes" / volume["name"], _decoded(found))


def _inherited() -> dict[str, str]:
    """The image, so to speak: this interpreter as `python`, and nothing that Kubernetes or Ray said to the tests."""
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    kept = ("LANG", "LC_ALL", "TZ", "LD_PRELOAD", "NSS_WRAPPER_HOSTS")
    return {"PATH": path} | {name: os.environ[name] for name in kept if name in os.environ}


def _fill(volume: dict[str, Any], folder: Path, address: str, paths: dict[str, Path], look_up: Lookup) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if "emptyDir" in volume:
        return
    if "configMap" in volume:
        data = _found("ConfigMap", volume["configMap"]["name"], look_up).get("data", {})
        content = {key: _quoted_local(text.replace(WILDCARD, address), paths).encode() for key, text in data.items()}
    elif "secret" in volume:
        content = _decoded(_found("Secret", volume["secret"]["secretName"], look_up))
    elif "projected" in volume:
        return  # the ServiceAccount's token: nothing here talks to the API server from a pod
    else:
        raise ValueError(f"volume {volume['name']!r}: only emptyDir, configMap and secret")
    _write(folder, content)


def _decoded(secret: dict[str, Any]) -> dict[str, bytes]:
    return {key: base64.b64decode(text) for key, text in (secret.get("data") or {}).items()}


def _write(folder: Path, content: dict[str, bytes]) -> None:
    """Each file at once, and only where it differs."""
    for key, value in content.items():
        file = folder / key
        if file.is_file() and file.read_bytes() == value:
            continue
        new = folder / f".{key}.new"
        new.write_bytes(value)
        new.rename(file)
    for file in folder.iterdir():
        if file.name not in content:
            file.unlink()


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


def _quoted_local(text: str, paths: dict[str, Path]) -> str:
    """The same for every quoted path in a text."""
    for mounted, folder in paths.items():
        text = text.replace(f'"{mounted.rstrip("/")}/', f'"{folder}/')
    return text
