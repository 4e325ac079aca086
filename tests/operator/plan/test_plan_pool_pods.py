"""What a pool says of its own pods: handed through as written, and nothing where nothing is written."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from trimode_api.resource import NemotronDeployment
from trimode_operator.plan import Plan
from trimode_operator.plan.kuberay import SHAPE_ANNOTATION
from trimode_operator.plan.settings import Settings

Resource = Callable[..., NemotronDeployment]
MakePlan = Callable[..., Plan]
Find = Callable[..., Mapping[str, Any]]

SPREAD = [
    {
        "maxSkew": 1,
        "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"trimode.dev/pool": "flex"}},
    }
]
NEAR = {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": {}}]}}
CLAIMS = [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}, {"name": "nic", "resourceClaimName": "shared"}]


def with_pod(spec: Mapping[str, Any], pod: Any) -> dict[str, Any]:
    changed = copy.deepcopy(dict(spec))
    changed["pools"][0]["pod"] = pod
    return changed


@pytest.fixture
def groups(resource: Resource, spec: dict[str, Any], plan: MakePlan, find: Find) -> Callable[..., Any]:
    """Pod templates of the worker groups of a resource whose first pool has this `pod`."""

    def make(pod: Any, **more: Any) -> list[dict[str, Any]]:
        service = find(plan(resource(with_pod(spec, pod)), **more), "RayService")
        return [group["template"] for group in service["spec"]["rayClusterConfig"]["workerGroupSpecs"]]

    return make


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("runtimeClassName", "nvidia"),
        ("priorityClassName", "serving"),
        ("topologySpreadConstraints", SPREAD),
        ("affinity", NEAR),
        ("resourceClaims", CLAIMS),
    ],
)
def test_fields_are_in_the_pods_of_their_pool_only(groups: Callable[..., Any], field: str, value: Any) -> None:
    flex, small = groups({field: value})
    assert flex["spec"][field] == value
    assert field not in small["spec"]
    assert small == groups(None)[1]


def test_they_are_known_to_kuberay(
    resource: Resource, spec: dict[str, Any], plan: MakePlan, find: Find, check_ray_service: Callable[..., None]
) -> None:
    pod = {
        "runtimeClassName": "nvidia",
        "priorityClassName": "serving",
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "topologySpreadConstraints": SPREAD,
        "resourceClaims": CLAIMS,
    }
    check_ray_service(find(plan(resource(with_pod(spec, pod))), "RayService"))


def test_nodes_and_taints_are_added_to_those_of_the_settings(groups: Callable[..., Any]) -> None:
    flex, small = groups({"nodeSelector": {"gpu": "h100"}, "tolerations": [{"key": "spot", "operator": "Exists"}]})
    assert flex["spec"]["nodeSelector"] == {"kubernetes.io/arch": "amd64", "gpu": "h100"}
    assert [each["key"] for each in flex["spec"]["tolerations"]] == ["gpu", "spot"]
    assert [each["key"] for each in small["spec"]["tolerations"]] == ["gpu"]
    flex, _ = groups({"nodeSelector": {"kubernetes.io/arch": "arm64"}}, settings=Settings())
    assert flex["spec"]["nodeSelector"] == {"kubernetes.io/arch": "arm64"}


def test_claims_take_the_place_of_gpus(groups: Callable[..., Any]) -> None:
    """Both together would take two GPUs."""
    (plain,), (claimed,) = (groups(pod)[0]["spec"]["containers"] for pod in (None, {"resourceClaims": CLAIMS}))
    assert plain["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert claimed["resources"]["claims"] == [{"name": "gpu"}, {"name": "nic"}]
    assert claimed["resources"]["limits"] == {"memory": "64Gi"}
    assert claimed["resources"]["requests"] == {"cpu": "8", "memory": "64Gi"}


@pytest.mark.parametrize("nothing", [None, {}, {"affinity": {}, "tolerations": [], "nodeSelector": {}}])
def test_nothing_written_makes_no_second_cluster(
    nothing: Any, resource: Resource, spec: dict[str, Any], plan: MakePlan, find: Find
) -> None:
    before, after = (find(plan(resource(each)), "RayService") for each in (spec, with_pod(spec, nothing)))
    assert before == after


def test_a_change_of_tolerations_rolls_the_pods(
    resource: Resource, spec: dict[str, Any], plan: MakePlan, find: Find, groups: Callable[..., Any]
) -> None:
    """KubeRay does not compare them, and a running cluster would keep the old ones."""
    plain, tolerant = groups(None)[0], groups({"tolerations": [{"operator": "Exists"}]})[0]
    assert plain["metadata"]["annotations"] != tolerant["metadata"]["annotations"]
    other = find(plan(resource(with_pod(spec, {"affinity": NEAR}))), "RayService")
    base = find(plan(resource(spec)), "RayService")
    assert other["metadata"]["annotations"][SHAPE_ANNOTATION] != base["metadata"]["annotations"][SHAPE_ANNOTATION]


@pytest.mark.parametrize(
    ("said", "expected"), [({}, "true"), ({"kueue.x-k8s.io/elastic-job": "false"}, "false")], ids=["by itself", "said"]
)
def test_kueues_labels_and_annotations_are_handed_through_and_change_no_shape(
    resource: Resource, plan: MakePlan, find: Find, said: dict[str, str], expected: str
) -> None:
    """What is in a queue is elastic unless the resource says otherwise: Kueue refuses Ray's autoscaler without."""
    plain, ours = resource(), {"app.kubernetes.io/part-of": "x", "team": "a"}
    labels = {"kueue.x-k8s.io/queue-name": "gpus", **ours}
    annotations = {"note": "b", **said}
    metadata = plain.metadata.model_copy(update={"labels": labels, "annotations": annotations})
    before = find(plan(plain), "RayService")
    after = find(plan(plain.model_copy(update={"metadata": metadata})), "RayService")
    assert after["metadata"]["labels"] == before["metadata"]["labels"] | {"kueue.x-k8s.io/queue-name": "gpus"}
    added = {"kueue.x-k8s.io/elastic-job": expected}
    assert after["metadata"]["annotations"] == before["metadata"]["annotations"] | added
    assert after["spec"] == before["spec"]
