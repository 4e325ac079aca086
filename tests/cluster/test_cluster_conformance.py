"""What the operator makes of resources, on paper: nothing runs, so that every step can be interrupted and compared."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trimode_e2e import crds
from trimode_e2e.api import Object
from trimode_e2e.gate import Gate
from trimode_e2e.operator_process import Operator
from trimode_e2e.world import KIND, VERSION, World, tiny

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

NAME = "sheet"
EDIT: dict[str, Any] = {"router": {"replicas": 2}, "switching": {"marginPercent": 8}, "drain": {"timeoutSeconds": 400}}
CREATE_STEPS, EDIT_STEPS, DELETE_STEPS = range(1, 16), range(1, 5), range(1, 4)
LONG_S = 400.0
"""Nothing here takes so long but on a machine that does much else."""
CREATED_ANEW = (
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "generation",
    "managedFields",
    "ownerReferences",
    "selfLink",
)


class Restless:
    """An operator behind the gate, started again whenever it has been killed."""

    def __init__(self, world: World, gate: Gate, folder: Path) -> None:
        self.gate = gate
        self._folder = folder
        self._kubeconfig = gate.kubeconfig(folder / "gate.kubeconfig")
        self.operator = self._start()

    def kill_at(self, step: int) -> None:
        """Be killed as soon as the server has done so many more writes."""
        self.gate.at_write(step, self.operator.kill)

    def back(self, within_s: float = 20.0) -> bool:
        """Start anew once killed; False where it does not come to so many writes."""
        deadline = time.monotonic() + within_s
        while self.operator.program.alive():
            if time.monotonic() > deadline:
                self.gate.count()
                return False
            time.sleep(0.05)
        self.gate.count()
        self.start()
        return True

    def start(self) -> None:
        self.operator = self._start()

    def _start(self) -> Operator:
        return Operator.start(self._kubeconfig, self._folder, name="restless", path="/healthz")


@pytest.fixture(scope="module")
def restless(world: World, rights: Path, folder: Path) -> Iterator[Restless]:
    plane = world.cluster.plane
    if plane is None:
        pytest.skip("an existing cluster: its credentials may be of any kind, so there is no gate before it")
    user = rights.stem
    gate = Gate(plane.server, plane.folder / "ca.crt", plane.folder / f"{user}.crt", plane.folder / f"{user}.key")
    gate.start()
    running = Restless(world, gate, folder)
    yield running
    running.operator.stop()
    gate.stop()


@pytest.fixture(scope="module")
def reference(world: World, restless: Restless) -> dict[str, Object]:
    """What an operator that nobody disturbs makes: after creation (`created`) and after the edit (`edited`)."""
    place = world.namespace()
    restless.gate.count()
    world.api.create(tiny(NAME, place))
    settle(world, place)
    created = shape(world, place)
    print(f"\nwrites of a creation: {[f'{w.method} {w.path}' for w in restless.gate.writes]}")
    restless.gate.count()
    world.patch(NAME, place, EDIT)
    settle(world, place)
    edited = shape(world, place)
    print(f"\nwrites of an edit: {[f'{w.method} {w.path}' for w in restless.gate.writes]}")
    assert created.keys() == edited.keys()
    return {"created": created, "edited": edited}


def settle(world: World, place: str) -> None:
    """Until the operator has told of the current generation and makes no more changes."""

    def told() -> bool:
        item = world.get(NAME, place)
        return item.get("status", {}).get("observedGeneration") == item["metadata"]["generation"]

    world.api.until(told, f"the status of {place}/{NAME} is current", LONG_S)
    before: dict[str, Object] = {}

    def still() -> bool:
        nonlocal before
        now = world.children(NAME, place)
        same, before = bool(now) and now == before, now
        return same

    world.api.until(still, "nothing changes any more", LONG_S)


def shape(world: World, place: str) -> dict[str, Object]:
    """The children less what is different in every place: identities, times, addresses, the token."""
    children = {name: _plain(child, place) for name, child in world.children(NAME, place).items()}
    for name, child in children.items():
        if name.startswith("ServiceAccount/"):
            child.pop("secrets", None)  # the controller manager's
    return children


def _plain(node: Any, place: str) -> Any:
    if isinstance(node, dict):
        return {
            key: _plain(value, place)
            for key, value in node.items()
            if key not in (*CREATED_ANEW, "annotations", "clusterIP", "clusterIPs", "status", "token")
        }
    if isinstance(node, list):
        return [_plain(item, place) for item in node]
    return node.replace(place, "PLACE") if isinstance(node, str) else node


@pytest.mark.parametrize("step", CREATE_STEPS)
def test_killed_while_creating_it_converges_the_same(
    world: World, restless: Restless, reference: dict[str, Object], namespace: str, step: int
) -> None:
    restless.kill_at(step)
    world.api.create(tiny(NAME, namespace))
    if not restless.back():
        settle(world, namespace)
        pytest.skip(f"a creation has fewer than {step} writes")
    settle(world, namespace)
    assert shape(world, namespace) == reference["created"]


@pytest.mark.parametrize("step", EDIT_STEPS)
def test_killed_while_changing_it_converges_the_same(
    world: World, restless: Restless, reference: dict[str, Object], namespace: str, step: int
) -> None:
    world.api.create(tiny(NAME, namespace))
    settle(world, namespace)
    token = world.token(NAME, namespace)
    restless.kill_at(step)
    world.patch(NAME, namespace, EDIT)
    if not restless.back():
        pytest.skip(f"the edit has fewer than {step} writes")
    settle(world, namespace)
    world.api.until(lambda: shape(world, namespace) == reference["edited"], "the edit is made", LONG_S)
    assert world.token(NAME, namespace) == token


@pytest.mark.parametrize("step", DELETE_STEPS)
def test_killed_while_deleting_nothing_is_left(world: World, restless: Restless, namespace: str, step: int) -> None:
    world.api.create(tiny(NAME, namespace))
    settle(world, namespace)
    restless.kill_at(step)
    world.api.delete(VERSION, KIND, NAME, namespace)
    if not restless.back():
        world.until_gone(NAME, namespace, LONG_S)
        pytest.skip(f"a deletion has fewer than {step} writes")
    world.until_gone(NAME, namespace, LONG_S)


def test_a_resync_with_nothing_to_do_writes_nothing(
    world: World, restless: Restless, reference: dict[str, Object], namespace: str
) -> None:
    world.api.create(tiny(NAME, namespace))
    settle(world, namespace)
    before = {name: child["metadata"]["resourceVersion"] for name, child in world.children(NAME, namespace).items()}
    version = world.get(NAME, namespace)["metadata"]["resourceVersion"]
    restless.operator.stop()
    restless.gate.count()
    restless.start()
    world.api.until(lambda: _visits(restless.operator) >= 3, "some visits", LONG_S)
    after = {name: child["metadata"]["resourceVersion"] for name, child in world.children(NAME, namespace).items()}
    assert restless.gate.writes == []
    assert after == before
    assert world.get(NAME, namespace)["metadata"]["resourceVersion"] == version


def _visits(operator: Operator) -> float:
    found = operator.metrics()
    return sum(value for name, value in found.items() if name.startswith("trimode_operator_reconcile_seconds_count"))


def test_a_missing_kuberay_is_told_and_its_coming_noticed(world: World, restless: Restless, namespace: str) -> None:
    name = "rayservices.ray.io"
    (crd,) = [each for each in crds.kuberays() if each["metadata"]["name"] == name]
    world.api.delete("apiextensions.k8s.io/v1", "CustomResourceDefinition", name)
    gone = lambda: world.api.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", name) is None  # noqa: E731
    begun = time.monotonic()
    # The server first deletes every RayService of the tests before this one.
    world.api.until(gone, "KubeRay's CRD is gone", LONG_S)
    print(f"\nKubeRay's CRD gone: {time.monotonic() - begun:.1f} s after it was deleted")
    begun = time.monotonic()
    try:
        world.api.create(tiny(NAME, namespace))
        world.until_condition(NAME, namespace, "Ready", "False", LONG_S, reason="KubeRayMissing")
        assert "helm install kuberay" in world.condition(NAME, namespace, "Ready")["message"]
        print(f"told: {time.monotonic() - begun:.1f} s after the resource was created")
    finally:
        world.install(crd)
    begun = time.monotonic()
    world.api.until(lambda: f"RayService/{NAME}" in world.children(NAME, namespace), "the RayService is made", LONG_S)
    print(f"noticed: {time.monotonic() - begun:.1f} s after the CRD was served again")
    assert restless.operator.program.alive(), "it ended with the CRD, and was not started again"


def test_a_killed_leader_is_replaced(
    world: World, restless: Restless, rights: Path, folder: Path, namespace: str
) -> None:
    second = Operator.start(rights, folder, name="second")
    try:
        world.api.create(tiny(NAME, namespace))
        settle(world, namespace)
        restless.operator.kill()
        begun = time.monotonic()
        generation = world.patch(NAME, namespace, {"switching": {"marginPercent": 3}})["metadata"]["generation"]

        def told() -> bool:
            return bool(world.get(NAME, namespace)["status"]["observedGeneration"] >= generation)

        world.api.until(told, "the other copy has taken over", LONG_S)
        print(f"\nleader killed, edit seen by the other copy: {time.monotonic() - begun:.1f} s")
    finally:
        second.stop()
        restless.start()


def test_a_poisoned_resource_holds_nobody_up(world: World, restless: Restless, namespace: str) -> None:
    """Something else has the name of a child: that resource fails and says so, another one is made meanwhile."""
    taken = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"{NAME}-router", "namespace": namespace}}
    world.api.create({**taken, "spec": {"ports": [{"port": 80}]}})
    world.api.create(tiny(NAME, namespace))
    world.api.create(tiny("good", namespace))
    world.api.until(lambda: "RayService/good" in world.children("good", namespace), "the good one is made", LONG_S)
    world.api.until(
        lambda: f"{NAME}-router" in world.condition(NAME, namespace, "Ready").get("message", ""), "it says why", LONG_S
    )
    found = world.api.get("v1", "Service", f"{NAME}-router", namespace)
    assert found is not None
    assert "ownerReferences" not in found["metadata"]
