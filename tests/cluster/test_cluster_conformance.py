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
from trimode_e2e.world import KIND, PAPER, VERSION, World, tiny

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

NAME = "sheet"
EDIT: dict[str, Any] = {"router": {"replicas": 2}, "switching": {"marginPercent": 8}, "drain": {"timeoutSeconds": 400}}
CREATE_STEPS, EDIT_STEPS, DELETE_STEPS = range(1, 13), range(1, 4), range(1, 4)
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

    def back(self, within_s: float = 8.0) -> bool:
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
    place = world.namespace(PAPER)
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

    world.api.until(told, f"the status of {place}/{NAME} is current", 40)
    before: dict[str, Object] = {}

    def still() -> bool:
        nonlocal before
        now = world.children(NAME, place)
        same, before = bool(now) and now == before, now
        return same

    world.api.until(still, "nothing changes any more", 20)


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
    world: World, restless: Restless, reference: dict[str, Object], paper: str, step: int
) -> None:
    restless.kill_at(step)
    world.api.create(tiny(NAME, paper))
    if not restless.back():
        settle(world, paper)
        pytest.skip(f"a creation has fewer than {step} writes")
    settle(world, paper)
    assert shape(world, paper) == reference["created"]


@pytest.mark.parametrize("step", EDIT_STEPS)
def test_killed_while_changing_it_converges_the_same(
    world: World, restless: Restless, reference: dict[str, Object], paper: str, step: int
) -> None:
    world.api.create(tiny(NAME, paper))
    settle(world, paper)
    token = world.token(NAME, paper)
    restless.kill_at(step)
    world.patch(NAME, paper, EDIT)
    if not restless.back():
        pytest.skip(f"the edit has fewer than {step} writes")
    settle(world, paper)
    world.api.until(lambda: shape(world, paper) == reference["edited"], "the edit is made", 20)
    assert world.token(NAME, paper) == token


@pytest.mark.parametrize("step", DELETE_STEPS)
def test_killed_while_deleting_nothing_is_left(world: World, restless: Restless, paper: str, step: int) -> None:
    world.api.create(tiny(NAME, paper))
    settle(world, paper)
    restless.kill_at(step)
    world.api.delete(VERSION, KIND, NAME, paper)
    if not restless.back():
        world.until_gone(NAME, paper)
        pytest.skip(f"a deletion has fewer than {step} writes")
    world.until_gone(NAME, paper)


def test_a_resync_with_nothing_to_do_writes_nothing(
    world: World, restless: Restless, reference: dict[str, Object], paper: str
) -> None:
    world.api.create(tiny(NAME, paper))
    settle(world, paper)
    before = {name: child["metadata"]["resourceVersion"] for name, child in world.children(NAME, paper).items()}
    version = world.get(NAME, paper)["metadata"]["resourceVersion"]
    restless.operator.stop()
    restless.gate.count()
    restless.start()
    world.api.until(lambda: _visits(restless.operator) >= 3, "some visits", 60)
    after = {name: child["metadata"]["resourceVersion"] for name, child in world.children(NAME, paper).items()}
    assert restless.gate.writes == []
    assert after == before
    assert world.get(NAME, paper)["metadata"]["resourceVersion"] == version


def _visits(operator: Operator) -> float:
    found = operator.metrics()
    return sum(value for name, value in found.items() if name.startswith("trimode_operator_reconcile_seconds_count"))


def test_a_missing_kuberay_is_told_and_its_coming_noticed(world: World, restless: Restless, paper: str) -> None:
    crd = crds.ray_service(world.api.version)[0]
    name = crd["metadata"]["name"]
    world.api.delete("apiextensions.k8s.io/v1", "CustomResourceDefinition", name)
    gone = lambda: world.api.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", name) is None  # noqa: E731
    world.api.until(gone, "KubeRay's CRD is gone")
    try:
        world.api.create(tiny(NAME, paper))
        world.api.until(lambda: "helm install kuberay" in str(world.get(NAME, paper).get("status")), "the hint", 30)
        assert world.condition(NAME, paper, "Ready")["status"] != "True"
    finally:
        world.install(crd)
    world.api.until(lambda: f"RayService/{NAME}" in world.children(NAME, paper), "the RayService is made", 60)


def test_a_killed_leader_is_replaced(world: World, restless: Restless, rights: Path, folder: Path, paper: str) -> None:
    second = Operator.start(rights, folder, name="second")
    try:
        world.api.create(tiny(NAME, paper))
        settle(world, paper)
        restless.operator.kill()
        begun = time.monotonic()
        generation = world.patch(NAME, paper, {"switching": {"marginPercent": 3}})["metadata"]["generation"]

        def told() -> bool:
            return bool(world.get(NAME, paper)["status"]["observedGeneration"] >= generation)

        world.api.until(told, "the other copy has taken over", 40)
        print(f"\nleader killed, edit seen by the other copy: {time.monotonic() - begun:.1f} s")
    finally:
        second.stop()
        restless.start()


def test_a_poisoned_resource_holds_nobody_up(world: World, restless: Restless, paper: str) -> None:
    """Something else has the name of a child: that resource fails and says so, another one is made meanwhile."""
    taken = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"{NAME}-router", "namespace": paper}}
    world.api.create({**taken, "spec": {"ports": [{"port": 80}]}})
    world.api.create(tiny(NAME, paper))
    world.api.create(tiny("good", paper))
    world.api.until(lambda: "RayService/good" in world.children("good", paper), "the good one is made")
    world.api.until(lambda: f"{NAME}-router" in world.condition(NAME, paper, "Ready").get("message", ""), "it says why")
    found = world.api.get("v1", "Service", f"{NAME}-router", paper)
    assert found is not None
    assert "ownerReferences" not in found["metadata"]
