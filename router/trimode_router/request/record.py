"""How far a request is, what is recorded of it, and how attempts fail: values only. [pure]"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from trimode_api.errors import ApiError
from trimode_policy.first_token import Forecast
from trimode_policy.values import value
from trimode_router.access.access import Tenant
from trimode_router.fleet.policy import Tier


class Phase(Enum):
    """How far an exchange is. Only `Exchange` changes it:

    - WAITING -> SENT when it is placed; back when the attempt fails.
    - SENT -> FLOWING with the first byte for the client.
    - FLOWING -> BROKEN when the attempt fails, and the rest can come from elsewhere.
    - BROKEN -> RESUMING when it is placed; back when that attempt fails.
    - RESUMING -> FLOWING with the first byte.
    - any -> OVER, once.
    """

    WAITING = 0
    """No replica has it, and the client has nothing of an answer."""
    SENT = 1
    """A replica has it. What comes is held, so that another one can be tried."""
    FLOWING = 2
    """The client has the head and some of the body: nothing of it can be taken back."""
    BROKEN = 3
    """The same, but no replica has it."""
    RESUMING = 4
    """A replica was asked for the rest, and has sent none of it yet."""
    OVER = 5

    @property
    def begun(self) -> bool:
        """Whether the client has part of an answer, and still lacks part of it."""
        return self in (Phase.FLOWING, Phase.BROKEN, Phase.RESUMING)

    @property
    def awaits_first_byte(self) -> bool:
        """Whether an attempt is under way that has brought nothing for the client."""
        return self in (Phase.SENT, Phase.RESUMING)


@value
class Caller:
    """Whose request it is; without `tenant` where no keys are asked for."""

    tier: Tier
    tenant: Tenant | None = None


@dataclass(slots=True)
class Record:
    """What happened, for metrics and the access log. Times in seconds of the router's clock."""

    started: float
    queued_at: float | None = None
    queue_wait: float = 0.0
    first_byte: float | None = None
    status: str = ""
    replica_id: str = ""
    attempts: int = 0
    unseen: int = 0
    """Those of `attempts` that no replica has seen, so that they say nothing about the request."""
    resumptions: int = 0
    pause: float = 0.0
    """Longest time between a break and the first byte after it."""
    tokens: int | None = None
    prompt_tokens: int = 0
    mode: str = ""
    """What decoded it; '' where the answer does not say."""
    busy: dict[str, float] = field(default_factory=dict)
    """Seconds of the engine that it has cost, by operating point; empty where the answer does not say."""
    stream: bool = False
    refusal: ApiError | None = None
    """Why this router ended it, where it did."""
    reason: str = ""
    """Why the replica refused it, in its own word; '' where it did not, or does not say."""
    failures: tuple[str, ...] = ()
    predicted: Forecast | None = None
    """Of the first token, when it was sent first, at `sent_at`; `predicted_s` is what was told."""
    predicted_s: float | None = None
    sent_at: float = 0.0


class Failure(Enum):
    """How an attempt failed: what that says of the replica, and of the request."""

    UNTOUCHED = 0
    """A reused connection closed without a byte: the replica may never have seen it."""
    AWAY = 1
    """Could not be reached, or takes no requests now."""
    REFUSED = 2
    """Answered that it will not."""
    BROKEN = 3
    """Broke off, answered garbage or hangs; the request itself may be why."""
    ERRED = 4
    """Answered with an error of its own, or that it has no such model; the request itself may be why."""


RETRIABLE = frozenset((429, 502, 503, 504))
"""Statuses of a replica that say nothing about the request: another replica may serve it."""


def failure_of(status: int) -> Failure | None:
    """How an attempt failed that was answered with this status; None where another replica would say the same.

    A dead engine behind a live HTTP server answers 500 at once: passed on, it would be the idlest server, and get
    most requests. The router has looked up paths and models, so 404 tells of the server, too.
    """
    if status in RETRIABLE:
        return Failure.REFUSED
    return Failure.ERRED if status >= 500 or status == 404 else None
