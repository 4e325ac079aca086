"""Pools that may have no replica at all, and the requests that have one started. [pure]

Starting a replica is Ray Serve's: its autoscaling policy reads from `/fleet` which pools are wanted.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from trimode_policy.route import RequestView, may_serve
from trimode_router.fleet.fleet import Fleet

ACTIVATE_AFTER_S = 1.0
"""A request that replicas of other pools could serve, had they a free slot, activates a pool after this wait, in
seconds."""
WANTED_S = 30.0
"""A pool stays wanted for this long, whether the request still waits or not; Ray Serve
hears of it within a second or two."""
CHECK_S = 1.0
CHECKED_REQUESTS = 64
"""Waiting requests that are checked: the first ones activate for all."""


class Activator:
    """`now` in seconds of the router's clock."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._activated: dict[str, float] = {}
        self._checked_at = float("-inf")

    def scaled_to_zero(self, now: float) -> tuple[str, ...]:
        """Pools that may sleep and have no replica that takes requests, in the policy's order."""
        may_sleep = self._fleet.rules.may_sleep
        if not may_sleep:
            return ()
        awake = {view.pool for view in self._fleet.views(now) if self._fleet.usable(view)}
        return tuple(name for name in may_sleep if name not in awake)

    def activate(self, request: RequestView, now: float) -> str | None:
        """Want the first pool that may serve this; its name, None where none is scaled to zero."""
        for name in self.scaled_to_zero(now):
            if may_serve(request, self._fleet.rules.pools[name]):
                self._activated[name] = now
                return name
        return None

    def starting_for(self, request: RequestView, now: float) -> str | None:
        """The pool that must be started for this; None where a usable replica may serve it, or no pool at all."""
        views = self._fleet.views(now)
        if any(self._fleet.usable(view) and may_serve(request, view.points) for view in views):
            return None
        return self.activate(request, now)

    def activate_for_waiting(self, waiting: Iterable[tuple[RequestView, float]], now: float) -> None:
        """Activate for requests that have waited too long (each with since when), once a second."""
        if now - self._checked_at < CHECK_S or not self._fleet.rules.may_sleep:
            return
        self._checked_at = now
        for request, since in islice(waiting, CHECKED_REQUESTS):
            if now - since >= ACTIVATE_AFTER_S:
                self.activate(request, now)

    def wanted(self, pool: str, now: float) -> bool:
        """Whether a request has activated it within the last `WANTED_S`."""
        return now - self._activated.get(pool, float("-inf")) <= WANTED_S and pool in self.scaled_to_zero(now)
