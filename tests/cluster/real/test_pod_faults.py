"""Faults of a fleet's own pods, while every answer is checked: no memory left, a drained node, no image to be had.

What can serve serves on, budgets are obeyed, the status says which pod has what, and all is mended afterwards.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from trimode_e2e import faults
from trimode_e2e.api import Object
from trimode_e2e.clients import Traffic
from trimode_e2e.kubectl import Kubectl
from trimode_e2e.node import settings
from trimode_e2e.operator_pods import OperatorPods
from trimode_e2e.world import World, pool, tiny

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

NAME, SELECTOR = "worn", "app.kubernetes.io/instance=worn"
PATIENCE_S = 240.0
DRAIN_S = 40
"""Longer than a router's and a replica's own drain, which the evicted ones go through first."""
NO_IMAGE = "127.0.0.1:9/none:1"
"""The node itself has no registry, and says so at once; a name that does not resolve takes a minute."""
TWO = pool("flex", replicas={"min": 2, "max": 2})
PATIENT = {
    # A machine that starts a Ray cluster beside the load is slow, and late requests would rightly be refused.
    "tiers": [{"name": "patient", "ttftMilliseconds": 120000, "tpotMilliseconds": 10000}],
    "admission": {"maxWaitMilliseconds": 60000},
}


@pytest.fixture(scope="module")
def serving(installed: World, kubectl: Kubectl, home: str) -> Iterator[World]:
    """Two routers and two replicas."""
    apply(kubectl, fleet(home))
    installed.until_condition(NAME, home, "Ready", timeout_s=PATIENCE_S)
    installed.first_answer(NAME, home)
    installed.api.until(lambda: installed.active_cluster(NAME, home), "KubeRay calls the cluster active", PATIENCE_S)
    yield installed
    installed.delete(NAME, home)


def fleet(home: str, **spec: Any) -> Object:
    """The file of the fleet; `spec` replaces whole fields."""
    return tiny(NAME, home, **{"pools": [TWO], "router": {"replicas": 2}, **PATIENT, **spec})


@contextmanager
def load(world: World, home: str) -> Iterator[Traffic]:
    """Nothing of it is lost, and no answer is another one than it would have been."""
    with Traffic(world.url(NAME, home), NAME, clients=2) as traffic:
        traffic.wait_for(2)
        yield traffic
        traffic.wait_for(4)
    print(f"\n{len(traffic.answers)} answers")
    assert traffic.failures == []


def apply(kubectl: Kubectl, resource: Object) -> None:
    kubectl("apply", "--filename=-", text=json.dumps(resource))


def components(pods: list[Object]) -> Counter[str]:
    return Counter(pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in pods)


WHOLE = {"head": 1, "router": 2, "worker": 2}


def mended(world: World, home: str) -> None:
    """All pods that the spec asks for are ready, and nothing is left of what was broken."""
    world.until_condition(NAME, home, "Ready", timeout_s=PATIENCE_S)
    world.api.until(lambda: components(world.ready_pods(home, instance=NAME)) == WHOLE, "all pods are ready", 120)
    world.api.until(lambda: components(world.pods(home, instance=NAME)) == WHOLE, "no other pods", PATIENCE_S)


def test_an_image_that_cannot_be_pulled_is_named_and_taken_back(serving: World, kubectl: Kubectl, home: str) -> None:
    """Of the workers: the edit asks for another engine, whose image no registry has."""
    before, pods = serving.active_cluster(NAME, home), serving.identities(NAME, home)
    old = fleet(home)
    engine = {**old["spec"]["engine"], "type": "SGLang", "image": NO_IMAGE}
    with load(serving, home) as traffic:
        begun = time.monotonic()
        apply(kubectl, fleet(home, engine=engine, pools=[{**TWO, "modes": ["AR"]}]))
        ready = serving.until_condition(NAME, home, "Ready", "False", PATIENCE_S, "PodsFailing")
        print(f"\nan image that cannot be pulled: told after {time.monotonic() - begun:.1f} s")
        assert "ErrImagePull" in ready["message"] or "ImagePullBackOff" in ready["message"]
        assert NO_IMAGE in ready["message"]
        assert serving.condition(NAME, home, "Serving")["status"] == "True"
        traffic.wait_for(4)
        begun = time.monotonic()
        apply(kubectl, old)
        serving.until_condition(NAME, home, "Ready", timeout_s=PATIENCE_S)
        print(f"back by the old file, Ready: {time.monotonic() - begun:.1f} s")
        assert serving.active_cluster(NAME, home) == before
        assert serving.identities(NAME, home) >= pods, "what served goes on"


def test_a_worker_that_is_killed_for_memory(serving: World, operators: OperatorPods, home: str) -> None:
    """The kernel kills it as it does any container at its limit; the other replica takes over, streams included."""
    mended(serving, home)
    victim = serving.ready_pods(home, instance=NAME, component="worker")[0]
    others = serving.identities(NAME, home) - identities_of(victim)
    with load(serving, home):
        begun = time.monotonic()
        # Read from Events: KubeRay puts another pod in its place seconds later, and the status then tells of that.
        with faults.no_memory_left(operators.node, victim, "ray-worker"):
            told = serving.api.until(lambda: killed(serving, home), "an Event tells of a pod killed for memory", 120)
        print(f"\na worker killed for memory: told after {time.monotonic() - begun:.1f} s")
        assert victim["metadata"]["name"] in told
        assert serving.condition(NAME, home, "Serving")["status"] == "True"
        mended(serving, home)
        print(f"mended after {time.monotonic() - begun:.1f} s")
    assert serving.identities(NAME, home) >= others, "only the one that was killed is another"


def identities_of(pod: Object) -> set[str]:
    return {f"{pod['metadata']['name']} {each['containerID']}" for each in pod["status"]["containerStatuses"]}


def killed(world: World, home: str) -> str:
    """What the resource's Events say of a container that was killed for memory; empty where they say nothing of it."""
    events = world.api.listed("v1", "Event", home)
    found = [each["message"] for each in events if each["involvedObject"]["name"] == NAME]
    return next((message for message in found if "OOMKilled" in message), "")


def test_a_node_that_is_drained_keeps_what_budgets_keep(serving: World, kubectl: Kubectl, home: str) -> None:
    """There is no other node: those that may go stay away until the node is back, and the last ones may not go."""
    mended(serving, home)
    with load(serving, home) as traffic:
        with faults.drained(kubectl, settings.NAME, SELECTOR, DRAIN_S) as words:
            assert "Cannot evict pod as it would violate the pod's disruption budget" in words
            left = serving.ready_pods(home, instance=NAME)
            assert components(left) == {"head": 1, "router": 1, "worker": 1}
            for pod in left:
                refused = evicted(kubectl, pod)
                assert "TooManyRequests" in refused, refused
            serving.api.until(
                lambda: "no node takes it" in serving.condition(NAME, home, "Ready")["message"], "it is told"
            )
            traffic.wait_for(4)
        begun = time.monotonic()
        mended(serving, home)
        print(f"\nthe node takes pods again: all as before after {time.monotonic() - begun:.1f} s")


def evicted(kubectl: Kubectl, pod: Object) -> str:
    """What the API server says to an eviction, as `kubectl drain` and autoscalers of nodes ask for it."""
    metadata = {key: pod["metadata"][key] for key in ("name", "namespace")}
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
    path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/eviction"
    done = kubectl.attempt("create", f"--raw={path}", "--filename=-", text=json.dumps(body))
    return done.stderr
