"""Resources and plans to look at, and strict checks of manifests against the schemas of those who read them."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from kubernetes import client

from trimode_api.resource import NemotronDeployment
from trimode_operator.plan import Capabilities, Observed, Owner, Plan, make_plan
from trimode_operator.plan.settings import EndpointPicker, Gateway, Settings, Telemetry

SPEC: dict[str, Any] = {
    "model": {"uri": "file:///models/x", "servedName": "nemo"},
    "engine": {"maxContextTokens": 2048},
    "pools": [
        {
            "name": "flex",
            "modes": ["AR", "SelfSpeculation", "Diffusion"],
            "replicas": {"min": 1, "max": 4},
            "resources": {"gpus": 1, "cpu": "8", "memory": "64Gi"},
        },
        {"name": "small", "modes": ["AR"], "resources": {"cpu": "500m", "memory": "2Gi"}},
    ],
    "diffusion": {"blockLength": 32, "threshold": "0.9"},
    "tiers": [
        {"name": "premium", "tpotMilliseconds": 8, "priority": 10},
        {"name": "standard", "tpotMilliseconds": 25},
    ],
    "router": {"replicas": 2},
}

OBSERVED = Observed(token="secret")
EVERYTHING = Capabilities(service_monitor=True, http_route=True, inference_pool=True)
ALL_SETTINGS = Settings(
    image="registry.example/trimode:1",
    image_pull_secrets=("pull",),
    node_selector={"kubernetes.io/arch": "amd64"},
    tolerations=({"key": "gpu", "operator": "Exists", "effect": "NoSchedule"},),
    model_cache_claim="models",
    hub_token_secret="hub",
    gateway=Gateway(name="public", namespace="gateways", section_name="https", hostnames=("llm.example",)),
    endpoint_picker=EndpointPicker(name="picker"),
    telemetry=Telemetry(endpoint="http://collector:4318", headers_secret="collector"),
)

Resource = Callable[..., NemotronDeployment]
MakePlan = Callable[..., Plan]
Check = Callable[[Mapping[str, Any]], None]


@pytest.fixture(scope="session")
def spec() -> dict[str, Any]:
    """A spec with two pools; the caller may change its copy."""
    return copy.deepcopy(SPEC)


@pytest.fixture(scope="session")
def resource() -> Resource:
    """A resource: the usual one, or with another spec, name, namespace."""

    def make(
        spec: Mapping[str, Any] = SPEC, name: str = "nemo", namespace: str = "llm", generation: int = 3
    ) -> NemotronDeployment:
        return NemotronDeployment.parse(
            {
                "apiVersion": "trimode.dev/v1alpha1",
                "kind": "NemotronDeployment",
                "metadata": {"name": name, "namespace": namespace, "generation": generation, "uid": "u-1"},
                "spec": copy.deepcopy(dict(spec)),
            }
        )

    return make


@pytest.fixture(scope="session")
def plan() -> MakePlan:
    """The plan of a resource, on a cluster that has everything, with every setting used, unless told otherwise."""

    def make(
        deployment: NemotronDeployment,
        settings: Settings = ALL_SETTINGS,
        capabilities: Capabilities = EVERYTHING,
        observed: Observed = OBSERVED,
    ) -> Plan:
        metadata = deployment.metadata
        owner = Owner(metadata.name, metadata.namespace, "u-1", metadata.generation)
        return make_plan(deployment, owner, settings, capabilities, observed)

    return make


def child(plan: Plan, kind: str, name: str | None = None) -> Mapping[str, Any]:
    """The one child of the kind (and name)."""
    (found,) = [c for c in plan.children if c["kind"] == kind and name in (None, c["metadata"]["name"])]
    return found


@pytest.fixture(scope="session")
def find() -> Callable[..., Mapping[str, Any]]:
    return child


MODELS = {
    "ServiceAccount": "V1ServiceAccount",
    "Secret": "V1Secret",
    "ConfigMap": "V1ConfigMap",
    "Service": "V1Service",
    "Deployment": "V1Deployment",
    "NetworkPolicy": "V1NetworkPolicy",
    "PodDisruptionBudget": "V1PodDisruptionBudget",
}


@pytest.fixture(scope="session")
def check_core() -> Check:
    """Raises AssertionError where a manifest of a built-in kind has an unknown field, or lacks a required one."""

    def check(manifest: Mapping[str, Any]) -> None:
        _strict(manifest, MODELS[manifest["kind"]], manifest["kind"])

    return check


def _strict(value: Any, kind: str, path: str) -> None:
    """By the official client's own models: their fields, their types, their required ones."""
    if (match := re.fullmatch(r"List\[(.+)]", kind)) is not None:
        assert isinstance(value, list), f"{path}: {value!r} is no list"
        for index, item in enumerate(value):
            _strict(item, match[1], f"{path}[{index}]")
    elif (match := re.fullmatch(r"Dict\[(.+?), (.+)]", kind)) is not None:
        assert isinstance(value, dict), f"{path}: {value!r} is no mapping"
        for key, item in value.items():
            _strict(item, match[2], f"{path}.{key}")
    elif hasattr(client, kind):
        model = getattr(client, kind)
        fields = {wire: name for name, wire in model.attribute_map.items()}
        assert isinstance(value, Mapping), f"{path}: {value!r} is no mapping"
        assert set(value) <= set(fields), f"{path}: unknown {sorted(set(value) - set(fields))}"
        for wire, item in value.items():
            _strict(item, model.openapi_types[fields[wire]], f"{path}.{wire}")
        # Raises ValueError where a required field is missing.
        model(**{fields[wire]: item for wire, item in value.items()})
    elif kind != "object":
        allowed = {"str": str, "bytes": str, "int": int, "bool": bool}[kind]
        assert type(value) is allowed, f"{path}: {value!r} is no {kind}"


CRDS = Path(__file__).parents[3].parent / "shared" / "kuberay"


@pytest.fixture(scope="session")
def check_ray_service() -> Check:
    """Raises jsonschema's error where a RayService breaks KubeRay's own schema, or has fields it does not know."""
    file = CRDS / "ray.io_rayservices.yaml"
    if not file.is_file():
        pytest.skip(f"NO KUBERAY CRD at {file}: fetch ray-operator/config/crd/bases/ray.io_rayservices.yaml of KubeRay")
    crd = yaml.load(file.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (version,) = [v for v in crd["spec"]["versions"] if v["name"] == "v1"]
    validator = jsonschema.Draft7Validator(_closed(version["schema"]["openAPIV3Schema"]))
    return validator.validate


def _closed(schema: Any) -> Any:
    """The schema without room for fields it does not name; the API server would drop or refuse them."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    named = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if named and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
    return closed
