"""What replicas and routers tell one another.

Belongs here: the messages of the internal HTTP interface, one model each. A replica posts a `ReplicaReport` to every
router several times a second; the `ReportAnswer` carries policy and commands back, so no router ever opens a
connection for control.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from trimode_api.modes import OperatingPoint

REPORT_PATH = "/internal/v1/report"
POLICY_PATH = "/internal/v1/policy"
FLEET_PATH = "/internal/v1/fleet"
DRAIN_PATH = "/internal/v1/drain"
CONTINUE_PATH = "/internal/v1/continue"
"""On a replica's own port: go on with a stream that another replica began. The body is `{"path", "id", "created",
"emitted", "request"}`: the client's path and body as they came, the answer's id and time, all its token ids so far,
as chunks carried them under `trimode.ids`. The answer is the rest of the stream.

Of several choices, which chunks tell apart by `trimode.choice`, there is `choices` instead of `emitted`, in their
order: `{"emitted"}`, and for one that had its end `{"emitted", "ended", "tokens"}`, as `trimode` said there."""

TIER_HEADER = "x-trimode-tier"
REQUEST_ID_HEADER = "x-request-id"
TOKEN_VARIABLE = "TRIMODE_TOKEN"
"""Environment variable with the fleet's shared token; read in `__main__` modules only."""


PointName = Annotated[str, AfterValidator(lambda text: str(OperatingPoint.parse(text)))]
"""An operating point as text: AR, S8, D32@0.9."""


class WireModel(BaseModel):
    """A message: frozen, camelCase on the wire; unknown fields are ignored, so versions may differ in a roll-out."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, validate_by_name=True, validate_by_alias=True
    )

    def to_wire(self) -> bytes:
        return self.model_dump_json(by_alias=True).encode()

    @classmethod
    def from_wire(cls, data: bytes | str) -> Self:
        return cls.model_validate_json(data)


class Command(StrEnum):
    """What a router asks of a replica. A drained replica refuses new requests and finishes what runs."""

    NONE = "None"
    DRAIN = "Drain"
    UNDRAIN = "Undrain"


class PointReport(WireModel):
    """What a replica's engine measured of one operating point."""

    point: PointName
    cycle_seconds: float = Field(description="predicted seconds of a cycle at the present batch", ge=0)
    tokens_per_cycle: float = Field(description="tokens per request and cycle", ge=0)
    tokens_per_second: float = Field(description="predicted, of the whole batch", ge=0)
    cycles: int = Field(description="cycles run since start", ge=0)
    tokens: int = Field(description="tokens emitted since start", ge=0)


class DecisionReport(WireModel):
    """The engine's latest decision."""

    point: PointName
    reason: str
    detail: str = ""
    age_seconds: float = Field(description="how long this decision has stood", ge=0)


class SwitchReport(WireModel):
    """The engine's last switch: a change of the decided point. A probe is none."""

    from_point: PointName
    to_point: PointName
    reason: str
    detail: str = ""


class UnansweredReport(WireModel):
    """What a request has cost that no answer tells of: its client left, it failed, or its stream broke off.
    `request_id` is the router's, seconds are by operating point and `prompt`."""

    request_id: str
    busy_seconds: dict[str, float]


class ReplicaReport(WireModel):
    """One replica's state. `sequence` grows by one a report and restarts with the replica, whose id is then new."""

    replica_id: str = Field(min_length=1)
    pool: str = Field(min_length=1)
    url: str = Field(description="where requests go, http://host:port")
    model: str = Field(description="served name")
    sequence: int = Field(ge=0)
    ready: bool
    draining: bool = False
    running: int = Field(ge=0, description="requests that decode")
    waiting: int = Field(ge=0, description="requests not yet in the batch")
    max_running: int = Field(ge=1)
    queued_prompt_tokens: int = Field(ge=0)
    cached_tokens: int = Field(ge=0)
    capacity_tokens: int = Field(ge=0)
    max_context_tokens: int = Field(ge=1)
    point: PointName = Field(description="what runs now")
    decision: DecisionReport = Field(description="what the policy wants; differs from point in a dry run only")
    allowed_points: tuple[PointName, ...] = ()
    points: tuple[PointReport, ...] = ()
    switches: int = Field(ge=0, description="changes of the decided point since start, probes not counted")
    last_switch: SwitchReport | None = None
    preemptions: int = Field(default=0, ge=0)
    prompt_tokens_computed: int = Field(default=0, ge=0, description="since start, again after a preemption included")
    prompt_tokens_shared: int = Field(default=0, ge=0, description="copied instead, since start")
    stored_pages: int = Field(default=0, ge=0, description="pages of prompts and answers kept to be shared")
    store_pages: int = Field(default=0, ge=0, description="pages that may be kept")
    shortages: int = Field(default=0, ge=0, description="times that the device's memory ran out, since start")
    tokens_per_second: float = Field(ge=0, description="emitted by the replica over the last seconds")
    paces: tuple[tuple[int, float], ...] = Field(
        default=(),
        description="(requests decoding, predicted seconds per token of one of them), ascending; may be empty",
    )
    prompt_seconds_per_token: float = Field(
        default=0.0, ge=0, description="seconds spent on prompts per token decoded, recently"
    )
    prompt_tokens_per_second: float = Field(
        default=0.0, ge=0, description="prompt tokens per second spent on prompts, recently; 0 where unknown"
    )
    policy_version: int = Field(ge=0, description="version of the policy in force here")
    busy_seconds: float = Field(default=0.0, ge=0, description="engine's time with requests, since start; 0: unknown")
    start_seconds: float = Field(default=0.0, ge=0, description="time to load and warm up, before any request")
    ray_cluster: str = Field(default="", description="name of the RayCluster that it runs in; empty without KubeRay")
    unanswered: tuple[UnansweredReport, ...] = Field(
        default=(), description="of the latest seconds; the same ones in several reports, as one may be lost"
    )


class TierPolicy(WireModel):
    """One class of requests and its objective."""

    name: str
    ttft_milliseconds: int
    tpot_milliseconds: int
    percentile: int
    priority: int


class PoolPolicy(WireModel):
    """The operating points a pool's engines may choose from, AR first where allowed."""

    name: str
    points: tuple[PointName, ...] = Field(min_length=1)
    sleeps: bool = Field(default=False, description="it may have no replica; a request wakes it")


class SwitchingPolicy(WireModel):
    """How engines move between points. `fixed` is set in manual mode, by pool name."""

    fixed: dict[str, PointName] = {}
    margin_percent: int
    min_dwell_milliseconds: int
    fallback: dict[str, PointName] = Field(description="by pool: used where nothing can be predicted")
    dry_run: bool = False


class AdmissionPolicy(WireModel):
    """Bounds of the router's queue."""

    max_queued_requests: int
    max_wait_milliseconds: int
    refuse_late: bool = Field(default=False, description="whose first token is late for certain; else served late")


class StalenessPolicy(WireModel):
    """How long a silent replica is trusted."""

    stale_after_seconds: int
    dead_after_seconds: int


class PolicyConfig(WireModel):
    """All that may change without a restart. `version` is the resource's generation; the higher wins."""

    version: int = Field(ge=0)
    tiers: tuple[TierPolicy, ...] = Field(min_length=1)
    pools: tuple[PoolPolicy, ...] = Field(min_length=1)
    switching: SwitchingPolicy
    admission: AdmissionPolicy
    staleness: StalenessPolicy
    drain_timeout_seconds: int = 300
    gpu_hour_cost: float = Field(default=0.0, ge=0, description="for metrics; 0: not said")


class ReportAnswer(WireModel):
    """The router's answer to a report: the policy where the replica's is older, and a command."""

    policy: PolicyConfig | None = None
    command: Command = Command.NONE


ORIGIN = r"^(\*|null|[a-z][a-z0-9+.-]*://[^/?#\s]+)$"
"""An origin as browsers send it: scheme, host and port, without a slash behind."""


class RouterConfig(WireModel):
    """What a router process is started with: one JSON file, plus the token in the environment."""

    name: str = Field(description="the deployment's name")
    model: str = Field(description="served model name")
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    internal_host: str = "127.0.0.1"
    internal_port: int = Field(default=0, ge=0, le=65535, description="0: any free port")
    processes: int = Field(default=1, ge=1, le=64, description="routers that share the public port")
    static_replicas: tuple[str, ...] = Field(
        default=(), description="URLs of OpenAI-compatible servers that do not report; they are probed"
    )
    static_max_running: int = Field(default=256, ge=1, description="requests sent to one of them at a time")
    keys_file: str = Field(default="", description="API keys and tenants; empty: no keys are needed")
    peers: tuple[str, ...] = Field(
        default=(),
        description="URLs of internal ports of this router's copies, which share tenants' budgets; a host may have "
        "several addresses, and this router may be among them",
    )
    forward_client_keys: bool = Field(
        default=False, description="servers without a key of their own are sent the client's, also one of keys_file"
    )
    tls_certificate: str = Field(default="", description="PEM file of the public port; empty: plain HTTP")
    tls_key: str = Field(default="", description="PEM file, where the key is not in the certificate's")
    cors_origins: tuple[Annotated[str, Field(pattern=ORIGIN)], ...] = Field(
        default=(), description="origins whose pages may use the endpoint from a browser; * for any"
    )
    allowed_hosts: tuple[str, ...] = Field(
        default=(), description="names in Host besides this machine's own, where it is asked without keys; * for any"
    )
    idle_seconds: float = Field(
        default=120, gt=0, le=86_400, description="a kept client connection without a request is closed after this"
    )
    header_bytes: int = Field(default=16 * 1024, ge=1024, le=1024**2, description="line and headers of a request")
    body_bytes: int = Field(default=8 * 1024**2, ge=1024, le=1024**3, description="body of a request, inflated")
    access_log_sample: int = Field(default=100, ge=1, description="of good answers, one in so many is logged")
    policy: PolicyConfig
