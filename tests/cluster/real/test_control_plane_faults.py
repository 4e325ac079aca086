"""Faults of everything that requests do not pass through, while every answer is checked.

Whatever of the control plane is dead, slow or cut off: no answer is lost or changed, no pod is replaced, and once it is
back, what was edited meanwhile comes into force.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from trimode_e2e import faults
from trimode_e2e.api import Object
from trimode_e2e.clients import Traffic
from trimode_e2e.control.plane import ControlPlane
from trimode_e2e.kubectl import Kubectl
from trimode_e2e.operator_pods import OperatorPods, says_it_leads
from trimode_e2e.world import World, pool, tiny

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

NAME = "steady"
API_SERVER_AWAY_S, ETCD_SLOW_S, NOT_READY_S, AGREE_S = 30.0, 15.0, 10.0, 5.0
TAKES_OVER_S = 60.0
"""Longest wait for a change that costs a second when nothing is broken."""
GONE_TIMEOUT_S = 240.0
"""Requests end first; then Ray tries to drain each node for 30 s when it gets SIGTERM, the head after the workers."""


@pytest.fixture(scope="module")
def serving(installed: World, home: str) -> World:
    """A fleet that all tests of this module keep, and the last one takes away with its namespace."""
    installed.api.create(tiny(NAME, home, router={"replicas": 2}))
    installed.until_condition(NAME, home, "Ready")
    installed.first_answer(NAME, home)
    return installed


@pytest.fixture(scope="module")
def plane(operators: OperatorPods) -> ControlPlane:
    return operators.node.plane


@pytest.fixture
def traffic(serving: World, home: str) -> Iterator[Traffic]:
    """Requests by the Service's address, all through a test."""
    with undisturbed(serving, home, serving.url(NAME, home)) as load:
        yield load


@pytest.fixture
def past_the_service(serving: World, home: str) -> Iterator[Traffic]:
    """Requests to a router's pod. Kubernetes takes the pods of a node that it does not hear of for 50 s out of every
    Service, so that on a cluster of one node a Service has none, while whoever reaches them is served."""
    router = serving.ready_pods(home, instance=NAME, component="router")[0]["status"]["podIP"]
    with undisturbed(serving, home, f"http://{router}:8000") as load:
        yield load
    serving.first_answer(NAME, home)


@contextmanager
def undisturbed(world: World, home: str, url: str) -> Iterator[Traffic]:
    """At its end no request has failed, and everything that ran runs on."""
    before, clusters = world.identities(NAME, home), world.ray_clusters(NAME, home).keys()
    with Traffic(url, NAME, clients=2) as load:
        load.wait_for(2)
        yield load
        load.wait_for(4)
    print(f"\n{len(load.answers)} answers")
    assert load.failures == []
    assert world.identities(NAME, home) >= before
    assert world.ray_clusters(NAME, home).keys() == clusters


def edit(world: World, home: str, spec: Any) -> int:
    """Change it; the policy's version that follows."""
    return int(world.patch(NAME, home, spec)["metadata"]["generation"])


def in_force(world: World, home: str, version: int, timeout_s: float = TAKES_OVER_S) -> None:
    """Until every replica runs the policy of this version, and the status says that all is so."""

    def look() -> bool:
        fleet = world.fleet(NAME, home)
        return fleet is not None and all(each.policy_version >= version for each in fleet.replicas)

    begun = time.monotonic()
    world.api.until(look, f"version {version} in every replica", timeout_s)
    print(f"\nan edit in force after {time.monotonic() - begun:.1f} s")
    world.until_condition(NAME, home, "Ready")


def restarts(pods: list[Object]) -> dict[str, int]:
    return {pod["metadata"]["name"]: pod["status"]["containerStatuses"][0]["restartCount"] for pod in pods}


def never_two_lead(pods: list[Object], seconds: float) -> None:
    """Asks them for so long. A leader that is cut off stops seconds before another begins, so no look sees both."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        leading = [pod["metadata"]["name"] for pod in pods if says_it_leads(pod)]
        assert len(leading) < 2, leading
        time.sleep(0.1)


@pytest.mark.parametrize("writes", [1, 2])
def test_operators_killed_in_the_middle_of_a_visit(
    serving: World, operators: OperatorPods, traffic: Traffic, home: str, writes: int
) -> None:
    """Both copies at once, after the first and the second write of an edit that several objects follow from."""
    pods = operators.ready()
    operators.one_leads()
    processes = [operators.process(pod) for pod in pods]
    position = operators.position()
    change = {"pools": [pool("flex", blockLengths=[8, 16][:writes])], "drain": {"timeoutSeconds": 10 + writes}}
    version = edit(serving, home, change)
    operators.await_writes(position, writes)
    for process in processes:
        process.kill()
    in_force(serving, home, version)
    serving.api.until(lambda: sum(restarts(operators.pods()).values()) >= 2, "kubelet restarts both", TAKES_OVER_S)
    operators.ready()


def test_a_leader_that_is_cut_off_from_the_api_server(
    serving: World, operators: OperatorPods, traffic: Traffic, home: str
) -> None:
    """The other takes over; once the way is open again, the old one follows, and was never restarted for it."""
    pods = operators.ready()
    old = operators.one_leads()
    name = old["metadata"]["name"]
    began = restarts(pods)
    with faults.cut_off(operators.node, old):
        cut = time.monotonic()
        serving.api.until(lambda: not says_it_leads(old), "the one that is cut off says that it does not lead", 30)
        print(f"\ncut off: it gave up after {time.monotonic() - cut:.1f} s", end="")
        operators.one_leads(but=name)
        print(f", another leads after {time.monotonic() - cut:.1f} s")
        in_force(serving, home, edit(serving, home, {"switching": {"marginPercent": 9}}))
    asked = len(operators.requests())
    never_two_lead(pods, AGREE_S)
    serving.api.until(lambda: any(each.pod == name for each in operators.requests()[asked:]), "it asks again", 60)
    written = [each for each in operators.requests()[asked:] if each.pod == name and each.writes]
    assert written == [], "it wrote without leading"
    operators.one_leads(but=name)
    assert restarts(operators.ready()) == began


def test_a_leader_that_sleeps_and_wakes_writes_nothing(
    serving: World, operators: OperatorPods, traffic: Traffic, home: str
) -> None:
    """It still believes that it leads when it goes on; the fence goes by the clock."""
    pods = operators.ready()
    old = operators.one_leads()
    process = operators.process(old)
    process.send_signal(signal.SIGSTOP)
    try:
        operators.one_leads(but=old["metadata"]["name"])
        in_force(serving, home, edit(serving, home, {"switching": {"marginPercent": 8}}))
        asked = len(operators.requests())
    finally:
        process.send_signal(signal.SIGCONT)
    never_two_lead(pods, AGREE_S)
    mine = [each for each in operators.requests()[asked:] if each.pod == old["metadata"]["name"]]
    assert mine, "it has not woken"
    assert [each for each in mine if each.writes and each.code < 300] == []


def test_an_api_server_that_is_away(
    serving: World, operators: OperatorPods, plane: ControlPlane, past_the_service: Traffic, home: str
) -> None:
    """With its end and its start it is away for 40 s and more; kubelet finds back up to 40 s later."""
    pods = operators.ready()
    began = restarts(pods)
    with faults.api_server_away(plane):
        end = time.monotonic() + API_SERVER_AWAY_S
        while time.monotonic() < end:
            past_the_service.wait_for(2)
            for pod in pods:
                answer = httpx.get(f"http://{pod['status']['podIP']}:8081/healthz", timeout=5, trust_env=False)
                assert answer.status_code == 200, f"an API server that is away is no reason to restart: {answer.text}"
    in_force(serving, home, edit(serving, home, {"switching": {"marginPercent": 7}}), 120)
    operators.one_leads()
    assert restarts(operators.ready()) == began


def test_an_etcd_that_stands_still_again_and_again(
    serving: World, operators: OperatorPods, plane: ControlPlane, traffic: Traffic, home: str
) -> None:
    pods = operators.ready()
    began = restarts(pods)
    with faults.slow_etcd(plane):
        version = edit(serving, home, {"switching": {"marginPercent": 6}})
        never_two_lead(pods, ETCD_SLOW_S)
    in_force(serving, home, version)
    operators.one_leads()
    assert restarts(operators.ready()) == began


def test_a_kuberay_that_is_away_is_told_and_mended(
    serving: World, kubectl: Kubectl, traffic: Traffic, home: str
) -> None:
    """What needs KubeRay waits and says why; what does not is in force at once."""
    with faults.kuberay_away(kubectl):
        begun = time.monotonic()
        wider = pool("flex", blockLengths=[8], replicas={"min": 1, "max": 2})
        version = edit(serving, home, {"pools": [wider]})
        told = serving.until_condition(NAME, home, "Ready", "False", 120, "KubeRayBehind")["message"]
        print(f"\nKubeRay away: told after {time.monotonic() - begun:.1f} s")
        assert f"kubectl get events --field-selector involvedObject.name={NAME} -n {home}" in told
        assert serving.condition(NAME, home, "Serving")["status"] == "True"
        fleet = serving.fleet(NAME, home)
        assert fleet is not None
        assert {each.policy_version for each in fleet.replicas} == {version}
    begun = time.monotonic()
    serving.until_condition(NAME, home, "Ready")
    print(f"KubeRay back: Ready after {time.monotonic() - begun:.1f} s")


def test_a_node_whose_kubelet_hangs(
    serving: World, operators: OperatorPods, past_the_service: Traffic, home: str
) -> None:
    """The node is NotReady, with all its pods; they serve all the same, and nothing is made anew."""
    pods = len(serving.pods(home, instance=NAME))
    with faults.paused(operators.node, "kubelet"):
        begun = time.monotonic()
        serving.api.until(lambda: not operators.node.ready(), "the node is NotReady", 120)
        print(f"\nkubelet hangs: NotReady after {time.monotonic() - begun:.1f} s")
        serving.api.until(lambda: not serving.ready_pods(home, instance=NAME), "all pods count as not ready", 30)
        end = time.monotonic() + NOT_READY_S
        while time.monotonic() < end:
            past_the_service.wait_for(2)
        # KubeRay and the operator see pods that are not ready, and could take that for a reason to act.
        assert len(serving.pods(home, instance=NAME)) == pods
    serving.api.until(operators.node.ready, "the node is Ready", 60)
    serving.until_condition(NAME, home, "Ready")
    operators.ready()


def test_a_namespace_that_is_deleted_while_it_serves(serving: World, operators: OperatorPods, home: str) -> None:
    """All of it goes, by itself; no answer that had begun is cut."""
    with Traffic(serving.url(NAME, home), NAME, clients=2, pause_s=0.0) as load:
        load.wait_for(4)
        begun = time.monotonic()
        serving.api.delete("v1", "Namespace", home)
        serving.api.until(lambda: serving.api.get("v1", "Namespace", home) is None, f"{home} is gone", GONE_TIMEOUT_S)
        print(f"\na serving namespace deleted: gone after {time.monotonic() - begun:.1f} s")
    cut = [answer for answer in load.failures if answer.status == 200]
    assert cut == []
    operators.ready()
    operators.one_leads()
