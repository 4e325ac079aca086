"""Statuses of the real KubeRay, recorded change by change, and what the operator says and does at each of them.

`python -m trimode_e2e record` wrote them (docs/cluster-tests.md). While they are replayed, routers and replicas are as
tempting as can be: every pool that is asked for has its replicas, which run the latest policy. So what holds Ready back
is KubeRay's word alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from trimode_lab.doubles.kubernetes.fleet import fleets, replica, view
from trimode_operator.observe.observations import Observations, minimum_of, ray_of, rollout_of
from trimode_operator.observe.pods import PodsSeen, pods_seen
from trimode_operator.observe.ray_clusters import RunningClusters, bounds_operations, cluster_name, superfluous, to_fit
from trimode_operator.status.readiness import readiness_of

FOLDER = Path(__file__).parents[1] / "recorded"
SEQUENCES = sorted(file.stem for file in FOLDER.glob("*.json"))
NAME = "tiny"
Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Moment:
    """All objects as they were after one of the recorded changes."""

    sequence: str
    at: float
    objects: dict[tuple[str, str], Object]

    def of(self, kind: str) -> list[Object]:
        return [body for (found, _), body in self.objects.items() if found == kind]

    @property
    def service(self) -> Object | None:
        return self.objects.get(("RayService", NAME))

    @property
    def running(self) -> RunningClusters:
        return RunningClusters(self._named("activeServiceStatus"), self._named("pendingServiceStatus"))

    @property
    def seen(self) -> Observations:
        (generation,) = [body["metadata"]["generation"] for body in self.of("NemotronDeployment")] or [0]
        minimum = minimum_of(None, self.service)
        replicas = [
            replica(f"{p}-{n}", p, policy_version=generation) for p, least in minimum.items() for n in range(least)
        ]
        return Observations(
            generation=generation,
            suspend=self.sequence == "suspend" and self.at > 0,
            routers=rollout_of(self.objects.get(("Deployment", f"{NAME}-router"))),
            ray=ray_of(self.service, self.running.active),
            fleets=fleets(view(*replicas, policy_version=generation)),
            minimum=minimum,
            policy_version=generation,
        )

    @property
    def pods(self) -> PodsSeen:
        return pods_seen(self.of("Pod"))

    @property
    def ready(self) -> tuple[str, str]:
        verdict = readiness_of(self.seen).explained_by(self.pods).ready
        return verdict.status.value, str(verdict.reason)

    def _named(self, part: str) -> Object | None:
        return self.objects.get(("RayCluster", cluster_name(self.service or {}, part)))


@cache
def moments(sequence: str) -> tuple[Moment, ...]:
    return tuple(_moments(sequence))


def _moments(sequence: str) -> Iterator[Moment]:
    """One for each time at which something changed; the first has all that there was at the beginning."""
    objects: dict[tuple[str, str], Object] = {}
    steps = json.loads((FOLDER / f"{sequence}.json").read_text())["steps"]
    for at, changes in groupby(steps, key=lambda step: step["at"]):
        for step in changes:
            objects[step["kind"], step["name"]] = step["object"]
        objects = {key: body for key, body in objects.items() if body is not None}
        yield Moment(sequence, at, dict(objects))


WELL, ROLLS = ("True", "AsSpecified"), ("False", "WorkersRollout")
STARTS, NO_ROUTER = ("Unknown", "NotObserved"), ("False", "NoRouterReady")
FAILED = ("False", "DeployFailed")
HEADLESS, FAILING = ("False", "HeadNotReady"), ("False", "PodsFailing")
READY = {
    "first-start": [STARTS, NO_ROUTER, ROLLS, WELL],
    # The machine was too busy meanwhile: the node was NotReady for some seconds, with all its pods.
    "bounds": [WELL, ROLLS, WELL, ROLLS, WELL, NO_ROUTER],
    "pool-added": [NO_ROUTER, HEADLESS, WELL],
    "upgrade": [WELL, ROLLS, WELL],
    "no-image": [WELL, ROLLS, FAILING, WELL],
    "no-model": [WELL, ROLLS, FAILED, ROLLS, WELL],
    "suspend": [WELL, ("False", "Suspended")],
    "resume": [ROLLS, NO_ROUTER, WELL],
}


def without_repetition(items: Iterator[Any]) -> list[Any]:
    return [item for item, _ in groupby(items)]


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_ready_from_change_to_change(sequence: str) -> None:
    assert without_repetition(moment.ready for moment in moments(sequence)) == READY[sequence]


@pytest.mark.parametrize("sequence", ["upgrade", "no-image", "no-model"])
def test_it_is_never_ready_while_the_cluster_of_before_serves(sequence: str) -> None:
    """From the write of the operator's that asks for another one, until that one or the old file is in force."""
    first = moments(sequence)[0]
    asked = [each for each in moments(sequence) if shape(each.service) != shape(first.service)]
    old = [each for each in asked if cluster_name(each.service or {}, "activeServiceStatus") == serving(first)]
    assert len(old) > 3
    assert {each.ready[0] for each in old} == {"False"}


def shape(service: Object | None) -> str:
    assert service is not None
    return str(service["metadata"]["annotations"]["trimode.dev/shape"])


def serving(moment: Moment) -> str:
    return cluster_name(moment.service or {}, "activeServiceStatus")


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_a_pending_cluster_is_given_up_when_the_old_file_is_back_and_never_else(sequence: str) -> None:
    given_up = [each for each in moments(sequence) if each.service and superfluous(each.service, each.running)]
    back = sequence in ("no-image", "no-model")
    assert bool(given_up) is back
    first = moments(sequence)[0]
    assert all(shape(each.service) == shape(first.service) for each in given_up)


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_bounds_are_written_where_kuberay_leaves_them_and_then_no_more(sequence: str) -> None:
    """KubeRay changes none of a running cluster: until the operator does, its status says that all is as it should."""
    written = [
        json.dumps(operations)
        for each in moments(sequence)
        if each.service and (cluster := to_fit(each.service, each.running))
        if (operations := bounds_operations(each.service, cluster))
    ]
    assert len(without_repetition(iter(written))) == (2 if sequence == "bounds" else 0)
    last = moments(sequence)[-1]
    if last.service is not None and (cluster := to_fit(last.service, last.running)):
        assert bounds_operations(last.service, cluster) == []


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_a_pod_that_merely_starts_or_ends_is_not_said_to_fail(sequence: str) -> None:
    failing = {line for each in moments(sequence) for line in each.pods.failing}
    if sequence != "no-image":
        assert failing == set()
    else:
        assert failing
        assert all("ErrImagePull" in line or "ImagePullBackOff" in line for line in failing)
        assert all("registry.invalid/none:1" in line for line in failing)


def test_a_model_that_is_not_there_is_named() -> None:
    told = {line for each in moments("no-model") if each.seen.ray for line in each.seen.ray.failed}
    assert any("flex DEPLOY_FAILED" in line and "/nowhere" in line for line in told), told


def test_every_sequence_that_the_docs_promise_is_there() -> None:
    assert set(SEQUENCES) == READY.keys()
