"""What a replica and a pool of replicas are started with.

Belongs here: frozen settings, checked once at the edge. The fleet's token is not among them: it travels in the
environment (`trimode_api.wire.TOKEN_VARIABLE`), so that no settings dump can show it.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trimode_api.serving import ToolFormat
from trimode_api.wire import PolicyConfig
from trimode_workers.replica.policy import stand_in
from trimode_workers.sglang.options import SGLangOptions


class Settings(BaseModel):
    """Frozen; unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class EngineOptions(Settings):
    """What the engine's process is started with.

    `model` is a folder with config.json, safetensors and tokenizer; on a cluster its URI, until the replica knows the
    folder. `draft_adapter` is a folder in it. `tool_format` None is found in the chat template. `threads` 0 leaves the
    number to torch. With `sglang` the engine is an SGLang server.
    """

    model: str = Field(min_length=1)
    draft_adapter: str | None = Field(default=None, min_length=1)
    tool_format: ToolFormat | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    max_context_tokens: int = Field(default=4096, ge=16)
    max_running_requests: int = Field(default=64, ge=1)
    threads: int = Field(default=0, ge=0)
    sglang: SGLangOptions | None = None


NODE_ADDRESS = ""
"""As a host: the address of the Ray node that the replica is on."""


class ReplicaSettings(Settings):
    """One replica. `port` 0 is any free one. Times in seconds.

    With a policy of version 0 (see `stand_in`) the replica is not ready until a router has given it a real one.
    Every address behind the host of a router's URL gets the reports. A running request must hear from the engine
    within `stall_after_s`, or the replica calls itself unhealthy.
    """

    pool: str = Field(min_length=1)
    served_name: str = Field(min_length=1)
    engine: EngineOptions
    policy: PolicyConfig
    router_urls: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)
    report_interval_s: float = Field(default=0.2, gt=0)
    stall_after_s: float = Field(default=60.0, gt=0)

    @model_validator(mode="after")
    def _pool_has_a_policy(self) -> Self:
        names = [pool.name for pool in self.policy.pools]
        if self.pool not in names:
            raise ValueError(f"pool: {self.pool!r} is not in the policy, which has {names}")
        return self


class PoolArgs(Settings):
    """What a cluster starts a pool's replicas with: `args` of its application in Serve's configuration.

    Only what a running replica cannot take over, since Serve replaces all of them when it changes.
    """

    pool: str = Field(min_length=1)
    served_name: str = Field(min_length=1)
    engine: EngineOptions
    router_urls: tuple[str, ...] = Field(min_length=1)

    def replica(self) -> ReplicaSettings:
        """Settings of each replica: reachable from other nodes, with a policy that only holds the place."""
        return ReplicaSettings(
            pool=self.pool,
            served_name=self.served_name,
            engine=self.engine,
            # Serve replaces every replica where its arguments change, so the real policy comes from the routers.
            policy=stand_in(self.pool),
            router_urls=self.router_urls,
            host=NODE_ADDRESS,
        )


class PoolSettings(ReplicaSettings):
    """A pool: equal replicas and how many, with the resources of each (cores, GPUs).

    With `min_replicas` 0 the last one goes after `idle_s` seconds without a request, and a waiting one starts it again.
    """

    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=1, ge=1)
    idle_s: float = Field(default=300.0, gt=0)
    num_cpus: float = Field(default=1.0, ge=0)
    num_gpus: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas: {self.min_replicas} is above max_replicas {self.max_replicas}")
        return self

    def replica(self) -> ReplicaSettings:
        """The part that each replica needs."""
        own = {name: getattr(self, name) for name in ReplicaSettings.model_fields}
        return ReplicaSettings(**own)
