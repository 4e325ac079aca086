"""A cluster to test on, wherever it comes from.

Belongs here: the choice between a named cluster, envtest's binaries and what was built; the environment is read here.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trimode_e2e import crds, gateway, kuberay, netpol
from trimode_e2e.api import Api
from trimode_e2e.control.build import ALL, CLUSTER, GATEWAY, KEDA, OLDER, Say, build, built, cache_folder, module_folder
from trimode_e2e.control.plane import ControlPlane
from trimode_e2e.errors import Missing
from trimode_e2e.image import Image, pause
from trimode_e2e.image import build as build_image
from trimode_e2e.image.program import program
from trimode_e2e.kubectl import Kubectl
from trimode_e2e.node import machine, network, runtime
from trimode_e2e.node.node import RealNode

KUBECONFIG = "TRIMODE_KUBECONFIG"
ENVTEST = "KUBEBUILDER_ASSETS"
KUBERNETES, CONTAINERD = "k8s.io/kubernetes", "github.com/containerd/containerd/v2"
HOW = (
    f"run `make cluster-programs`, which builds all of it, or set {KUBECONFIG} to the kubeconfig of a cluster that the "
    f"tests may use (kind will do), or {ENVTEST} to a folder with envtest's etcd and kube-apiserver"
)


@dataclass(frozen=True, slots=True)
class Cluster:
    """`plane` and `node` are None where they are not ours: then nothing of them is stopped or read from disk."""

    kubeconfig: Path
    stands_on: str
    plane: ControlPlane | None = None
    node: RealNode | None = None


def prepare(say: Say) -> str:
    """Build what the tests need; what they will stand on, in words. Raises Missing and Broken."""
    if os.environ.get(KUBECONFIG) or os.environ.get(ENVTEST):
        return f"the cluster of {KUBECONFIG}" if os.environ.get(KUBECONFIG) else f"the binaries in {ENVTEST}"
    for module in ALL:
        build(module, say)
    for name in (gateway.API, gateway.INFERENCE):
        module_folder(GATEWAY, name)
    module_folder(KEDA, crds.KEDA_MODULE)
    runtime.prepare(say)
    build_image(cache_folder(), say)
    return words()


def words() -> str:
    """What a cluster of our own stands on."""
    kubernetes, containerd = CLUSTER.version(KUBERNETES), CLUSTER.version(CONTAINERD)
    return f"kubernetes {kubernetes}, kuberay {kuberay.version()}, containerd {containerd}, 1 node"


@contextmanager
def paper(version: str = "newest") -> Iterator[Cluster]:
    """API server and controllers without any node: objects live, nothing runs. Raises Missing.

    `version`: `newest`, or `oldest` for the API server alone of the oldest Kubernetes that the docs promise.
    """
    if existing := os.environ.get(KUBECONFIG):
        if version == "oldest":
            raise Missing(f"{KUBECONFIG} names one cluster; the oldest Kubernetes is tried without it")
        yield _named(existing)
        return
    binaries, etcd, origin = _binaries(version)
    with _plane(binaries, "127.0.0.1", etcd) as plane:
        yield Cluster(plane.admin, origin, plane)


@contextmanager
def real() -> Iterator[Cluster]:
    """A cluster with a node, KubeRay and enforced NetworkPolicies; the image of trimode lies on the node.

    The calling process moves into a network of its own for good. Raises Missing where this machine cannot.
    """
    if existing := os.environ.get(KUBECONFIG):
        yield _named(existing)
        return
    if os.environ.get(ENVTEST):
        raise Missing(f"{ENVTEST} holds no kubelet: {HOW}")
    machine.require()
    programs = runtime.find()
    older = built(OLDER)
    if older is None:
        raise Missing(f"KubeRay's operator is not here: {HOW}")
    # Before the network goes: where the image has changed since `prepare`, Debian's packages may be asked for anew.
    image = build_image(cache_folder(), _quiet)
    if not network.entered():
        network.enter()
    with _plane(programs.programs, network.ADDRESS) as plane:
        folder = plane.folder / "node"
        folder.mkdir()
        api = Api(plane.admin)
        node = RealNode(plane, api, programs, folder)
        try:
            node.start()
            _furnish(node, older, image, Kubectl(programs.programs / "kubectl", plane.admin, plane.folder))
            yield Cluster(plane.admin, words(), plane, node)
        finally:
            node.stop()


def _furnish(node: RealNode, older: Path, ours: Image, kubectl: Kubectl) -> None:
    """Images on the node, enforcement of NetworkPolicies, KubeRay."""
    cache, policies = cache_folder(), node.runtime.programs / "kube-network-policies"
    for each in (
        ours,
        pause(cache, _quiet),
        program(cache, _quiet, netpol.image(), policies, netpol.PROGRAM),
        program(cache, _quiet, kuberay.image(), older / "kuberay-operator", kuberay.PROGRAM, kuberay.USER),
    ):
        node.add_image(each)
    netpol.install(kubectl)
    kuberay.install(kubectl, node.api, node.folder / "kuberay")


def _quiet(_: str) -> None:
    """`prepare` has told of what takes long."""


def _named(kubeconfig: str) -> Cluster:
    if not Path(kubeconfig).is_file():
        raise Missing(f"{KUBECONFIG} names {kubeconfig!r}, which is no file")
    version = ".".join(map(str, Api(Path(kubeconfig)).version))
    return Cluster(Path(kubeconfig), f"kubernetes {version}, the cluster of {KUBECONFIG}")


@contextmanager
def _plane(binaries: Path, address: str, etcd: Path | None = None) -> Iterator[ControlPlane]:
    # Not below a long path: unix sockets of what runs in it have short names.
    with tempfile.TemporaryDirectory(prefix="trimode-", ignore_cleanup_errors=True) as folder:
        plane = ControlPlane(binaries, Path(folder), address, etcd)
        try:
            plane.start()
            yield plane
        finally:
            plane.stop()


def _binaries(version: str) -> tuple[Path, Path | None, str]:
    """The folder, etcd where it is elsewhere, and what it is in words."""
    if assets := os.environ.get(ENVTEST):
        return Path(assets), None, f"the binaries in {ENVTEST}"
    newest, older = built(CLUSTER), built(OLDER)
    if newest is None or older is None:
        raise Missing(f"there is no control plane here: {HOW}")
    if version == "oldest":
        return older, newest / "etcd", f"kubernetes {OLDER.version(KUBERNETES)}"
    return newest, None, f"kubernetes {CLUSTER.version(KUBERNETES)}"
