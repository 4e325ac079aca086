"""What `/fleet` shows: a router's view of the fleet, for people, the CLI and the operator.

Wall times are Unix seconds; ages are seconds.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from trimode_api.wire import DecisionReport, PointName, PointReport, SwitchingPolicy, TierPolicy, WireModel

PUBLIC_FLEET_PATH = "/fleet"
HISTORY_PATH = "/fleet/history"


class Freshness(StrEnum):
    """How far a replica's last report may be trusted."""

    FRESH = "Fresh"
    STALE = "Stale"
    DEAD = "Dead"


class ReplicaState(WireModel):
    """One replica: its last report, and what this router adds (`in_flight`, `freshness`, `cooling`)."""

    replica_id: str
    pool: str
    url: str
    ready: bool
    draining: bool
    freshness: Freshness
    cooling: bool = Field(description="passed over for a moment, because it failed a request")
    age_seconds: float = Field(description="since the last report")
    in_flight: int = Field(description="requests of this router")
    running: int
    waiting: int
    max_running: int
    queued_prompt_tokens: int
    cached_tokens: int
    capacity_tokens: int
    point: PointName
    decision: DecisionReport
    allowed_points: tuple[PointName, ...]
    points: tuple[PointReport, ...]
    switches: int
    preemptions: int
    prompt_tokens_computed: int = 0
    prompt_tokens_shared: int = 0
    stored_pages: int = 0
    store_pages: int = 0
    prompt_tokens_per_second: float = 0.0
    shortages: int = 0
    busy_seconds: float = 0.0
    start_seconds: float = 0.0
    ray_cluster: str = ""
    tokens_per_second: float
    policy_version: int
    paces: tuple[tuple[int, float], ...] = Field(
        default=(), description="(requests decoding, seconds per token of one of them), ascending; may be empty"
    )
    first_token_seconds: float | None = Field(
        default=None, description="predicted wait for the prompts that are there before a new one; None: unknown"
    )


class PoolState(WireModel):
    """A pool's sums. `shares` says what part of its ready replicas runs each point, in percent."""

    name: str
    points: tuple[PointName, ...]
    replicas: int
    ready: int
    running: int
    waiting: int
    tokens_per_second: float
    shares: dict[PointName, float]
    asleep: bool = Field(default=False, description="it has no replica that takes requests, and one wakes it")
    wanted: bool = Field(default=False, description="it is asleep, and a request has asked for it recently")


class TierState(WireModel):
    """A tier since this router's start: `answers` that its objective applies to (streams), and those that met it."""

    name: str
    answers: int
    met: int


class PredictionState(WireModel):
    """Times to the first token over the predicted ones, as quantiles that follow the latest `measured`; of prompts that
    take a quarter of their objective or more."""

    measured: int
    low: float = Field(description="exceeded by 95 %")
    median: float = Field(description="by which predictions are corrected before they are told")
    high: float = Field(description="exceeded by 5 %")


class RouterState(WireModel):
    """This router's own counters."""

    in_flight: int
    queued: int
    oldest_wait_seconds: float
    finished_total: int
    refused_total: int
    draining: bool
    predictions: PredictionState | None = None
    problems: dict[str, str] = Field(
        default={}, description="why a file cannot be used, by its field in the router's configuration"
    )


class PointChange(WireModel):
    """A replica decided for another operating point."""

    time: float
    replica_id: str
    pool: str
    from_point: PointName
    to_point: PointName
    reason: str
    detail: str


class Refusal(WireModel):
    """A request that was not served."""

    time: float
    tier: str
    status: int
    reason: str
    detail: str


class FleetView(WireModel):
    """The whole answer. `decisions` and `refusals` are rings, the latest last."""

    name: str
    model: str
    time: float
    policy_version: int
    default_tier: str
    tiers: tuple[TierPolicy, ...]
    switching: SwitchingPolicy
    drain_timeout_seconds: int = Field(default=300, description="how long running requests may finish in a drain")
    gpu_hour_cost: float = 0.0
    pools: tuple[PoolState, ...]
    replicas: tuple[ReplicaState, ...]
    router: RouterState
    objectives: tuple[TierState, ...] = ()
    decisions: tuple[PointChange, ...]
    refusals: tuple[Refusal, ...]


class FleetSample(WireModel):
    """One second of the fleet. `points`: ready replicas by the point they run."""

    time: float
    in_flight: int
    queued: int
    running: int
    waiting: int
    tokens_per_second: float
    points: dict[PointName, int]


class FleetHistory(WireModel):
    """The last minutes, a sample a second, the latest last."""

    samples: tuple[FleetSample, ...]
