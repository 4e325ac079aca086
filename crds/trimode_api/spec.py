"""The parts of the spec of a `NemotronDeployment`.

Belongs here: their models with defaults, bounds and descriptions. The resource around them is in `resource`, rules
over several fields are in `rules`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, Strict
from pydantic.alias_generators import to_camel

from trimode_api.modes import Mode
from trimode_api.values import BlockLength, Cpu, Memory, ModelUri, Name, SecretName, Threshold

Int = Annotated[int, Strict()]
Bool = Annotated[bool, Strict()]
"""Numbers and switches as YAML writes them: text that looks like one is refused, as the API server does."""


class SpecModel(BaseModel):
    """A part of the resource: frozen, camelCase, unknown fields refused, numbers never guessed from text."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
    )


class EngineType(StrEnum):
    """What decodes."""

    NATIVE = "Native"
    SGLANG = "SGLang"


class Dtype(StrEnum):
    """Number format of weights and cache; `auto` is bfloat16 on a GPU, float32 on a CPU."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class SwitchingMode(StrEnum):
    """Who picks the operating point."""

    PREDICTIVE = "Predictive"
    MANUAL = "Manual"


class Model(SpecModel):
    """The weights and the name they are served under."""

    uri: ModelUri = Field(
        description="Where the weights are: hf://OWNER/NAME, file:///PATH, pvc://CLAIM/PATH, or tiny:// (packaged)."
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
    args: tuple[str, ...] | None = Field(
        default=None, max_length=64, description="Further arguments of the SGLang server; SGLang only."
    )


class Replicas(SpecModel):
    """Bounds of a pool's size."""

    min: Int = Field(
        default=1,
        ge=0,
        le=1024,
        description="Fewest replicas. With 0 the pool sleeps while nobody asks: a request wakes it and waits for it as "
        "long as admission.maxWaitMilliseconds allows.",
    )
    max: Int = Field(default=1, ge=1, le=1024, description="Most replicas.")
    idle_seconds: Int = Field(
        default=300,
        ge=1,
        le=86400,
        description="With min: 0, how long nobody must have asked before the last replica goes.",
    )


class Resources(SpecModel):
    """What one replica is given."""

    gpus: Int = Field(
        default=0,
        ge=0,
        le=16,
        description="GPUs per replica; the Native engine uses one, SGLang spreads the model over all.",
    )
    cpu: Cpu = Field(default="1", description="Cores per replica, such as '8' or '500m'.")
    memory: Memory = Field(default="1Gi", description="Memory per replica, such as '64Gi'.")


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


class Diffusion(SpecModel):
    """Block diffusion, for requests that allow a lossy answer in pools that list Diffusion."""

    block_length: BlockLength = Field(default=32, description="Tokens denoised together: a power of two from 4 to 64.")
    threshold: Threshold = Field(
        default="0.9", description="Top-1 probability at which a token is fixed, as text in (0, 1]."
    )


class Tier(SpecModel):
    """A class of requests and its latency objective."""

    name: Name = Field(description="What requests put into the x-trimode-tier header; unique in the resource.")
    ttft_milliseconds: Int = Field(
        default=1000,
        ge=1,
        le=600000,
        description="Objective for the time to the first token, in milliseconds.",
    )
    tpot_milliseconds: Int = Field(
        default=25,
        ge=1,
        le=60000,
        description="Objective for the time per output token over a request, in milliseconds.",
    )
    percentile: Int = Field(
        default=95, ge=50, le=99, description="Share of requests, in percent, that must meet the objective."
    )
    priority: Int = Field(
        default=0,
        ge=-1000,
        le=1000,
        description="Higher goes first. The tier with the lowest priority is the default of requests that name none.",
    )


class Switching(SpecModel):
    """How the operating point is chosen."""

    policy: SwitchingMode = Field(
        default=SwitchingMode.PREDICTIVE,
        description="Predictive: the point with the lowest predicted time per token. Manual: the mode given in `mode`.",
    )
    mode: Mode | None = Field(default=None, description="The mode to run; Manual only.")
    block_length: BlockLength | None = Field(
        default=None,
        description="Block length of the manual mode; the pool's largest where left out. Manual only.",
    )
    margin_percent: Int = Field(
        default=5,
        ge=0,
        le=50,
        description="A point must promise this much more speed, in percent, before it replaces the present one.",
    )
    min_dwell_milliseconds: Int = Field(
        default=200,
        ge=0,
        le=60000,
        description="Shortest time between two changes of the point, in milliseconds.",
    )
    fallback_mode: Mode = Field(
        default=Mode.AR, description="Mode where nothing can be predicted; must be in some pool's modes."
    )
    dry_run: Bool = Field(
        default=False,
        description="Decide and report, but stay in the fallback mode and move no replica between pools.",
    )


class Rebalancing(SpecModel):
    """Replicas that pools share, where an engine's mode is fixed when it starts."""

    total_replicas: Int = Field(
        ge=2,
        le=1024,
        description="Replicas that the pools with AR or SelfSpeculation have together. trimode then moves one at a "
        "time to the mode that is faster under the present load, and these pools are not autoscaled.",
    )


class Admission(SpecModel):
    """Bounds of the router's queue."""

    max_queued_requests: Int = Field(
        default=1024,
        ge=0,
        le=100000,
        description="Most requests waiting in a router; further ones are answered 429.",
    )
    max_wait_milliseconds: Int = Field(
        default=2000, ge=0, le=600000, description="Longest wait in the queue, in milliseconds; then 429."
    )


class Staleness(SpecModel):
    """How long a replica that does not report is trusted."""

    stale_after_seconds: Int = Field(
        default=3, ge=1, le=3600, description="From then on only the router's own counters are used for it."
    )
    dead_after_seconds: Int = Field(default=10, ge=1, le=3600, description="From then on it gets no requests.")


class Drain(SpecModel):
    """How long requests may finish when a replica goes."""

    timeout_seconds: Int = Field(
        default=300, ge=0, le=86400, description="Longest time for running requests to finish, in seconds."
    )


class RouterAuth(SpecModel):
    """Who may ask."""

    secret_name: SecretName = Field(
        description="Secret whose `keys.json` holds tenants and digests of their API keys; a change of it is taken "
        "over without a restart."
    )


class RouterTls(SpecModel):
    """HTTPS on the public port."""

    secret_name: SecretName = Field(
        description="Secret of type kubernetes.io/tls (`tls.crt`, `tls.key`); a renewed certificate is taken over "
        "without a restart."
    )


class Router(SpecModel):
    """The routers in front of the pools."""

    replicas: Int = Field(
        default=1,
        ge=1,
        le=64,
        description="Router copies, a core each: pods on a cluster, processes that share the port on one machine.",
    )
    auth: RouterAuth | None = Field(
        default=None, description="API keys; without, whoever reaches the routers may use them."
    )
    tls: RouterTls | None = Field(default=None, description="HTTPS on the public port; plain HTTP without.")


class Spec(SpecModel):
    """What the user wants."""

    model: Model = Field(description="The weights and their served name.")
    engine: Engine = Field(default=Engine(), description="What decodes, and its limits.")
    pools: tuple[Pool, ...] = Field(
        min_length=1, max_length=16, description="Groups of replicas, each with the modes it may use."
    )
    diffusion: Diffusion | None = Field(default=None, description="Needed where a pool lists Diffusion.")
    tiers: tuple[Tier, ...] = Field(
        default=(Tier(name="standard"),),
        min_length=1,
        max_length=16,
        description="Classes of requests with their objectives.",
    )
    switching: Switching = Field(default=Switching(), description="How the operating point is chosen.")
    rebalancing: Rebalancing | None = Field(
        default=None,
        description="For pools of one mode each: replicas move between them. Left out: each pool is autoscaled.",
    )
    admission: Admission = Field(default=Admission(), description="Bounds of the router's queue.")
    staleness: Staleness = Field(default=Staleness(), description="How long a silent replica is trusted.")
    drain: Drain = Field(default=Drain(), description="How long requests may finish when a replica goes.")
    router: Router = Field(default=Router(), description="The routers in front of the pools.")
    suspend: Bool = Field(default=False, description="Scale to nothing and keep the resource.")
