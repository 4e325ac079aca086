"""The real cluster, with the operator installed by helm from the chart as it is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trimode_e2e.control import provide
from trimode_e2e.crds import ROOT
from trimode_e2e.errors import Missing
from trimode_e2e.forward import Forwards
from trimode_e2e.helm import SMALL_VALUES, Helm, helm_program
from trimode_e2e.kubectl import Kubectl, kubectl_program
from trimode_e2e.operator_pods import OperatorPods
from trimode_e2e.world import World

CHART = ROOT / "charts" / "trimode"
RELEASE, HOME = "trimode", "trimode-system"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of these need the node, and some wait for several Ray clusters one after the other."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A cluster with a node and KubeRay; our CRD comes with the chart."""
    try:
        with provide.real() as cluster:
            print(f"\n{cluster.stands_on}")
            world = World.create(cluster, tmp_path_factory.mktemp("world"), with_ours=False)
            if cluster.node is None:
                world.forwards = Forwards(kubectl_program(), cluster.kubeconfig, tmp_path_factory.mktemp("forwards"))
            yield world
            if world.forwards is not None:
                world.forwards.stop()
    except Missing as exc:
        pytest.skip(str(exc))


@pytest.fixture(scope="session")
def kubectl(world: World, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    return Kubectl(kubectl_program(), world.cluster.kubeconfig, tmp_path_factory.mktemp("kubectl"))


@pytest.fixture(scope="session")
def helm(world: World) -> Helm:
    return Helm(helm_program(), world.cluster.kubeconfig)


@pytest.fixture(scope="session")
def installed(world: World, helm: Helm) -> World:
    """The chart, installed as docs/install.md says; its pods are ready."""
    world.api.create(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": HOME, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }
    )
    begun = time.monotonic()
    helm.install(CHART, SMALL_VALUES, "--wait", release=RELEASE, namespace=HOME)
    print(f"\nhelm install to operator Ready: {time.monotonic() - begun:.1f} s")
    return world


@pytest.fixture(scope="session")
def operators(installed: World) -> OperatorPods:
    """The chart's pods, whose processes are at hand."""
    node = installed.cluster.node
    if node is None:
        pytest.skip("an existing cluster: its node's processes are not at hand")
    return OperatorPods(installed, node, HOME, RELEASE)


@pytest.fixture(scope="session")
def on_the_node(world: World) -> None:
    """For what cannot be seen over a forwarded connection, which ends with the one pod that it leads to."""
    if world.cluster.node is None:
        pytest.skip("an existing cluster: this test looks from the node itself")


@pytest.fixture(scope="module")
def home(installed: World) -> Iterator[str]:
    """A namespace of the module, under `restricted` Pod Security."""
    name = installed.namespace(**{"pod-security.kubernetes.io/enforce": "restricted"})
    yield name
    installed.api.delete("v1", "Namespace", name)
