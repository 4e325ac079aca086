"""The spec of a `NemotronDeployment`, and the parts of it that say how requests are treated.

What is served is in `serving`, the resource around it all in `resource`, rules over several fields are in `rules`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Self

from pydantic import Field

from trimode_api.modes import Mode
from trimode_api.serving import Diffusion, Engine, Model, Pool
from trimode_api.values import BlockLength, Bool, Count, Int, Name, Origin, Price, SecretName, SpecModel


class SwitchingMode(StrEnum):
    """Who picks the operating point."""

    PREDICTIVE = "Predictive"
    MANUAL = "Manual"


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


class LateRequests(StrEnum):
    """What becomes of a request whose first token is late for certain before it is sent to any replica."""

    SERVE = "Serve"
    REFUSE = "Refuse"


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
    late_requests: LateRequests = Field(
        default=LateRequests.SERVE,
        description="What becomes of a request whose first token is predicted to miss its tier's objective on every "
        "replica, nearly for certain: Serve sends it where those in time leave room and computes its prompt behind "
        "theirs, Refuse answers 429 at once. Neither happens in a dry run.",
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


class UpgradeStrategy(StrEnum):
    """What a change that running workers cannot take over does."""

    NEW_CLUSTER = "NewCluster"
    RECREATE = "Recreate"


class Upgrade(SpecModel):
    """How workers are replaced where running ones cannot take a change over: another model, image, resources."""

    strategy: UpgradeStrategy = Field(
        default=UpgradeStrategy.NEW_CLUSTER,
        description="NewCluster: a second Ray cluster takes over when it is ready; nothing is missed, and GPUs are "
        "needed twice for as long. Recreate: the workers finish their requests and end, then new ones start; nothing "
        "serves meanwhile, and GPUs are needed once. On a cluster only.",
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
        default=None, description="API keys; without, every client that reaches the routers may use them."
    )
    tls: RouterTls | None = Field(default=None, description="HTTPS on the public port; plain HTTP without.")
    cors_origins: tuple[Origin, ...] | None = Field(
        default=None,
        max_length=64,
        description="Origins such as https://chat.example whose pages may ask from a browser; '*' for any, none where "
        "left out.",
    )
    # Longer than Go's HTTP client, and so Traefik, keeps an idle connection (90 s): with less, as the 75 that it was,
    # the router may close one on which such a gateway is just sending a request.
    idle_seconds: Int = Field(
        default=120,
        ge=1,
        le=86400,
        description="How long an idle client connection is kept. Behind a gateway that keeps them longer (Google's: "
        "600 seconds, Envoy: 3600), set it above that.",
    )
    header_bytes: Int = Field(
        default=16384, ge=1024, le=1048576, description="Most bytes of a request's line and headers; then 431."
    )
    body_bytes: Int = Field(
        default=8388608, ge=1024, le=1073741824, description="Most bytes of a request's body, inflated; then 413."
    )

    def edge(self) -> dict[str, Any]:
        """What a RouterConfig has of it beside files."""
        return {
            "cors_origins": self.cors_origins or (),
            "idle_seconds": self.idle_seconds,
            "header_bytes": self.header_bytes,
            "body_bytes": self.body_bytes,
        }


class Spec(SpecModel):
    """What the user wants."""

    model: Model = Field(description="The weights and their served name.")
    engine: Engine = Field(default=Engine(), description="What decodes, and its limits.")
    pools: tuple[Pool, ...] = Field(
        min_length=1, max_length=16, description="Groups of replicas, each with the modes it may use."
    )
    replicas: Count | None = Field(
        default=None,
        description="How many replicas the only pool has, written by others through the scale subresource "
        "(HorizontalPodAutoscaler, KEDA, kubectl scale). trimode then does not size the pool, and pools[0].replicas "
        "has no effect. Left out: trimode sizes every pool itself.",
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
    upgrade: Upgrade = Field(default=Upgrade(), description="How workers are replaced.")
    router: Router = Field(default=Router(), description="The routers in front of the pools.")
    cost_per_gpu_hour: Price = Field(
        default="0",
        alias="costPerGPUHour",
        description="What an hour of one replica's GPU costs, as text, in any currency: told as a metric, from which "
        "dashboards make the cost by tenant and by million tokens. Changes nothing else, and restarts nothing.",
    )
    suspend: Bool = Field(default=False, description="Scale to nothing and keep the resource.")

    def sized(self) -> Self:
        """With `replicas`, where it is set, as both bounds of the only pool."""
        if self.replicas is None:
            return self
        (pool,) = self.pools
        bounds = pool.replicas.model_copy(update={"min": self.replicas, "max": self.replicas})
        return self.model_copy(update={"pools": (pool.model_copy(update={"replicas": bounds}),)})
