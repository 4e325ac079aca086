"""What a platform team brings to a resource, on paper: autoscalers, Kueue's labels, fields of pods."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from trimode_e2e import crds
from trimode_e2e.api import Object
from trimode_e2e.crds import ROOT
from trimode_e2e.errors import Missing
from trimode_e2e.kubectl import Kubectl
from trimode_e2e.operator_process import Operator
from trimode_e2e.world import KIND, RAY, VERSION, World, pool, tiny

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

FLEET, AUTOSCALER, KEDA = (ROOT / "examples" / "scaling" / f"{name}.yaml" for name in ("fleet", "autoscaler", "keda"))
NAME = "scaled"
LONG_S = 400.0
MISSING = 'the spec replicas field ".spec.replicas" does not exist'


@pytest.fixture
def place(world: World, operator: Operator, namespace: str) -> Iterator[str]:
    """A namespace whose resources go before it does."""
    yield namespace
    for item in world.api.listed(VERSION, KIND, namespace):
        world.delete(item["metadata"]["name"], namespace)


def service_of(world: World, place: str, name: str = NAME) -> Object:
    found = world.api.get(*RAY, name, place)
    assert found is not None
    return found


def bounds(world: World, place: str) -> tuple[Any, ...]:
    """Bounds of the only pool, as KubeRay and as Serve are told them."""
    spec = service_of(world, place)["spec"]
    (group,) = spec["rayClusterConfig"]["workerGroupSpecs"]
    scaling = yaml.safe_load(spec["serveConfigV2"])["applications"][0]["deployments"][0]["autoscaling_config"]
    return group["minReplicas"], group["maxReplicas"], scaling["min_replicas"], scaling["max_replicas"]


def made(world: World, place: str, resource: Object) -> None:
    world.api.create({**resource, "metadata": {**resource["metadata"], "namespace": place}})
    name = resource["metadata"]["name"]
    world.api.until(lambda: world.api.get(*RAY, name, place), "its RayService", LONG_S)


def test_kubectl_scales_the_pool(world: World, place: str, kubectl: Kubectl) -> None:
    made(world, place, yaml.safe_load(FLEET.read_text()))
    assert bounds(world, place) == (1, 1, 1, 1)
    world.until_condition(NAME, place, "ExternallyScaled", "True", LONG_S, "ReplicasSet")
    kubectl("scale", "nd", NAME, "--namespace", place, "--replicas=3")
    world.api.until(lambda: bounds(world, place) == (3, 3, 3, 3), "the RayService has three", LONG_S)
    kubectl("scale", "nd", NAME, "--namespace", place, "--replicas=2", "--current-replicas=3")
    world.api.until(lambda: bounds(world, place) == (2, 2, 2, 2), "the RayService has two", LONG_S)
    words = kubectl.attempt("scale", "nd", NAME, "--namespace", place, "--replicas=0").stderr
    assert "spec.replicas" in words
    assert "greater than or equal to 1" in words
    remove = '[{"op": "remove", "path": "/spec/replicas"}]'
    kubectl("patch", "nd", NAME, "--namespace", place, "--type", "json", "--patch", remove)
    world.until_condition(NAME, place, "ExternallyScaled", "False", LONG_S, "OwnSizing")
    world.api.until(lambda: bounds(world, place) == (1, 1, 1, 1), "the pool's own bounds are back", LONG_S)


def test_autoscalers_are_told_the_workers_labels(world: World, place: str, kubectl: Kubectl) -> None:
    made(world, place, yaml.safe_load(FLEET.read_text()))
    world.until_condition(NAME, place, "ExternallyScaled", "True", LONG_S)
    scale = yaml.safe_load(
        kubectl("get", "nd", NAME, "--namespace", place, "--subresource", "scale", "--output", "yaml")
    )
    assert scale["spec"] == {"replicas": 1}
    assert scale["status"]["replicas"] == 0  # nothing runs on paper
    told = dict(pair.split("=") for pair in scale["status"]["selector"].split(","))
    (group,) = service_of(world, place)["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert told.items() <= group["template"]["metadata"]["labels"].items()
    head = service_of(world, place)["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["metadata"]["labels"]
    assert not told.items() <= head.items()


def test_a_real_autoscalers_controller_writes_the_count(world: World, place: str) -> None:
    """Kubernetes' own, which brings a count within its bounds without any metrics."""
    plane = world.cluster.plane
    if plane is not None and not plane.has_controllers:
        pytest.skip("no kube-controller-manager: run `make cluster-programs`")
    made(world, place, yaml.safe_load(FLEET.read_text()))
    scaler = yaml.safe_load(AUTOSCALER.read_text())
    scaler["metadata"]["namespace"] = place
    scaler["spec"] |= {"minReplicas": 2}
    world.api.create(scaler)
    world.api.until(lambda: bounds(world, place) == (2, 2, 2, 2), "the autoscaler's minimum", LONG_S)
    managers = {
        entry["manager"]: entry.get("subresource") for entry in world.get(NAME, place)["metadata"]["managedFields"]
    }
    assert managers["kube-controller-manager"] == "scale"
    change = {"spec": {"minReplicas": 1, "maxReplicas": 1}}
    world.api.patch("autoscaling/v2", "HorizontalPodAutoscaler", NAME, place, change)
    world.api.until(lambda: bounds(world, place) == (1, 1, 1, 1), "the autoscaler's maximum", LONG_S)
    world.api.delete("autoscaling/v2", "HorizontalPodAutoscaler", NAME, place)


def test_autoscalers_are_refused_where_trimode_sizes(world: World, place: str, kubectl: Kubectl) -> None:
    """They read the count first; kubectl writes without reading, and so takes the sizing over."""
    made(world, place, tiny("own", ""))
    read = ("get", "nd", "own", "--namespace", place, "--subresource", "scale")
    assert MISSING in kubectl.attempt(*read).stderr
    kubectl("scale", "nd", "own", "--namespace", place, "--replicas=3")
    world.until_condition("own", place, "ExternallyScaled", "True", LONG_S, "ReplicasSet")
    kubectl(*read)


def test_kedas_example_is_accepted_by_its_definition(world: World, place: str, kubectl: Kubectl) -> None:
    """KEDA itself does not run here: it makes a HorizontalPodAutoscaler, whose controller is real above."""
    try:
        world.install(crds.scaled_object())
    except Missing as exc:
        pytest.skip(str(exc))
    create = ("create", "--validate=strict", "--namespace", place, "--filename=-")
    kubectl(*create, text=KEDA.read_text())
    scaler = world.api.get("keda.sh/v1alpha1", "ScaledObject", NAME, place)
    assert scaler is not None
    assert scaler["spec"]["scaleTargetRef"] == {"apiVersion": VERSION, "kind": KIND, "name": NAME}
    misspelt = KEDA.read_text().replace("minReplicaCount", "minReplicas").replace("name: scaled}", "name: other}", 1)
    assert 'unknown field "spec.minReplicas"' in kubectl.attempt(*create, text=misspelt).stderr


def test_several_pools_are_not_scaled_by_others(world: World, place: str, kubectl: Kubectl) -> None:
    made(world, place, tiny("both", "", pools=[pool("a"), pool("b")]))
    refused = kubectl.attempt("scale", "nd", "both", "--namespace", place, "--replicas=3")
    assert "is for resources with one pool" in refused.stderr


def test_kueues_label_comes_and_goes_with_the_resources(world: World, place: str, kubectl: Kubectl) -> None:
    made(world, place, tiny("queued", ""))
    before = service_of(world, place, "queued")

    def queue() -> Any:
        return service_of(world, place, "queued")["metadata"]["labels"].get("kueue.x-k8s.io/queue-name")

    kubectl("label", "nd", "queued", "--namespace", place, "kueue.x-k8s.io/queue-name=gpus", "team=a")
    world.api.until(lambda: queue() == "gpus", "the label is handed through", LONG_S)
    after = service_of(world, place, "queued")
    assert after["spec"] == before["spec"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"], "nothing for KubeRay to do"
    assert "team" not in after["metadata"]["labels"]
    kubectl("label", "nd", "queued", "--namespace", place, "kueue.x-k8s.io/queue-name-")
    world.api.until(lambda: queue() is None, "the label is gone", LONG_S)


POD = {
    "runtimeClassName": "nvidia",
    "priorityClassName": "serving",
    "nodeSelector": {"gpu": "h100"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
    ]}}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}
    ],
    "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}],
}  # fmt: skip


def test_fields_of_pods_are_kuberays_to_make(world: World, place: str) -> None:
    """By KubeRay's real schema, strictly."""
    made(world, place, tiny("pods", "", pools=[pool("flex", pod=POD)]))
    (group,) = service_of(world, place, "pods")["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    found = group["template"]["spec"]
    assert {name: found[name] for name in POD} == POD
    assert found["containers"][0]["resources"]["claims"] == [{"name": "gpu"}]


def test_a_misspelt_field_of_pods_is_told_and_changes_nothing(world: World, place: str) -> None:
    made(world, place, tiny("typo", ""))
    before = service_of(world, place, "typo")
    world.patch("typo", place, {"pools": [pool("flex", pod={"affinity": {"nodeAfinity": {}}})]})
    told = world.until_condition("typo", place, "Ready", "False", LONG_S, "FieldUnknown")
    assert "nodeAfinity" in told["message"]
    assert service_of(world, place, "typo")["spec"] == before["spec"]


def test_pods_without_fields_of_their_own_stay_as_they_were(world: World, place: str) -> None:
    made(world, place, tiny("plain", ""))
    before = service_of(world, place, "plain")
    world.patch("plain", place, {"pools": [pool("flex", pod={"tolerations": []})]})
    world.until_condition("plain", place, "ExternallyScaled", "False", LONG_S)
    after = service_of(world, place, "plain")
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


def test_an_image_of_a_model_is_a_volume_that_restricted_namespaces_allow(
    world: World, place: str, kubectl: Kubectl
) -> None:
    """As far as a server can say: no node mounts it here."""
    made(world, place, tiny("oci", "", model={"uri": "oci://registry.example/models/tiny:1"}))
    (group,) = service_of(world, place, "oci")["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    template = group["template"]
    (volume,) = [each for each in template["spec"]["volumes"] if each["name"] == "model"]
    assert volume["image"]["reference"] == "registry.example/models/tiny:1"
    label = "pod-security.kubernetes.io/enforce=restricted"
    kubectl("label", "namespace", place, label)
    spec = {**template["spec"], "serviceAccountName": "default"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe", "namespace": place}, "spec": spec}
    created = yaml.safe_load(
        kubectl("create", "--dry-run=server", "--output=yaml", "--filename=-", text=yaml.safe_dump(pod))
    )
    assert (
        volume["image"].items() <= next(v for v in created["spec"]["volumes"] if v["name"] == "model")["image"].items()
    )
