"""Clusters for the session: `world` on paper, where nothing runs, and the real one with a node in `real/`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from trimode_e2e.control import provide
from trimode_e2e.control.build import CLUSTER, built
from trimode_e2e.control.provide import Cluster
from trimode_e2e.crds import ROOT
from trimode_e2e.errors import Missing
from trimode_e2e.helm import Helm, helm_program
from trimode_e2e.kubectl import Kubectl
from trimode_e2e.operator_process import HOME, LEASE, Operator
from trimode_e2e.world import World


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """API server and controllers without a node: objects live, and nothing runs."""
    try:
        with provide.paper() as found:
            yield found
    except Missing as exc:
        pytest.skip(str(exc))


@pytest.fixture(scope="session")
def world(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The cluster with our CRD and KubeRay's."""
    return World.create(cluster, tmp_path_factory.mktemp("world"))


@pytest.fixture
def namespace(world: World) -> Iterator[str]:
    name = world.namespace()
    yield name
    world.api.delete("v1", "Namespace", name)


@pytest.fixture(scope="session")
def kubectl(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    programs = built(CLUSTER)
    if programs is None:
        pytest.skip("kubectl is not built: run `make cluster-programs`")
    return Kubectl(programs / "kubectl", cluster.kubeconfig, tmp_path_factory.mktemp("kubectl"))


@pytest.fixture(scope="session")
def rights(world: World) -> Path:
    """A kubeconfig with the rights that the chart gives the operator, and no others."""
    world.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HOME}})
    if world.cluster.plane is None:
        warnings.warn("an existing cluster: the operator runs with the rights of its kubeconfig", stacklevel=1)
        return world.cluster.kubeconfig
    rendered = Helm(helm_program()).render(ROOT / "charts" / "trimode", release=LEASE, namespace=HOME)
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
