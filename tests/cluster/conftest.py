"""A real control plane for the session, with our CRDs; doubles of nodes and KubeRay for the tests that serve."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from trimode_e2e import kubectl as kubectl_programs
from trimode_e2e.control.provide import Cluster, provide
from trimode_e2e.crds import ROOT
from trimode_e2e.errors import Missing
from trimode_e2e.helm import Helm, helm_python
from trimode_e2e.kubectl import Kubectl
from trimode_e2e.operator_process import HOME, LEASE, Operator
from trimode_e2e.world import PAPER, World


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    try:
        with provide() as found:
            yield found
    except Missing as exc:
        pytest.skip(str(exc))


@pytest.fixture(scope="session")
def world(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The cluster with our CRDs; nothing runs on it."""
    return World.create(cluster, tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def playing(world: World) -> Iterator[World]:
    """The same with pods and RayServices brought to life."""
    if not world.cluster.has_controllers:
        pytest.skip(f"{world.cluster.origin}: no controller manager, so no Deployment ever gets pods")
    try:
        try:
            world.play()
        except Missing as exc:
            pytest.skip(str(exc))
        yield world
    finally:
        world.stop()


@pytest.fixture
def namespace(world: World) -> Iterator[str]:
    name = world.namespace()
    yield name
    world.api.delete("v1", "Namespace", name)


@pytest.fixture
def paper(world: World) -> Iterator[str]:
    """A namespace for objects only: nothing in it is played."""
    name = world.namespace(PAPER)
    yield name
    world.api.delete("v1", "Namespace", name)


@pytest.fixture(scope="session")
def kubectl(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    try:
        return Kubectl(kubectl_programs.find(), cluster.kubeconfig, tmp_path_factory.mktemp("kubectl"))
    except Missing as exc:
        pytest.skip(f"kubectl is not on the path and cannot be fetched: {exc}")


@pytest.fixture(scope="session")
def rights(world: World) -> Path:
    """A kubeconfig with the rights that the chart gives the operator, and no others."""
    world.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HOME}})
    if world.cluster.plane is None:
        warnings.warn("an existing cluster: the operator runs with the rights of its kubeconfig", stacklevel=1)
        return world.cluster.kubeconfig
    try:
        with Helm(helm_python()) as helm:
            rendered = helm.render(ROOT / "charts" / "trimode", release=LEASE, namespace=HOME)
    except Missing as exc:
        pytest.skip(f"the chart cannot be rendered, so the operator's rights are unknown: {exc}")
    for kind in ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"):
        for manifest in rendered.of(kind):
            if kind.startswith("Role"):
                manifest["metadata"].setdefault("namespace", HOME)
            world.api.apply(manifest)
    account = rendered.one("ServiceAccount")["metadata"]["name"]
    return world.cluster.plane.kubeconfig_of(f"system:serviceaccount:{HOME}:{account}", ("system:serviceaccounts",))


@pytest.fixture(scope="module")
def operator(rights: Path, folder: Path, request: pytest.FixtureRequest) -> Iterator[Operator]:
    """The operator, for the tests of one module."""
    running = Operator.start(rights, folder, name=request.module.__name__)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")
