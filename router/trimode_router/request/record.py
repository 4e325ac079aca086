"""What is noted of a request on its way, and how attempts fail.

Belongs here: values only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


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
    """Of those, attempts that no replica has seen, so that they say nothing about the request."""
    resumptions: int = 0
    pause: float = 0.0
    """Longest time between a break and the first byte after it."""
    tokens: int | None = None
    mode: str = ""
    """What decoded it; '' where the answer does not say."""
    stream: bool = False
    refusal: str = ""
    failures: tuple[str, ...] = ()


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
