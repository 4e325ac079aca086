"""From `kubectl apply -f examples/tiny.yaml` to tokens, and every edit that must not touch what runs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trimode_e2e.audit import calls
from trimode_e2e.clients import Traffic, chat
from trimode_e2e.control.provide import Cluster
from trimode_e2e.crds import ROOT
from trimode_e2e.errors import Broken
from trimode_e2e.forward import Forwards
from trimode_e2e.kubectl import Kubectl, kubectl_program
from trimode_e2e.operator_pods import OperatorPods
from trimode_e2e.world import RAY, World

pytestmark = pytest.mark.timeout(1800)

NAME = "tiny"
EXAMPLE = ROOT / "examples" / "tiny.yaml"
ATTEMPTS = 6
"""How many times three looks it may take until the status has settled after what earlier tests did."""
POOL: dict[str, Any] = {
    "name": "flex",
    "modes": ["AR", "SelfSpeculation", "Diffusion"],
    "blockLengths": [8, 16, 32],
    "replicas": {"min": 1, "max": 1},
    "resources": {"cpu": "1", "memory": "2Gi"},
}


@pytest.fixture(scope="module")
def serving(installed: World, kubectl: Kubectl, home: str) -> Iterator[World]:
    """The tests of this module change it and leave it serving."""
    begun = time.monotonic()
    kubectl("apply", "-f", str(EXAMPLE), "-n", home)
    kubectl("wait", "--for=condition=Ready", f"nd/{NAME}", "-n", home, "--timeout=240s")
    ready = time.monotonic() - begun
    installed.first_answer(NAME, home)
    print(f"\napply to Ready: {ready:.1f} s, to the first answer: {time.monotonic() - begun:.1f} s")
    yield installed
    installed.delete(NAME, home)


def points(world: World, home: str) -> set[str]:
    """The points that the engines run at."""
    fleet = world.fleet(NAME, home)
    return {replica.point for replica in fleet.replicas} if fleet else set()


def policy_version(world: World, home: str) -> int:
    """The lowest that a live replica runs."""
    fleet = world.fleet(NAME, home)
    return min((replica.policy_version for replica in fleet.replicas), default=0) if fleet else 0


def test_tokens_flow(serving: World, home: str) -> None:
    answer = chat(serving.url(NAME, home), NAME, max_tokens=24)
    assert answer.complete, answer
    assert answer.pieces >= 1


def test_the_ways_of_a_cluster_whose_node_is_not_at_hand(serving: World, home: str, tmp_path: Path) -> None:
    """As with TRIMODE_KUBECONFIG: kubectl forwards connections to the Service and to a router's internal port."""
    far = Cluster(serving.cluster.kubeconfig, "the same cluster from afar")
    forwards = Forwards(kubectl_program(), far.kubeconfig, tmp_path)
    world = World(far, serving.api, serving.folder, forwards)
    try:
        assert chat(world.url(NAME, home), NAME).text == chat(serving.url(NAME, home), NAME).text != ""
        assert world.url(NAME, home) == world.url(NAME, home), "forwarded once"
        fleet = world.fleet(NAME, home)
        assert fleet is not None
        assert [replica.ready for replica in fleet.replicas] == [True]
        with pytest.raises(Broken, match='services "none" not found'):
            forwards.address("service/none", home, 80)
    finally:
        forwards.stop()


def test_kubectl_shows_it(serving: World, kubectl: Kubectl, home: str) -> None:
    header, row = kubectl("get", "nd", "-n", home).splitlines()
    shown = dict(zip(header.split(), row.split(), strict=False))
    assert (shown["READY"], shown["SERVING"], shown["REPLICAS"]) == ("True", "True", "1/1")
    assert "Events:" in kubectl("describe", "nd", NAME, "-n", home)
    assert "nemotrondeployment" not in kubectl("get", "all", "-n", home)


def test_the_head_service_selects_the_head(serving: World, kubectl: Kubectl, home: str) -> None:
    """`kubectl port-forward svc/NAME-head-svc 8265` and `kubectl ray` go by it."""
    (head,) = serving.pods(home, instance=NAME, component="head")
    selector = f"kubernetes.io/service-name={NAME}-head-svc"

    def selected() -> list[str]:
        slices = serving.api.listed("discovery.k8s.io/v1", "EndpointSlice", home, selector)
        return [each["targetRef"]["name"] for found in slices for each in found["endpoints"] or ()]

    # KubeRay makes the Service once it calls the cluster active, which may be after Ready.
    serving.api.until(selected, "the Service has endpoints")
    assert selected() == [head["metadata"]["name"]]


def test_answers_alone_make_no_child_change(serving: World, home: str) -> None:
    def versions() -> dict[str, str]:
        return {
            key: each["metadata"]["resourceVersion"]
            for key, each in serving.children(NAME, home).items()
            if each["kind"] not in ("Deployment", "RayService", "PodDisruptionBudget")  # others write their status
        }

    before = versions()
    assert {key.partition("/")[0] for key in before} >= {"ConfigMap", "NetworkPolicy", "Secret", "Service"}
    with Traffic(serving.url(NAME, home), NAME) as traffic:
        traffic.wait_for(20)
    assert versions() == before


def test_at_rest_the_operator_writes_nothing_of_a_fleet(serving: World, operators: OperatorPods, home: str) -> None:
    """During three looks at it, once the status has taken in what earlier tests did."""
    operators.one_leads()
    serving.until_condition(NAME, home, "Ready")
    for _ in range(ATTEMPTS):
        position, visits, begun = operators.position(), operators.visits(), time.monotonic()
        serving.api.until(lambda visits=visits: operators.visits() >= visits + 3, "three visits")
        asked, minutes = operators.audit.after(position), (time.monotonic() - begun) / 60
        written = [f"{each.verb} {each.uri}" for each in asked if each.writes and each.namespace == home]
        told = ", ".join(f"{sort} {count / minutes:.1f}" for sort, count in calls(asked).most_common())
        print(f"\nAPI calls a minute, both copies: {told}; written: {written}")
        if not written:
            return
    pytest.fail(f"{ATTEMPTS} times three looks, and each time something was written: {written}")


def test_a_mode_change_reaches_the_engine_without_a_new_pod(serving: World, kubectl: Kubectl, home: str) -> None:
    before = serving.identities(NAME, home)
    ray = serving.api.get(*RAY, NAME, home)
    with Traffic(serving.url(NAME, home), NAME, clients=2) as traffic:
        for mode, point in (("SelfSpeculation", "S32"), ("AR", "AR")):
            change = {"spec": {"switching": {"policy": "Manual", "mode": mode}}}
            kubectl("patch", "nd", NAME, "-n", home, "--type=merge", "-p", json.dumps(change))
            begun = time.monotonic()
            serving.api.until(lambda point=point: points(serving, home) == {point}, f"{point} in every engine")
            print(f"\nedit to engine, {mode}: {time.monotonic() - begun:.2f} s")
            traffic.wait_for(4)
    print(f"{len(traffic.answers)} answers, all the same text")
    assert traffic.failures == []
    assert serving.identities(NAME, home) == before
    after = serving.api.get(*RAY, NAME, home)
    assert ray is not None
    assert after is not None
    assert after["spec"]["rayClusterConfig"] == ray["spec"]["rayClusterConfig"]
    serving.patch(NAME, home, {"switching": {"policy": "Predictive", "mode": None}})
    serving.until_condition(NAME, home, "Ready")


POLICY_EDITS: list[tuple[str, dict[str, Any]]] = [
    ("tiers", {"tiers": [{"name": "premium", "ttftMilliseconds": 300, "tpotMilliseconds": 9, "priority": 5}]}),
    ("margin and dwell", {"switching": {"marginPercent": 9, "minDwellMilliseconds": 150}}),
    ("modes of the pool", {"pools": [POOL | {"modes": ["AR", "SelfSpeculation"], "blockLengths": [8]}]}),
    ("queue and staleness", {"admission": {"maxQueuedRequests": 77}, "staleness": {"staleAfterSeconds": 4}}),
]


@pytest.mark.parametrize(("what", "change"), POLICY_EDITS, ids=[what for what, _ in POLICY_EDITS])
def test_an_edit_of_the_policy_touches_nothing_that_runs(serving: World, home: str, what: str, change: Any) -> None:
    before = serving.identities(NAME, home)
    generation = serving.patch(NAME, home, change)["metadata"]["generation"]
    begun = time.monotonic()
    serving.api.until(lambda: policy_version(serving, home) >= generation, f"{what} in force")
    print(f"\nedit to engine, {what}: {time.monotonic() - begun:.2f} s")
    serving.until_condition(NAME, home, "Ready")
    assert serving.identities(NAME, home) == before


def test_a_bad_edit_leaves_what_serves_and_says_so(serving: World, home: str) -> None:
    """One that the schema lets through: the server takes it, and the operator keeps the last valid spec."""
    before = serving.identities(NAME, home)
    with Traffic(serving.url(NAME, home), NAME) as traffic:
        serving.patch(NAME, home, {"model": {"uri": "file://relative"}})
        ready = serving.until_condition(NAME, home, "Ready", "False")
        traffic.wait_for(2)
    assert "spec.model.uri" in ready["message"]
    assert serving.condition(NAME, home, "Serving")["status"] == "True"
    assert traffic.failures == []
    assert serving.identities(NAME, home) == before
    serving.patch(NAME, home, {"model": {"uri": "tiny://"}})
    serving.until_condition(NAME, home, "Ready")


@pytest.mark.usefixtures("on_the_node")
def test_a_second_router_joins_and_leaves_without_a_failed_request(serving: World, home: str) -> None:
    with Traffic(serving.url(NAME, home), NAME, clients=2) as traffic:
        serving.patch(NAME, home, {"router": {"replicas": 2}})
        assert serving.until_condition(NAME, home, "Ready")
        assert len(serving.ready_pods(home, instance=NAME, component="router")) == 2
        traffic.wait_for(4)
        serving.patch(NAME, home, {"router": {"replicas": 1}})
        serving.until_condition(NAME, home, "Ready")
        gone = lambda: len(serving.api.listed("v1", "Pod", home, ROUTERS)) == 1  # noqa: E731
        serving.api.until(gone, "one router")
        traffic.wait_for(2)
    assert traffic.failures == []


ROUTERS = f"app.kubernetes.io/instance={NAME},app.kubernetes.io/component=router"


@pytest.mark.usefixtures("on_the_node")
def test_a_worker_stays_below_where_ray_would_end_it(serving: World, home: str) -> None:
    """Ray's memory monitor ends a worker at 95 % of the limit; the default of `resources.memory` comes from here."""
    node = serving.cluster.node
    assert node is not None
    with Traffic(serving.url(NAME, home), NAME, clients=8, pause_s=0.0, max_tokens=64) as traffic:
        traffic.wait_for(40)
    (pod,) = serving.ready_pods(home, instance=NAME, component="worker")
    peak = node.peak_memory(pod, "ray-worker")
    print(f"\nmost memory of a worker pod: {peak / 2**20:.0f} MiB of 2048")
    assert peak < 0.95 * 2 * 2**30


# Last, since KubeRay may hand the edited serveConfigV2 to Serve before it is restored: the replica starts anew then.
HAND_EDITS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("v1", "ConfigMap", "policy", {"data": {"router.json": "{}"}}),
    ("v1", "Secret", "token", {"data": {"token": "c3RvbGVu"}}),
    ("v1", "Service", "router", {"spec": {"selector": {"app.kubernetes.io/instance": "other"}}}),
    ("networking.k8s.io/v1", "NetworkPolicy", "workers", {"spec": {"ingress": [{}]}}),
    ("ray.io/v1", "RayService", "", {"spec": {"serveConfigV2": "applications: []"}}),
]


@pytest.mark.parametrize(("version", "kind", "suffix", "edit"), HAND_EDITS, ids=[edit[1] for edit in HAND_EDITS])
def test_a_hand_edited_child_is_restored(
    serving: World, home: str, version: str, kind: str, suffix: str, edit: dict[str, Any]
) -> None:
    name = f"{NAME}-{suffix}" if suffix else NAME
    before = serving.api.get(version, kind, name, home)
    assert before is not None
    part = next(iter(edit))
    serving.api.patch(version, kind, name, home, edit)
    restored = lambda: (now := serving.api.get(version, kind, name, home)) and now[part] == before[part]  # noqa: E731
    serving.api.until(restored, f"{kind} restored")
    serving.until_condition(NAME, home, "Ready")
    serving.first_answer(NAME, home, timeout_s=180)  # a replica that starts anew takes its time on a busy machine
