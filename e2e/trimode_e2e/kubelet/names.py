"""Cluster DNS: names of Services for the processes that look them up with the C library.

Belongs here: a hosts file kept current, and nss_wrapper, a small library of Debian's that makes a process read it
instead of /etc/hosts.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path

from trimode_e2e.api import Api
from trimode_e2e.control.build import SUITE, cache_folder
from trimode_e2e.control.debian import Debian, unpack
from trimode_e2e.errors import Broken
from trimode_e2e.kubelet.pod import Pod

LIBRARY = "libnss_wrapper.so"
PACKAGE = "libnss-wrapper"
DOMAIN = "svc.cluster.local"
_SYSTEM = (Path("/usr/lib"), Path("/usr/lib64"))


class Names:
    """The hosts file. A Service's name stands for its ready pods, or for all where it publishes those."""

    def __init__(self, api: Api, file: Path) -> None:
        self.file = file
        self._api = api
        self._lock = threading.Lock()
        self._stamp = 1_000_000_000
        self._write([])

    def environment(self) -> dict[str, str]:
        """For processes that shall know the names. Raises Missing where the library cannot be had."""
        return {"LD_PRELOAD": str(library()), "NSS_WRAPPER_HOSTS": str(self.file)}

    def update(self, pods: Iterable[Pod]) -> None:
        """Write the file anew. Where the API server is away it stays as it is."""
        with self._lock:
            try:
                services = self._api.listed("v1", "Service")
            except Exception:  # noqa: BLE001 - whatever keeps the server away, names stay
                return
            self._write(
                f"{pod.address} {name}.{DOMAIN} {name}.svc {name}"
                for service in services
                for pod in pods
                if (name := _name(service, pod))
            )

    def _write(self, lines: Iterable[str]) -> None:
        new = self.file.with_suffix(".new")
        new.write_text("\n".join(["127.0.0.1 localhost", *sorted(lines), ""]))
        # The library looks at the time of change, in whole seconds.
        self._stamp += 1
        os.utime(new, (self._stamp, self._stamp))
        new.rename(self.file)


def _name(service: dict[str, object], pod: Pod) -> str:
    """`service.namespace` where the Service stands for the pod, else nothing."""
    metadata, spec = service["metadata"], service["spec"]
    assert isinstance(metadata, dict)
    assert isinstance(spec, dict)
    selector = spec.get("selector") or {}
    ours = metadata["namespace"] == pod.namespace and selector and selector.items() <= pod.labels.items()
    seen = pod.ready or spec.get("publishNotReadyAddresses", False)
    return f"{metadata['name']}.{metadata['namespace']}" if ours and seen else ""


def library() -> Path:
    """nss_wrapper: the system's, or fetched once beside the control plane. Raises Missing."""
    for folder in _SYSTEM:
        if found := next(folder.glob(f"*/{LIBRARY}"), None):
            return found
    root = cache_folder() / PACKAGE
    if found := next(root.glob(f"usr/lib/*/{LIBRARY}"), None):
        return found
    debian = Debian(SUITE, root / "apt")
    debian.prepare()
    unpack(debian.download(root / "debs", PACKAGE), root)
    if found := next(root.glob(f"usr/lib/*/{LIBRARY}"), None):
        return found
    raise Broken(f"Debian's {PACKAGE} has no {LIBRARY}")
