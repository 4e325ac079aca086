"""The whole way, for real: kubectl, operator, RayService, Ray Serve, engine, router, client."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trimode_e2e.clients import Traffic, chat
from trimode_e2e.kubectl import Kubectl
from trimode_e2e.operator_process import Operator
from trimode_e2e.world import KIND, RAY, VERSION, World, tiny

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NAME = "nano"
MODEL = "nano"
AWAY_S = 30.0


@pytest.fixture(scope="module")
def home(playing: World) -> str:
    """The namespace of this module's resource; goes with the cluster."""
    return playing.namespace()


@pytest.fixture(scope="module")
def serving(playing: World, operator: Operator, kubectl: Kubectl, home: str) -> Iterator[World]:
    """A resource that serves. The tests of this module change it and leave it serving."""
    begun = time.monotonic()
    kubectl("apply", "-f", "-", text=json.dumps(tiny(NAME, home)))
    playing.until_condition(NAME, home, "Ready")
    ready = time.monotonic()
    playing.api.until(lambda: playing.ray(NAME, home).active, "KubeRay calls it active")
    answer = chat(playing.url(NAME, home), MODEL)
    assert answer.complete, answer
    print(f"\napplied to Ready {ready - begun:.1f} s, with tokens flowing {time.monotonic() - begun:.1f} s")
    yield playing
    playing.delete(NAME, home)


def timed(what: str, until: Callable[[], Any], world: World, timeout_s: float = 30.0) -> Any:
    """Wait for it, and print how long it took."""
    begun = time.monotonic()
    found = world.api.until(until, what, timeout_s)
    print(f"\n{what}: {time.monotonic() - begun:.2f} s")
    return found


def points(world: World, home: str) -> set[str]:
    """The points that the engines run at."""
    fleet = world.fleet(NAME, home)
    return {replica.point for replica in fleet.replicas} if fleet else set()


def fleet_version(world: World, home: str) -> int:
    """The lowest policy version that a live replica runs."""
    fleet = world.fleet(NAME, home)
    return min((replica.policy_version for replica in fleet.replicas), default=0) if fleet else 0


def identities(world: World, home: str) -> tuple[frozenset[int], str, set[str]]:
    """What a change must not replace: engines' processes, the Ray cluster, the routers' pods."""
    ray = world.ray(NAME, home)
    active = world.api.until(lambda: ray.active, "KubeRay calls a cluster active")
    return ray.engines(), active.name, set(world.routers(NAME, home))


def test_tokens_flow(serving: World, home: str) -> None:
    answer = chat(serving.url(NAME, home), MODEL, max_tokens=24)
    assert answer.complete, answer
    assert answer.text
    assert answer.pieces >= 1


def test_kubectl_shows_it_ready(serving: World, kubectl: Kubectl, home: str) -> None:
    header, row = kubectl("get", "nd", "-n", home).splitlines()
    shown = dict(zip(header.split(), row.split(), strict=False))
    assert shown["READY"] == "True"
    assert shown["SERVING"] == "True"
    described = kubectl("describe", "nd", NAME, "-n", home)
    assert "Events:" in described


def test_kubectl_waits_for_it(serving: World, kubectl: Kubectl, home: str) -> None:
    assert "condition met" in kubectl("wait", "--for=condition=Ready", f"nd/{NAME}", "-n", home, "--timeout=10s")


def test_the_status_tells_pools_tiers_and_decision(serving: World, home: str) -> None:
    status = serving.get(NAME, home)["status"]
    assert status["observedGeneration"] == serving.get(NAME, home)["metadata"]["generation"]
    assert [(pool["name"], pool["ready"]) for pool in status["pools"]] == [("flex", 1)]
    assert status["url"].endswith(f"{NAME}-router.{home}.svc:8000/v1")
    kinds = {each["type"] for each in status["conditions"]}
    assert kinds >= {
        "Ready",
        "Serving",
        "Progressing",
        "RouterReady",
        "WorkersReady",
        "MetricsFresh",
        "SLOMet",
        "Suspended",
    }
    assert all(
        {"reason", "message", "lastTransitionTime", "observedGeneration"} <= each.keys()
        for each in status["conditions"]
    )


def test_budgets_are_left_out_with_a_note_where_the_cluster_lacks_them(serving: World, home: str) -> None:
    if serving.api.knows("policy/v1", "PodDisruptionBudget"):
        assert serving.api.listed("policy/v1", "PodDisruptionBudget", home)
    else:
        assert "PodDisruptionBudget" in json.dumps(serving.get(NAME, home)["status"])


def test_a_mode_change_reaches_the_engine_without_a_restart(serving: World, kubectl: Kubectl, home: str) -> None:
    before = identities(serving, home)
    ray_before = serving.api.get(*RAY, NAME, home)
    assert ray_before is not None
    with Traffic(serving.url(NAME, home), MODEL) as traffic:
        traffic.wait_for(2)
        for mode, point in (("SelfSpeculation", "S16"), ("AR", "AR")):
            change = {"spec": {"switching": {"policy": "Manual", "mode": mode}}}
            kubectl("patch", "nd", NAME, "-n", home, "--type=merge", "-p", json.dumps(change))
            timed(f"mode {mode} in every engine", lambda point=point: points(serving, home) == {point}, serving)
            traffic.wait_for(2)
    assert traffic.failures == []
    assert identities(serving, home) == before
    ray_after = serving.api.get(*RAY, NAME, home)
    assert ray_after is not None
    assert ray_after["spec"]["rayClusterConfig"] == ray_before["spec"]["rayClusterConfig"]
    serving.patch(NAME, home, {"switching": {"policy": "Predictive", "mode": None}})
    serving.until_condition(NAME, home, "Ready")


POLICY_EDITS: list[tuple[str, dict[str, Any]]] = [
    ("tier", {"tiers": [{"name": "premium", "ttftMilliseconds": 300, "tpotMilliseconds": 9, "priority": 5}]}),
    ("margin", {"switching": {"marginPercent": 9}}),
    ("dwell", {"switching": {"minDwellMilliseconds": 150}}),
    ("dry run", {"switching": {"dryRun": True}}),
    ("dry run off", {"switching": {"dryRun": False}}),
    ("block lengths", {"pools": [{"name": "flex", "modes": ["AR", "SelfSpeculation"], "blockLengths": [8]}]}),
    ("modes", {"pools": [{"name": "flex", "modes": ["AR", "SelfSpeculation", "Diffusion"], "blockLengths": [8]}],
               "diffusion": {"blockLength": 8, "threshold": "0.9"}}),
    ("threshold", {"diffusion": {"threshold": "0.95"}}),
    ("queue", {"admission": {"maxQueuedRequests": 77}}),
    ("wait", {"admission": {"maxWaitMilliseconds": 1500}}),
    ("staleness", {"staleness": {"staleAfterSeconds": 4, "deadAfterSeconds": 12}}),
    ("drain", {"drain": {"timeoutSeconds": 12}}),
]  # fmt: skip


@pytest.mark.parametrize(("what", "change"), POLICY_EDITS, ids=[what for what, _ in POLICY_EDITS])
def test_an_edit_of_the_policy_touches_nothing_that_runs(serving: World, home: str, what: str, change: Any) -> None:
    before = identities(serving, home)
    generation = serving.patch(NAME, home, change)["metadata"]["generation"]
    timed(f"{what} in force", lambda: fleet_version(serving, home) >= generation, serving)
    serving.until_condition(NAME, home, "Ready")
    assert identities(serving, home) == before
    assert chat(serving.url(NAME, home), MODEL, max_tokens=4).complete


def test_a_bad_edit_leaves_what_serves_and_says_so(serving: World, home: str) -> None:
    before = identities(serving, home)
    with Traffic(serving.url(NAME, home), MODEL) as traffic:
        serving.patch(NAME, home, {"model": {"uri": "file://relative"}})
        ready = serving.until_condition(NAME, home, "Ready", "False")
        traffic.wait_for(2)
    assert "spec.model.uri" in ready["message"]
    assert serving.condition(NAME, home, "Serving")["status"] == "True"
    assert traffic.failures == []
    assert identities(serving, home) == before
    serving.patch(NAME, home, {"model": {"uri": "tiny://"}})
    serving.until_condition(NAME, home, "Ready")


def test_a_second_router_joins_and_leaves_without_a_failed_request(serving: World, home: str) -> None:
    engines = serving.ray(NAME, home).engines()
    with Traffic(serving.url(NAME, home), MODEL) as traffic:
        serving.patch(NAME, home, {"router": {"replicas": 2}})
        timed("a second router", lambda: len(serving.routers(NAME, home)) == 2, serving, 60)
        serving.until_condition(NAME, home, "Ready")
        traffic.wait_for(2)
        assert serving.ray(NAME, home).engines() == engines
    assert traffic.failures == []
    serving.patch(NAME, home, {"router": {"replicas": 1}})
    serving.api.until(lambda: len(serving.routers(NAME, home)) == 1, "one router", 60)
    serving.until_condition(NAME, home, "Ready")


def test_a_pool_scales_in_place(serving: World, home: str) -> None:
    ray = serving.ray(NAME, home)
    engines, clusters = ray.engines(), ray.clusters_made
    pool = serving.get(NAME, home)["spec"]["pools"][0]
    serving.patch(NAME, home, {"pools": [{**pool, "replicas": {"min": 2, "max": 2}}]})
    timed("two replicas", lambda: len(ray.engines()) == 2, serving, 90)
    serving.until_condition(NAME, home, "Ready")
    assert engines < ray.engines()
    serving.patch(NAME, home, {"pools": [{**pool, "replicas": {"min": 1, "max": 1}}]})
    timed("one replica", lambda: len(ray.engines()) == 1, serving, 90)
    serving.until_condition(NAME, home, "Ready")
    assert ray.clusters_made == clusters


HAND_EDITS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("v1", "ConfigMap", "policy", {"data": {"router.json": "{}"}}),
    ("v1", "Secret", "token", {"data": {"token": "c3RvbGVu"}}),
    ("v1", "Service", "router", {"spec": {"selector": {"app.kubernetes.io/instance": "other"}}}),
    ("apps/v1", "Deployment", "router", {"spec": {"replicas": 3}}),
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

    def restored() -> bool:
        now = serving.api.get(version, kind, name, home)
        return now is not None and now[part] == before[part]

    timed(f"{kind} restored", restored, serving)
    serving.until_condition(NAME, home, "Ready")
    assert chat(serving.url(NAME, home), MODEL, max_tokens=4).complete


@pytest.mark.parametrize(("version", "kind", "suffix"), [edit[:3] for edit in HAND_EDITS if edit[1] != "RayService"])
def test_a_deleted_child_comes_back(serving: World, home: str, version: str, kind: str, suffix: str) -> None:
    name = f"{NAME}-{suffix}"
    before = serving.api.get(version, kind, name, home)
    assert before is not None
    engines = serving.ray(NAME, home).engines()
    serving.api.delete(version, kind, name, home)

    def back() -> bool:
        now = serving.api.get(version, kind, name, home)
        return now is not None and now["metadata"]["uid"] != before["metadata"]["uid"]

    timed(f"{kind} made again", back, serving)
    serving.until_condition(NAME, home, "Ready")
    assert serving.ray(NAME, home).engines() == engines
    assert chat(serving.url(NAME, home), MODEL, max_tokens=4).complete


def test_a_stale_write_is_refused_and_disturbs_nothing(serving: World, home: str) -> None:
    stale = serving.get(NAME, home)
    serving.patch(NAME, home, {"switching": {"marginPercent": 7}})
    stale["spec"]["switching"]["marginPercent"] = 8
    with pytest.raises(Exception, match="modified"):
        serving.api.replace(stale)
    serving.until_condition(NAME, home, "Ready")
    assert serving.get(NAME, home)["spec"]["switching"]["marginPercent"] == 7


def test_an_operator_that_is_away_is_not_missed(
    serving: World, home: str, operator: Operator, rights: Path, folder: Path
) -> None:
    before = identities(serving, home)
    operator.kill()
    with Traffic(serving.url(NAME, home), MODEL) as traffic:
        generation = serving.patch(NAME, home, {"switching": {"marginPercent": 6}})["metadata"]["generation"]
        traffic.wait_for(3)
        operator.program, operator.health, operator.metrics_url = _again(rights, folder)
        timed("the edit in force", lambda: fleet_version(serving, home) >= generation, serving)
    assert traffic.failures == []
    assert identities(serving, home) == before


def _again(rights: Path, folder: Path) -> tuple[Any, str, str]:
    new = Operator.start(rights, folder, name=__name__)
    return new.program, new.health, new.metrics_url


def test_an_api_server_that_is_away_for_half_a_minute_is_not_missed(
    serving: World, home: str, operator: Operator
) -> None:
    plane = serving.cluster.plane
    if plane is None:
        pytest.skip("an existing cluster's API server is not ours to stop")
    before = identities(serving, home)
    with Traffic(serving.url(NAME, home), MODEL) as traffic:
        plane.stop_api_server()
        try:
            begun = time.monotonic()
            while time.monotonic() - begun < AWAY_S:
                traffic.wait_for(3)
                assert operator.answers("/healthz"), "an API server that is away is no reason to restart"
        finally:
            plane.start_api_server()
        answered = len(traffic.answers)
        generation = serving.patch(NAME, home, {"switching": {"marginPercent": 5}})["metadata"]["generation"]
        timed("an edit after it came back", lambda: fleet_version(serving, home) >= generation, serving, 60)
    print(f"\n{answered} requests while the API server was away for {AWAY_S:g} s")
    assert traffic.failures == []
    assert identities(serving, home) == before
    serving.until_condition(NAME, home, "Ready")


def test_a_renamed_pool_takes_over_and_the_old_one_goes(serving: World, home: str) -> None:
    ray = serving.ray(NAME, home)
    pool = serving.get(NAME, home)["spec"]["pools"][0]
    with Traffic(serving.url(NAME, home), MODEL, pause_s=0.5) as traffic:
        serving.patch(NAME, home, {"pools": [{**pool, "name": "swift"}]})
        timed("the renamed pool alone", lambda: _pools(serving, home) == {"swift"}, serving, 120)
        traffic.wait_for(2)
    print(f"\nrename: {len(traffic.answers)} requests; clusters made: {ray.clusters_made}")
    assert traffic.failures == []
    serving.until_condition(NAME, home, "Ready")
    assert chat(serving.url(NAME, home), MODEL, max_tokens=4).complete


def _pools(world: World, home: str) -> set[str]:
    """Pools with live replicas."""
    fleet = world.fleet(NAME, home)
    return {replica.pool for replica in fleet.replicas if replica.freshness == "Fresh"} if fleet else set()


def test_suspended_it_runs_nothing_and_resumed_it_serves(serving: World, home: str) -> None:
    serving.patch(NAME, home, {"suspend": True})
    suspended = serving.until_condition(NAME, home, "Suspended")
    assert suspended["reason"]
    serving.api.until(lambda: not serving.routers(NAME, home), "no routers", 60)
    serving.api.until(lambda: not serving.ray(NAME, home).engines(), "no engines", 60)
    serving.until_condition(NAME, home, "Serving", "False")
    serving.patch(NAME, home, {"suspend": False})
    serving.until_condition(NAME, home, "Ready")
    assert serving.condition(NAME, home, "Suspended")["status"] == "False"
    assert chat(serving.url(NAME, home), MODEL, max_tokens=4).complete


def test_two_of_one_name_are_strangers(serving: World, home: str, namespace: str) -> None:
    serving.api.create(tiny(NAME, namespace))
    serving.until_condition(NAME, namespace, "Ready")
    assert serving.token(NAME, home) != serving.token(NAME, namespace)
    assert chat(serving.url(NAME, namespace), MODEL, max_tokens=4).complete
    before = identities(serving, home)
    with Traffic(serving.url(NAME, home), MODEL) as traffic:
        serving.delete(NAME, namespace)
        traffic.wait_for(2)
    assert traffic.failures == []
    assert identities(serving, home) == before


def test_deleted_while_loading_nothing_is_left(serving: World, namespace: str) -> None:
    serving.api.create(tiny("brief", namespace))
    serving.api.until(lambda: "brief" in _services(serving, namespace), "its Ray has begun", 60)
    serving.delete("brief", namespace)
    serving.api.until(lambda: "brief" not in _services(serving, namespace), "its Ray is gone")


def _services(world: World, namespace: str) -> set[str]:
    assert world.kuberay is not None
    return {name for place, name in world.kuberay.services if place == namespace}


def test_deleted_while_serving_what_runs_is_finished_and_nothing_is_left(serving: World, namespace: str) -> None:
    serving.api.create(tiny("last", namespace))
    serving.until_condition("last", namespace, "Ready")
    url = serving.url("last", namespace)
    with Traffic(url, "last", pause_s=0.0) as traffic:
        traffic.wait_for(1)
        serving.api.delete(VERSION, KIND, "last", namespace)
        serving.until_gone("last", namespace)
    broken = [answer for answer in traffic.failures if answer.status == 200]
    assert broken == [], "an answer that had begun was cut"
