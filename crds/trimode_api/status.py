"""The status: what the operator says of a `NemotronDeployment`."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class StatusModel(BaseModel):
    """A part of the status: frozen, camelCase; unknown fields are ignored, since a newer writer may know more."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, validate_by_name=True, validate_by_alias=True
    )


class ConditionStatus(StrEnum):
    """Kubernetes' three answers."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(StatusModel):
    """One thing that is so, is not, or is not known; with the reason."""

    type: str = Field(max_length=64, description="What it is about, such as Ready or Serving.")
    status: ConditionStatus = Field(description="True, False or Unknown.")
    reason: str = Field(max_length=128, description="The reason in one CamelCase word.")
    message: str = Field(default="", max_length=4096, description="The reason for people.")
    observed_generation: int = Field(default=0, ge=0, description="Generation of the spec it speaks of.")
    last_transition_time: str = Field(description="When the status last changed, RFC 3339.")


class PointShare(StatusModel):
    """How much of a pool's recent work one operating point did."""

    point: str = Field(max_length=16, description="Operating point, such as AR, S8 or D32@0.9.")
    share_percent: int = Field(ge=0, le=100, description="Share of recent cycles, in percent.")


class PoolStatus(StatusModel):
    """What a pool is now."""

    name: str = Field(max_length=63, description="Name of the pool.")
    replicas: int = Field(default=0, ge=0, description="Replicas that exist.")
    ready: int = Field(default=0, ge=0, description="Replicas that take requests.")
    points: tuple[PointShare, ...] = Field(default=(), description="Operating points in use.")


class TierStatus(StatusModel):
    """How a tier's objective is met."""

    name: str = Field(max_length=63, description="Name of the tier.")
    attainment_percent: int = Field(ge=0, le=100, description="Requests that met the objective, in percent.")


class DecisionStatus(StatusModel):
    """The point in force, and why."""

    point: str = Field(max_length=16, description="Operating point.")
    reason: str = Field(max_length=128, description="Why, in one CamelCase word.")
    since: str = Field(description="Since when, RFC 3339.")


class PoolShare(StatusModel):
    """A pool's part of the replicas that pools share."""

    name: str = Field(max_length=63, description="Name of the pool.")
    replicas: int = Field(ge=0, description="Replicas that it is to have now.")


class MovePhase(StrEnum):
    """How far a move is: the replica finishes its requests and goes, what it used comes free, another one starts."""

    LEAVING = "Leaving"
    RELEASING = "Releasing"
    JOINING = "Joining"
    DONE = "Done"


class MoveStatus(StatusModel):
    """The last move of a replica between pools."""

    source: str = Field(max_length=63, description="Pool that gave a replica.")
    target: str = Field(max_length=63, description="Pool that got it.")
    phase: MovePhase = Field(description="How far it is.")
    begun: str = Field(description="When it began, RFC 3339.")
    since: str = Field(description="Since when it has been in this phase, RFC 3339.")
    message: str = Field(default="", max_length=1024, description="Why, with figures.")


class RebalancingStatus(StatusModel):
    """How the replicas that pools share are split, and why they stay or move."""

    reason: str = Field(max_length=128, description="Why one moves or none does, in one CamelCase word.")
    message: str = Field(default="", max_length=1024, description="The reason for people, as of `since`.")
    since: str = Field(description="Since when the reason holds, RFC 3339.")
    pools: tuple[PoolShare, ...] = Field(default=(), description="The split.")
    move: MoveStatus | None = Field(default=None, description="The last move.")


class Status(StatusModel):
    """What the operator observed."""

    observed_generation: int = Field(default=0, ge=0, description="Generation of the spec that was last acted on.")
    url: str | None = Field(default=None, description="Where clients send requests.")
    conditions: tuple[Condition, ...] = Field(default=(), description="Each with a reason and a message.")
    replica_summary: str | None = Field(
        default=None,
        max_length=32,
        description="Replicas that take requests, of those that there should be now, over all pools, such as 3/4.",
    )
    replicas: int = Field(default=0, ge=0, description="Replicas that exist and stay, over all pools.")
    selector: str | None = Field(
        default=None, max_length=1024, description="Label selector of the workers' pods, for autoscalers."
    )
    pools: tuple[PoolStatus, ...] = Field(default=(), description="What each pool is now.")
    tiers: tuple[TierStatus, ...] = Field(default=(), description="How each tier's objective is met.")
    decision: DecisionStatus | None = Field(default=None, description="The point in force, and why.")
    rebalancing: RebalancingStatus | None = Field(
        default=None, description="How the replicas that pools share are split, and why."
    )
    mode_history: tuple[DecisionStatus, ...] = Field(default=(), description="The last ten decisions, newest first.")


def format_time(seconds: float) -> str:
    """Unix seconds as the status writes times: RFC 3339, to the millisecond where there is more than a second."""
    moment = datetime.fromtimestamp(round(seconds, 3), UTC)
    return moment.isoformat(timespec="milliseconds" if moment.microsecond else "seconds").replace("+00:00", "Z")


def parse_time(text: str) -> float:
    """Unix seconds of a time in the status; 0 for what is no time."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0
