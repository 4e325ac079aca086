"""Changes that make a second Ray cluster: it takes over when ready, and may be taken back before; suspending."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from trimode_e2e.api import Object
from trimode_e2e.clients import Traffic
from trimode_e2e.control.build import cache_folder
from trimode_e2e.image.model import model
from trimode_e2e.kubectl import Kubectl
from trimode_e2e.world import RAY, World, pool, tiny
from trimode_local.preflight import tiny_folder

pytestmark = pytest.mark.timeout(1800)

NAME = "changing"
PATIENCE_S = 600.0
TOO_MUCH = {"cpu": "64", "memory": "2Gi"}
"""More cores than the node has: the new cluster's worker stays Pending."""
MODEL = "registry.example.com/models/tiny:1"
"""An image with the files of tiny://, made here."""


@pytest.fixture(scope="module")
def serving(installed: World, home: str) -> Iterator[World]:
    installed.api.create(tiny(NAME, home))
    installed.until_condition(NAME, home, "Ready")
    installed.first_answer(NAME, home)
    yield installed
    installed.delete(NAME, home)


@pytest.fixture
def another(installed: World) -> Object:
    """A spec with the same weights from elsewhere, so that answers can be compared; other pods on a cluster where no
    image can be put."""
    node = installed.cluster.node
    if node is None:
        return {"pools": [pool("flex", resources={"cpu": "110m", "memory": "2Gi"})]}
    node.add_image(model(cache_folder(), print, MODEL, tiny_folder()))
    return {"model": {"uri": f"oci://{MODEL}"}}


def test_another_model_takes_over_when_its_cluster_is_ready(
    serving: World, kubectl: Kubectl, home: str, another: Object
) -> None:
    """From an image, which the node mounts."""
    first = serving.active_cluster(NAME, home)
    with Traffic(serving.url(NAME, home), NAME) as traffic:
        begun = time.monotonic()
        serving.patch(NAME, home, another)
        serving.until_condition(NAME, home, "Ready", "False", reason="WorkersRollout")
        kubectl("wait", "--for=condition=Ready", f"nd/{NAME}", "-n", home, f"--timeout={PATIENCE_S:.0f}s")
        ready = time.monotonic() - begun
        second = serving.active_cluster(NAME, home)
        assert second not in ("", first), "Ready came with the old cluster still the active one"
        print(f"\nnew cluster Ready: {ready:.1f} s")
        traffic.wait_for(2)
    print(f"{len(traffic.answers)} answers")
    assert traffic.failures == []


def test_an_upgrade_without_room_goes_back_by_the_old_file(serving: World, home: str) -> None:
    before, others = serving.active_cluster(NAME, home), set(serving.ray_clusters(NAME, home))
    spec = serving.get(NAME, home)["spec"]["pools"]
    with Traffic(serving.url(NAME, home), NAME) as traffic:
        serving.patch(NAME, home, {"pools": [pool("flex", resources=TOO_MUCH)]})
        serving.until_condition(NAME, home, "Ready", "False", reason="WorkersRollout")
        serving.api.until(lambda: set(serving.ray_clusters(NAME, home)) - others, "another cluster waits", PATIENCE_S)
        assert serving.condition(NAME, home, "Serving")["status"] == "True"
        traffic.wait_for(4)
        begun = time.monotonic()
        serving.patch(NAME, home, {"pools": spec})
        serving.until_condition(NAME, home, "Ready", timeout_s=PATIENCE_S)
        print(f"\nback by the old file, Ready: {time.monotonic() - begun:.1f} s")
        assert serving.active_cluster(NAME, home) == before, "what was wanted ran already"
        traffic.wait_for(2)
    assert traffic.failures == []


def test_a_gpu_that_no_node_has_is_told_and_taken_back(serving: World, home: str) -> None:
    spec = serving.get(NAME, home)["spec"]["pools"]
    with Traffic(serving.url(NAME, home), NAME) as traffic:
        serving.patch(NAME, home, {"pools": [pool("flex", resources={"gpus": 1, "cpu": "100m", "memory": "2Gi"})]})
        serving.until_condition(NAME, home, "Ready", "False", reason="WorkersRollout")
        traffic.wait_for(2)
        serving.patch(NAME, home, {"pools": spec})
        serving.until_condition(NAME, home, "Ready", timeout_s=PATIENCE_S)
        traffic.wait_for(2)
    assert traffic.failures == []


def test_clusters_that_were_replaced_or_taken_back_go(serving: World, home: str) -> None:
    """Those of all tests above: KubeRay keeps each for a minute, which is waited for once."""
    active = serving.active_cluster(NAME, home)
    with Traffic(serving.url(NAME, home), NAME) as traffic:
        serving.api.until(lambda: set(serving.ray_clusters(NAME, home)) == {active}, "no other cluster", PATIENCE_S)
        traffic.wait_for(2)
    assert traffic.failures == []
    assert serving.active_cluster(NAME, home) == active


def test_suspended_it_runs_nothing_and_resumed_it_serves(serving: World, home: str) -> None:
    selector = f"app.kubernetes.io/instance={NAME}"
    serving.patch(NAME, home, {"suspend": True})
    begun = time.monotonic()
    serving.until_condition(NAME, home, "Suspended")
    serving.api.until(lambda: not serving.api.listed("v1", "Pod", home, selector), "no pod is left", PATIENCE_S)
    print(f"\nsuspend to the last pod gone: {time.monotonic() - begun:.1f} s")
    assert serving.api.get(*RAY, NAME, home) is None
    assert serving.until_condition(NAME, home, "Serving", "False")
    serving.patch(NAME, home, {"suspend": False})
    begun = time.monotonic()
    serving.until_condition(NAME, home, "Ready", timeout_s=PATIENCE_S)
    serving.first_answer(NAME, home)
    print(f"resume to the first answer: {time.monotonic() - begun:.1f} s")
