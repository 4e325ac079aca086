"""What follows from what was seen, condition by condition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from trimode_api.fleet import Freshness
from trimode_lab.doubles.kubernetes.fleet import fleets, replica, view
from trimode_operator.observe.observations import Failure, Observations, Ray, Rollout
from trimode_operator.plan import Note
from trimode_operator.status import status as made
from trimode_operator.status.readiness import readiness_of
from trimode_operator.status.reasons import ConditionType, Verdict


def verdicts(seen: Observations) -> Mapping[ConditionType, Verdict]:
    return made.verdicts(seen, readiness_of(seen))


KUBERAY = Note("RayService", "KubeRayMissing", "install it: helm install kuberay-operator")
BUDGETS = Note("PodDisruptionBudget", "BudgetsMissing", "not known here")
NO_KEYS = Note("Secret", "SecretMissing", "spec.router.auth.secretName: there is no Secret 'keys'")
BAD_KEYS = Note("Secret", "SecretInvalid", "spec.router.auth.secretName: Secret 'keys': keys.json: no JSON")

WELL = Observations(
    generation=3,
    routers=Rollout(wanted=1, ready=1, current=True),
    ray=Ray(ready=True),
    fleets=fleets(view(replica(policy_version=3), policy_version=3)),
    minimum={"flex": 1},
    policy_version=3,
    attainment={"standard": 97},
    objectives={"standard": 95},
)
NOTHING = Observations(generation=1)
SUSPENDED = Observations(generation=2, suspend=True, routers=Rollout(0, 0, True))
REFUSED = Ray(
    False, "ValidationFailed", "The RayService spec is invalid llm/nemo: headGroupSpec ...", current=False, silent=True
)


def told(seen: Observations) -> dict[str, tuple[str, str]]:
    return {kind: (verdict.status.value, str(verdict.reason)) for kind, verdict in verdicts(seen).items()}


ASLEEP = replace(WELL, minimum={"flex": 0}, fleets=fleets(view(policy_version=3)))


@pytest.mark.parametrize(
    ("seen", "serving"),
    [
        (ASLEEP, ("True", "Asleep")),
        (replace(ASLEEP, minimum={"flex": 0, "other": 1}), ("True", "Asleep")),
        (replace(ASLEEP, ray=Ray(True, failed=("flex DEPLOY_FAILED: no weights",))), ("False", "NoReplicaReady")),
        (replace(ASLEEP, minimum={"flex": 1}), ("False", "NoReplicaReady")),
    ],
)
def test_a_fleet_that_sleeps_serves_as_long_as_it_can_be_woken(seen: Observations, serving: tuple[str, str]) -> None:
    assert told(seen)["Serving"] == serving
    assert told(ASLEEP)["Ready"] == ("True", "AsSpecified")
    assert "a request wakes flex" in verdicts(ASLEEP)[ConditionType.SERVING].message


def test_replicas_of_a_cluster_that_was_replaced_are_not_counted() -> None:
    two = fleets(
        view(
            replica("r1", ray_cluster="nemo-new", policy_version=3),
            replica("r2", ray_cluster="nemo-old", policy_version=3),
            policy_version=3,
        )
    )
    seen = replace(WELL, fleets=two, minimum={"flex": 2})
    assert told(replace(seen, ray=Ray(ready=True, cluster="nemo-new")))["Ready"] == ("False", "PoolsNotReady")
    one = replace(seen, minimum={"flex": 1})
    assert told(replace(one, ray=Ray(ready=True, cluster="nemo-new")))["Ready"] == ("True", "AsSpecified")
    assert told(replace(seen, ray=Ray(ready=True)))["Ready"] == ("True", "AsSpecified")  # not known which one serves


def test_every_condition_is_said_from_the_first_moment_on() -> None:
    found = told(NOTHING)
    assert list(found) == [kind.value for kind in ConditionType]
    assert found == {
        "Ready": ("Unknown", "NotObserved"),
        "Serving": ("Unknown", "NotObserved"),
        "Progressing": ("True", "RouterRollout"),
        "RouterReady": ("Unknown", "NotObserved"),
        "WorkersReady": ("Unknown", "NotObserved"),
        "MetricsFresh": ("Unknown", "NotObserved"),
        "SLOMet": ("Unknown", "NoTraffic"),
        "Suspended": ("False", "NotSuspended"),
        "ExternallyScaled": ("False", "OwnSizing"),
    }


def test_who_sizes_the_pools_is_told() -> None:
    assert told(replace(WELL, scaled=3))["ExternallyScaled"] == ("True", "ReplicasSet")
    assert told(replace(WELL, problems=("spec: bad",)))["ExternallyScaled"] == ("Unknown", "InvalidSpec")


def test_all_is_well() -> None:
    assert told(WELL) == {
        "Ready": ("True", "AsSpecified"),
        "Serving": ("True", "ReplicasServe"),
        "Progressing": ("False", "AsSpecified"),
        "RouterReady": ("True", "RoutersReady"),
        "WorkersReady": ("True", "PoolsReady"),
        "MetricsFresh": ("True", "ReportsFresh"),
        "SLOMet": ("True", "ObjectivesMet"),
        "Suspended": ("False", "NotSuspended"),
        "ExternallyScaled": ("False", "OwnSizing"),
    }


CASES: list[tuple[str, dict[str, Any], dict[str, tuple[str, str]]]] = [
    (
        "a bad edit: what serves goes on serving",
        {"problems": ("spec.pools: bad",), "policy_version": None},
        {
            "Ready": ("False", "InvalidSpec"),
            "Serving": ("True", "ReplicasServe"),
            "Progressing": ("False", "InvalidSpec"),
        },
    ),
    (
        "a child is refused",
        {"failure": Failure("Forbidden", "services is forbidden")},
        {"Ready": ("False", "Forbidden"), "Serving": ("True", "ReplicasServe"), "Progressing": ("False", "Forbidden")},
    ),
    (
        "KubeRay is not there",
        {"kuberay": False, "ray": None, "fleets": fleets(view()), "notes": (KUBERAY,)},
        {
            "Ready": ("False", "KubeRayMissing"),
            "WorkersReady": ("False", "KubeRayMissing"),
            "Progressing": ("False", "KubeRayMissing"),
            "Serving": ("False", "NoReplicaReady"),
        },
    ),
    (
        "a pool has too few",
        {"minimum": {"flex": 2}},
        {
            "Ready": ("False", "PoolsNotReady"),
            "WorkersReady": ("False", "PoolsNotReady"),
            "Progressing": ("True", "WaitingForWorkers"),
            "Serving": ("True", "ReplicasServe"),
        },
    ),
    (
        "Serve says why",
        {"minimum": {"flex": 2}, "ray": Ray(False, failed=("flex DEPLOY_FAILED: no such file",))},
        {"Ready": ("False", "DeployFailed"), "Progressing": ("False", "DeployFailed")},
    ),
    (
        "a router is missing",
        {"routers": Rollout(wanted=2, ready=1, current=True)},
        {"Ready": ("False", "SomeRoutersNotReady"), "Progressing": ("True", "WaitingForWorkers")},
    ),
    (
        "routers are replaced while the old ones serve",
        {"routers": Rollout(wanted=1, ready=1, current=False)},
        {
            "Ready": ("False", "RouterRollout"),
            "Progressing": ("True", "RouterRollout"),
            "Serving": ("True", "ReplicasServe"),
        },
    ),
    (
        "a new cluster is made beside the old one",
        {"ray": Ray(True, upgrading=True)},
        {
            "Ready": ("False", "WorkersRollout"),
            "Progressing": ("True", "WorkersRollout"),
            "Serving": ("True", "ReplicasServe"),
        },
    ),
    (
        "KubeRay has not looked yet, the old spec serves",
        {"ray": Ray(True, current=False)},
        {"Ready": ("False", "WorkersRollout"), "Progressing": ("True", "WorkersRollout")},
    ),
    (
        "the RayService is not there, replicas of a former one report",
        {"ray": None},
        {"Ready": ("False", "WorkersRollout"), "Progressing": ("True", "WorkersRollout")},
    ),
    (
        "KubeRay has not looked for long",
        {"ray": Ray(True, current=False, silent=True, name="nemo", namespace="llm")},
        {"Ready": ("False", "KubeRayBehind"), "Progressing": ("False", "KubeRayBehind")},
    ),
    (
        "KubeRay refuses the RayService",
        {"ray": REFUSED},
        {"Ready": ("False", "ValidationFailed"), "Progressing": ("False", "ValidationFailed")},
    ),
    (
        "KubeRay refuses the first RayService, and there are no replicas",
        {"ray": REFUSED, "fleets": fleets(view())},
        {"Ready": ("False", "ValidationFailed"), "WorkersReady": ("False", "PoolsNotReady")},
    ),
    (
        "the head is gone, KubeRay's status is as it was",
        {"ray": Ray(True, headless="HeadPodNotFound: Head Pod not found")},
        {
            "Ready": ("False", "HeadNotReady"),
            "Progressing": ("True", "HeadNotReady"),
            "Serving": ("True", "ReplicasServe"),
        },
    ),
    (
        "a router runs an older policy",
        {"policy_version": 4},
        {
            "Ready": ("False", "PolicyRollout"),
            "Progressing": ("True", "PolicyRollout"),
            "Serving": ("True", "ReplicasServe"),
        },
    ),
    (
        "a replica runs an older policy",
        {"fleets": fleets(view(replica(policy_version=2), policy_version=3))},
        {"Ready": ("False", "PolicyRollout")},
    ),
    (
        "no router answers the operator, but their probes do",
        {"fleets": fleets(silent=1)},
        {
            "Ready": ("True", "AsSpecified"),
            "WorkersReady": ("True", "RayServiceReady"),
            "Serving": ("True", "RoutersServe"),
            "MetricsFresh": ("False", "RoutersUnreachable"),
        },
    ),
    (
        "no router answers, none is ready",
        {"fleets": fleets(silent=1), "routers": Rollout(1, 0, True)},
        {"Serving": ("False", "NoRouterReady"), "RouterReady": ("False", "NoRouterReady")},
    ),
    (
        "no router answers yet, the first Ray cluster starts",
        {"fleets": fleets(silent=1), "routers": Rollout(1, 0, True), "ray": Ray(None, starting=True)},
        {"MetricsFresh": ("Unknown", "NotObserved"), "RouterReady": ("False", "NoRouterReady")},
    ),
    (
        "one router answers and one does not, the first Ray cluster starts",
        {"fleets": fleets(view(), silent=1), "ray": Ray(None, starting=True)},
        {"MetricsFresh": ("False", "RoutersUnreachable")},
    ),
    (
        "a replica is not heard of",
        {"fleets": fleets(view(replica(policy_version=3), replica("r2", freshness=Freshness.STALE, policy_version=3)))},
        {"MetricsFresh": ("False", "ReportsStale"), "Serving": ("True", "ReplicasServe")},
    ),
    (
        "a replica that drained and left is nothing to report",
        {
            "fleets": fleets(
                view(
                    replica(policy_version=3),
                    replica("r2", freshness=Freshness.DEAD, draining=True),
                    policy_version=3,
                )
            )
        },
        {"MetricsFresh": ("True", "ReportsFresh"), "Ready": ("True", "AsSpecified")},
    ),
    (
        "an objective is missed",
        {"attainment": {"standard": 94}},
        {"SLOMet": ("False", "ObjectivesMissed"), "Ready": ("True", "AsSpecified")},
    ),
    ("no answers to judge by", {"attainment": {"standard": None}}, {"SLOMet": ("Unknown", "NoTraffic")}),
    (
        "a Secret that routers wait for is not there",
        {"secrets": (NO_KEYS,), "routers": Rollout(1, 0, True), "fleets": fleets(silent=1), "ray": Ray(None)},
        {
            "Ready": ("False", "SecretMissing"),
            "RouterReady": ("False", "SecretMissing"),
            "Progressing": ("False", "SecretMissing"),
            "Serving": ("False", "NoRouterReady"),
        },
    ),
    (
        "a Secret's new content cannot be used: what was there before serves",
        {"secrets": (BAD_KEYS,)},
        {
            "Ready": ("False", "SecretInvalid"),
            "Serving": ("True", "ReplicasServe"),
            "RouterReady": ("True", "RoutersReady"),
            "Progressing": ("False", "SecretInvalid"),
        },
    ),
    (
        "it goes",
        {"deleting": "requests in flight finish"},
        {"Ready": ("False", "Draining"), "Progressing": ("True", "Draining"), "Serving": ("True", "ReplicasServe")},
    ),
    (
        "it is being suspended",
        {"suspend": True},
        {
            "Ready": ("False", "Suspended"),
            "Suspended": ("False", "Suspending"),
            "Progressing": ("True", "Suspending"),
            "Serving": ("True", "ReplicasServe"),
            "WorkersReady": ("False", "Suspended"),
        },
    ),
]


@pytest.mark.parametrize(("changes", "expected"), [pytest.param(*case[1:], id=case[0]) for case in CASES])
def test_one_thing_is_otherwise(changes: dict[str, Any], expected: dict[str, tuple[str, str]]) -> None:
    found = told(replace(WELL, **changes))
    assert {kind: found[kind] for kind in expected} == expected


def test_suspended() -> None:
    found = told(SUSPENDED)
    assert found["Suspended"] == ("True", "Suspended")
    assert found["Progressing"] == ("False", "Suspended")
    assert found["Serving"] == ("False", "Suspended")
    assert found["Ready"] == ("False", "Suspended")


def test_messages_say_what_to_do() -> None:
    missing = verdicts(replace(WELL, kuberay=False, notes=(KUBERAY,)))
    assert "helm install kuberay-operator" in missing[ConditionType.READY].message
    invalid = verdicts(replace(WELL, problems=("spec.a: is required", "spec.b: is wrong")))
    assert invalid[ConditionType.READY].message == "spec.a: is required\nspec.b: is wrong"
    secret = verdicts(replace(WELL, secrets=(NO_KEYS, BAD_KEYS)))[ConditionType.READY].message
    assert secret == f"{NO_KEYS.message}\n{BAD_KEYS.message}"
    silent = replace(WELL, ray=Ray(True, current=False, silent=True, name="nemo", namespace="llm"))
    command = "kubectl get events --field-selector involvedObject.name=nemo -n llm"
    assert command in verdicts(silent)[ConditionType.READY].message
    assert "headGroupSpec ..." in verdicts(replace(WELL, ray=REFUSED))[ConditionType.READY].message
    lacking = verdicts(replace(WELL, minimum={"flex": 2, "big": 1}))
    assert "flex has 1 of at least 2, big has 0 of at least 1" in lacking[ConditionType.WORKERS_READY].message


def test_what_the_cluster_cannot_have_is_said_and_keeps_nothing_from_being_ready() -> None:
    verdict = verdicts(replace(WELL, notes=(BUDGETS,)))[ConditionType.READY]
    assert verdict.status.value == "True"
    assert "PodDisruptionBudget: not known here" in verdict.message


def test_a_very_long_list_of_problems_fits_into_the_condition() -> None:
    verdict = verdicts(replace(WELL, problems=("spec.pools[0]: wrong " * 10,) * 100))[ConditionType.READY]
    assert len(verdict.message) <= 4096
    assert verdict.message.endswith("...")
