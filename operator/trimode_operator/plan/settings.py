"""What the platform engineer configures once for all resources: images, resources of our own pods, the cluster's names.

The edge reads them from a file and the environment; the plan takes them as an argument.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic.alias_generators import to_camel

from trimode_api.values import GRAMMAR, MAX_LENGTH, Cpu, Memory, Name
from trimode_operator.plan.names import LABEL_MAX, fitting

IMAGE = "trimode:0.1.0"
RAY_VERSION = "2.60.0"
"""Ray in the image; KubeRay wants to know."""


class Part(BaseModel):
    """Frozen, camelCase in files; unknown fields are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, validate_by_name=True, validate_by_alias=True
    )


_AS_PODS_WRITE_IT = (
    BeforeValidator(lambda value: repr(value) if isinstance(value, float) else value),
    WithJsonSchema({"type": ["string", "number"], "pattern": GRAMMAR, "maxLength": MAX_LENGTH, "exclusiveMinimum": 0}),
)
"""`0.5` too: only the schema of a custom resource has no type for that. Helm writes bytes as `2e+09`."""


class PodResources(Part):
    """Cores and memory: what a pod asks for, and its bound of memory (no bound of cores: it would only throttle)."""

    cpu: Annotated[Cpu, *_AS_PODS_WRITE_IT] = "1"
    memory: Annotated[Memory, *_AS_PODS_WRITE_IT] = "1Gi"


class Gateway(Part):
    """The Gateway that HTTPRoutes attach to; `hostnames` empty is every host."""

    name: Name
    namespace: Name | None = None
    section_name: Name | None = None
    hostnames: tuple[str, ...] = ()


class EndpointPicker(Part):
    """The Service of an endpoint picker in a resource's namespace, for clusters that route by InferencePool.

    Either its `name`, the same for every pool, or the `suffix` that it has behind the pool's name: the Inference
    Extension's own picker serves one pool each.
    """

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["name"]}, {"required": ["suffix"]}]})

    name: Name | None = None
    suffix: str | None = Field(default=None, pattern=r"^-[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=16)
    port: int = Field(default=9002, ge=1, le=65535)

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.name is None) == (self.suffix is None):
            raise ValueError("either name or suffix")
        return self

    def of(self, pool: str) -> str:
        """The name of the Service for a pool."""
        return self.name or fitting(f"{pool}{self.suffix}", LABEL_MAX)


class Telemetry(Part):
    """The OpenTelemetry collector that routers export traces and GenAI metrics to, as OTLP over HTTP.

    `headers_secret` is a Secret in the resource's namespace whose `headers` (`name=value,name=value`) are sent along.
    """

    endpoint: str = Field(pattern=r"^https?://[^\s/]+(/\S*)?$", max_length=2048)
    headers_secret: Name | None = None
    traces: bool = True
    metrics: bool = True
    metric_seconds: int = Field(default=60, ge=1, le=3600)
    """How often metrics are exported."""


class PeerSelector(Part):
    """Pods elsewhere: those with `pod_labels` in namespaces with `namespace_labels`. Empty labels are all."""

    namespace_labels: dict[str, str] = {}
    pod_labels: dict[str, str] = {}


class Settings(Part):
    """Settings of the operator that shape what it makes.

    `image` holds operator, router and worker. `operator` and `kuberay` say where those pods are, for NetworkPolicies.
    """

    image: str = Field(default=IMAGE, min_length=1)
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    image_pull_secrets: tuple[Name, ...] = ()
    ray_version: str = Field(default=RAY_VERSION, pattern=r"^\d+\.\d+\.\d+$")
    cluster_domain: str = Field(default="cluster.local", min_length=1)
    run_as_user: int = Field(default=65532, ge=1)
    router: PodResources = PodResources(cpu="1", memory="512Mi")
    head: PodResources = PodResources(cpu="1", memory="2Gi")
    autoscaler: PodResources = PodResources(cpu="200m", memory="512Mi")
    gpu_resource: str = Field(default="nvidia.com/gpu", min_length=1)
    node_selector: dict[str, str] = {}
    tolerations: tuple[dict[str, str | int], ...] = ()
    model_cache_claim: Name | None = Field(
        default=None, description="PersistentVolumeClaim that keeps hf:// models; an emptyDir where left out."
    )
    hub_token_secret: Name | None = Field(
        default=None, description="Secret in a resource's namespace whose `token` opens gated hf:// models."
    )
    network_policies: bool = True
    operator: PeerSelector = PeerSelector(pod_labels={"app.kubernetes.io/name": "trimode-operator"})
    kuberay: PeerSelector = PeerSelector(pod_labels={"app.kubernetes.io/component": "kuberay-operator"})
    """Its chart and its kustomize manifests agree on this label only: `name` is `kuberay` in the manifests."""
    gateway: Gateway | None = None
    endpoint_picker: EndpointPicker | None = None
    telemetry: Telemetry | None = None
