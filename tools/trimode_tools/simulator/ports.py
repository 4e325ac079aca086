"""The parts of a simulated fleet: its members, and the interfaces of what decides about them.

The event loop is in `fleet`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

from trimode_api.modes import OperatingPoint
from trimode_policy.capacity import max_concurrency_within
from trimode_policy.fair_queue import Ticket
from trimode_tools.simulator.engine import Engine
from trimode_tools.simulator.point_policies import PointPolicy
from trimode_tools.simulator.rows import Request
from trimode_tools.simulator.workload import Goal

if TYPE_CHECKING:
    from trimode_tools.simulator.fleet import Fleet


PACE_S = 1.0
"""Seconds between two estimates of how many requests a replica can run within the objectives."""
CONTEXT = 1000.0
"""Cached tokens per request assumed while none decodes."""


class Phase(IntEnum):
    """What a replica may do. Only `READY` gets requests; `DRAINING` finishes what it holds."""

    READY = 0
    DRAINING = 1
    LOADING = 2
    DEAD = 3


@dataclass(slots=True)
class Member:
    """A replica and its last report.

    `then`: what it becomes once drained. `paced_in`: its engine's state when its `rows` were last worked out: an engine
    that has been idle since has the same. `news`: reports so far that said something new.
    """

    index: int
    engine: Engine
    pool: str
    points: tuple[OperatingPoint, ...]
    phase: Phase = Phase.READY
    reported_at: float = 0.0
    running: int = 0
    waiting: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    paced_at: float = float("-inf")
    paced_in: tuple[int, int] = (-1, -1)
    queued_tokens: int = 0
    version: int = -1
    news: int = 0
    then: PoolSpec | None = None

    def report(self, now: float, goals: Sequence[Goal]) -> None:
        """Tell the router what it sees."""
        engine = self.engine
        if now - self.paced_at >= PACE_S:
            self.paced_at = now
            if self.paced_in != (engine.version, engine.running):
                self.paced_in = (engine.version, engine.running)
                context = engine.context / engine.running if engine.running else CONTEXT
                known = engine.point_policy.paces(context, engine.limits.rows)
                if known:
                    price, most = engine.prompts.per_token, engine.limits.rows
                    self.rows = {g.name: max_concurrency_within(known, price, g.tpot_s, most) for g in goals}
        waiting = engine.in_flight - engine.running
        self.reported_at = now
        if (engine.version, engine.running, waiting) != (self.version, self.running, self.waiting):
            self.news += 1
            self.version, self.running, self.waiting = engine.version, engine.running, waiting
            self.queued_tokens = engine.queued_tokens


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """What a replica is from its start, or from a conversion on: its pool, the points it may run, who chooses."""

    pool: str
    points: tuple[OperatingPoint, ...]
    point_policy: Callable[[], PointPolicy]

    def __deepcopy__(self, memo: object) -> PoolSpec:
        return self


@dataclass(frozen=True, slots=True)
class Placement:
    """A member's index, or None: to be queued, or refused."""

    index: int | None = None
    refused: bool = False


class Dispatcher(Protocol):
    """The router's decisions."""

    def admit(self, request: Request, fleet: Fleet) -> Placement:
        """A new request."""
        ...

    def again(self, request: Request, fleet: Fleet) -> int | None:
        """The member for a request that waits in the router or was on a replica that died; None: it waits on."""
        ...

    def starved(self, fleet: Fleet) -> Ticket[Request] | None:
        """One that waits and goes before all others now, if any."""
        ...

    def first_token(self, request: Request, now: float) -> None:
        """Its client has the first token."""
        ...


class OnlyReplica:
    """The dispatcher of a fleet of one: everything to it, at once."""

    def admit(self, request: Request, fleet: Fleet) -> Placement:
        return Placement(0)

    def again(self, request: Request, fleet: Fleet) -> int | None:
        return 0

    def starved(self, fleet: Fleet) -> Ticket[Request] | None:
        return None

    def first_token(self, request: Request, now: float) -> None:
        """Nothing was predicted."""


class Controller(Protocol):
    """The slow loop."""

    def tick(self, fleet: Fleet, now: float) -> None:
        """Look at the fleet, and convert replicas by `fleet.convert`."""
        ...


@dataclass(frozen=True, slots=True)
class Outage:
    """Replica `index` dies at `since` and is ready again at `until` (seconds)."""

    index: int
    since: float
    until: float
