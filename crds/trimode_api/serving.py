"""The parts of the spec that say what is served: weights, engine, pools. How requests are treated is in `spec`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, StringConstraints, WithJsonSchema

from trimode_api.modes import Mode
from trimode_api.values import Argument, BlockLength, Cpu, Int, Memory, ModelUri, Name, ObjectName, SpecModel, Threshold


class EngineType(StrEnum):
    """What decodes."""

    NATIVE = "Native"
    SGLANG = "SGLang"


class Dtype(StrEnum):
    """Number format of weights and cache; `auto` is bfloat16 on a GPU, float32 on a CPU."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class ToolFormat(StrEnum):
    """How a model writes tool calls."""

    HERMES = "Hermes"
    MISTRAL = "Mistral"
    MISTRAL_LIST = "MistralList"
    LLAMA = "Llama"
    JSON = "Json"


class Model(SpecModel):
    """The weights and the name they are served under."""

    uri: ModelUri = Field(
        description="Where the weights are: hf://OWNER/NAME, file:///PATH, pvc://CLAIM/PATH, oci://IMAGE (an OCI image "
        "with the model folder as its root; Kubernetes 1.35 or newer), or tiny:// (packaged)."
    )
    revision: str = Field(
        default="main", min_length=1, max_length=128, description="Branch, tag or commit of an hf:// source."
    )
    served_name: str | None = Field(
        default=None,
        min_length=1,
        max_length=128,
        description="Name that clients put into `model`; the resource's name where it is left out.",
    )
    draft_adapter: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="Folder of a LoRA adapter, inside the model's source, that is on while drafting only.",
    )
    tool_format: ToolFormat | None = Field(
        default=None,
        description="How the model writes tool calls: Hermes (<tool_call>), Mistral ([TOOL_CALLS]name[ARGS]), "
        "MistralList ([TOOL_CALLS] and a list), Llama or Json (a plain object with parameters, or arguments). Left "
        "out: found in the chat template.",
    )


class Engine(SpecModel):
    """What decodes, and its limits."""

    type: EngineType = Field(
        default=EngineType.NATIVE,
        description="Native: trimode's engine, which changes mode between any two cycles. SGLang: one server per mode.",
    )
    dtype: Dtype = Field(
        default=Dtype.AUTO, description="Number format; auto is bfloat16 on a GPU and float32 on a CPU."
    )
    max_context_tokens: Int = Field(
        default=4096, ge=64, le=1048576, description="Longest prompt plus answer, in tokens."
    )
    max_running_requests: Int = Field(
        default=64, ge=1, le=4096, description="Most requests decoding at once in one replica."
    )
    image: str | None = Field(
        default=None,
        min_length=1,
        max_length=512,
        description="Container image of the workers, with SGLang, trimode and the operator's version of Ray; "
        "SGLang only.",
    )
    args: tuple[Argument, ...] | None = Field(
        default=None, max_length=64, description="Further arguments of the SGLang server; SGLang only."
    )


class Replicas(SpecModel):
    """Bounds of a pool's size."""

    min: Int = Field(
        default=1,
        ge=0,
        le=1024,
        description="Fewest replicas. With 0 the pool sleeps while there are no requests: the next one wakes it and "
        "waits for it as long as admission.maxWaitMilliseconds allows.",
    )
    max: Int = Field(default=1, ge=1, le=1024, description="Most replicas.")
    idle_seconds: Int = Field(
        default=300,
        ge=1,
        le=86400,
        description="With min: 0, how long there must have been no request before the last replica goes.",
    )


class Resources(SpecModel):
    """What one replica is given."""

    gpus: Int = Field(
        default=0,
        ge=0,
        le=16,
        description="GPUs per replica; the Native engine uses one, SGLang spreads the model over all.",
    )
    cpu: Cpu = Field(default="1", description="Cores per replica, such as 8, '0.5' or 500m.")
    memory: Memory = Field(
        default="2Gi",
        description="Bytes of memory per replica, such as 64Gi or 500M. Ray's own processes take about 350 MB of it.",
    )


AsInPods = Annotated[dict[str, Any], WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})]
"""A part of a pod's spec, as pods write it; its inside is judged by Kubernetes' API server."""

LabelValue = Annotated[str, StringConstraints(max_length=63)]


class ResourceClaim(SpecModel):
    """A claim of devices (DRA): one that is there, or a template of which each pod gets a claim of its own."""

    name: Name = Field(description="Name of the claim in the pod, unique in the pool.")
    resource_claim_name: ObjectName | None = Field(default=None, description="A ResourceClaim that all pods share.")
    resource_claim_template_name: ObjectName | None = Field(
        default=None, description="A ResourceClaimTemplate, of which each pod gets a claim."
    )


class Pod(SpecModel):
    """Where a pool's pods run and what they get beside `resources`. A change of it makes another Ray cluster."""

    runtime_class_name: ObjectName | None = Field(default=None, description="RuntimeClass of the pods.")
    priority_class_name: ObjectName | None = Field(default=None, description="PriorityClass of the pods.")
    node_selector: dict[str, LabelValue] | None = Field(
        default=None, max_length=32, description="Labels of nodes, beside those of the operator's settings."
    )
    tolerations: tuple[AsInPods, ...] | None = Field(
        default=None, max_length=32, description="Taints of nodes that are no hindrance, beside those of the settings."
    )
    affinity: AsInPods | None = Field(default=None, description="Nodes and neighbours that are sought or avoided.")
    topology_spread_constraints: tuple[AsInPods, ...] | None = Field(
        default=None,
        max_length=16,
        description="How pods spread over zones or nodes. Pods of a pool have the labels trimode.dev/pool: POOL and "
        "app.kubernetes.io/instance: NAME.",
    )
    resource_claims: tuple[ResourceClaim, ...] | None = Field(
        default=None,
        max_length=8,
        description="Claims of devices (DRA), used by the worker. With any, pods ask for no GPU of a device plugin; "
        "resources.gpus still says how many the replica uses.",
    )


class Pool(SpecModel):
    """Replicas that share engine, resources and the modes they may use."""

    name: Name = Field(description="Name of the pool, unique in the resource.")
    modes: tuple[Mode, ...] = Field(
        min_length=1,
        max_length=4,
        description="Modes its engines may run. Several: the engine switches between them. SGLang: exactly one. "
        "QuadraticSpeculation drafts and verifies in one wide forward: more tokens per forward, but slower than "
        "SelfSpeculation wherever arithmetic is the limit, so it is tried only where it is named here.",
    )
    block_lengths: tuple[BlockLength, ...] = Field(
        default=(8, 16, 32),
        min_length=1,
        max_length=5,
        description="Block lengths for self-speculation, in tokens: powers of two from 4 to 64 (32 if quadratic).",
    )
    draft_threshold: Threshold | None = Field(
        default=None,
        description="Makes SelfSpeculation draft in up to three forwards, each fixing the tokens whose top-1 "
        "probability reaches this, as text in (0, 1]; one forward where left out. Changes speed and no answer.",
    )
    replicas: Replicas = Field(default=Replicas(), description="Bounds of the number of replicas.")
    resources: Resources = Field(default=Resources(), description="What one replica is given.")
    pod: Pod | None = Field(
        default=None,
        description="Further fields of the pool's pods, as pods write them; on a cluster only. A change of it makes "
        "another Ray cluster beside the one that serves.",
    )


class Diffusion(SpecModel):
    """Block diffusion, for requests that allow a lossy answer in pools that list Diffusion."""

    block_length: BlockLength = Field(default=32, description="Tokens denoised together: a power of two from 4 to 64.")
    threshold: Threshold = Field(
        default="0.9", description="Top-1 probability at which a token is fixed, as text in (0, 1]."
    )


RESERVED = (
    "--model-path",
    "--model",
    "--tokenizer-path",
    "--served-model-name",
    "--host",
    "--port",
    "--context-length",
    "--max-running-requests",
    "--json-model-override-args",
    "--dllm-algorithm",
    "--dllm-algorithm-config",
    "--enable-metrics",
    "--dtype",
    "--config",
)
"""Arguments of an SGLang server that follow from the resource: written a second time they would contradict it."""


def reserved(args: Sequence[str]) -> list[str]:
    """Those of `args` that are not the user's to set."""
    return [arg for arg in args if arg.split("=", 1)[0] in RESERVED]
