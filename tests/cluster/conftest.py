"""A real control plane for the session, with our CRDs; doubles of nodes and KubeRay for the tests that serve."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from trimode_e2e import kubectl as kubectl_programs
from trimode_e2e.control.provide import Cluster, provide
from trimode_e2e.errors import Missing
from trimode_e2e.kubectl import Kubectl
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
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")
