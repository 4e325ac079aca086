"""A cluster to test on, wherever it comes from.

Belongs here: the choice between an existing cluster, envtest's binaries and our own build; the environment is read
here.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trimode_e2e.control.build import Say, build, built
from trimode_e2e.control.plane import ControlPlane
from trimode_e2e.errors import Missing

KUBECONFIG = "TRIMODE_KUBECONFIG"
ENVTEST = "KUBEBUILDER_ASSETS"
WAYS = (
    f"set {KUBECONFIG} to the kubeconfig of a cluster that the tests may use (kind will do), or {ENVTEST} to a folder "
    "with envtest's etcd and kube-apiserver, or run `make cluster-test` on Debian or with its apt, which builds both"
)


@dataclass(frozen=True, slots=True)
class Cluster:
    """`plane` is None for an existing cluster: then nothing of it is stopped, started or read from disk."""

    kubeconfig: Path
    origin: str
    plane: ControlPlane | None = None

    @property
    def has_controllers(self) -> bool:
        return self.plane is None or self.plane.has_controllers


@contextmanager
def provide() -> Iterator[Cluster]:
    """A running cluster; what was started for it is ended. Raises Missing where none is at hand, see `prepare`."""
    if existing := os.environ.get(KUBECONFIG):
        if not Path(existing).is_file():
            raise Missing(f"{KUBECONFIG} names {existing!r}, which is no file")
        yield Cluster(Path(existing), f"the cluster of {KUBECONFIG}")
        return
    binaries, origin = _binaries()
    # Not below a long path: unix sockets of what runs in it have short names.
    with tempfile.TemporaryDirectory(prefix="trimode-cp-", ignore_cleanup_errors=True) as folder:
        plane = ControlPlane(binaries, Path(folder))
        try:
            plane.start()
            yield Cluster(plane.admin, origin, plane)
        finally:
            plane.stop()


def prepare(say: Say) -> str:
    """Build the binaries if nothing else is at hand; where the cluster will come from, in words."""
    if os.environ.get(KUBECONFIG):
        return f"the cluster of {KUBECONFIG}"
    if os.environ.get(ENVTEST):
        return f"the binaries in {ENVTEST}"
    return f"our own build in {build(say)}"


def _binaries() -> tuple[Path, str]:
    if assets := os.environ.get(ENVTEST):
        return Path(assets), f"the binaries in {ENVTEST}"
    found = built()
    if found is None:
        raise Missing(f"there is no control plane here: {WAYS}")
    return found, "our own build"
