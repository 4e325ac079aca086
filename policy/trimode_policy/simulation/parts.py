"""The parts of a simulated fleet: members, what may become of them, and the ports of those who decide.

Belongs here: vocabulary. The event loop is in `fleet`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

from trimode_api.modes import OperatingPoint
from trimode_policy.rooms import rows_within
from trimode_policy.simulation.engine import Engine
from trimode_policy.simulation.pilots import Pilot
from trimode_policy.simulation.rows import Request
from trimode_policy.simulation.workload import Goal

if TYPE_CHECKING:
    from trimode_policy.simulation.fleet import Fleet


PACE_S = 1.0
"""Seconds between two looks at how many requests a replica can run in time."""
CONTEXT = 1000.0
"""Cached tokens per request assumed while nobody decodes."""


class Phase(IntEnum):
    """What a replica may do. Only `READY` gets requests; `DRAINING` finishes what it holds."""

    READY = 0
    DRAINING = 1
    LOADING = 2
    DEAD = 3


@dataclass(slots=True)
class Member:
    """A replica and its last report. `then`: what it becomes once drained."""

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
    queued_tokens: int = 0
    then: Conversion | None = None

    def report(self, now: float, goals: Sequence[Goal]) -> None:
        """Tell the router what it sees."""
        engine = self.engine
        if now - self.paced_at >= PACE_S:
            self.paced_at = now
            context = engine.context / engine.running if engine.running else CONTEXT
            known = engine.pilot.paces(context, engine.limits.rows)
            price = engine.prompts.per_token
            if known:
                self.rows = {g.name: rows_within(known, price, g.tpot_s, engine.limits.rows) for g in goals}
        self.reported_at, self.running = now, engine.running
        self.waiting, self.queued_tokens = engine.in_flight - engine.running, engine.queued_tokens


@dataclass(frozen=True, slots=True)
class Conversion:
    """A replica's next life: another pool, its points and who pilots them."""

    pool: str
    points: tuple[OperatingPoint, ...]
    pilot: Callable[[], Pilot]

    def __deepcopy__(self, memo: object) -> Conversion:
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
