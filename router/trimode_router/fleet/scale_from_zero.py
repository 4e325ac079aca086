"""Pools that may have no replica at all, and the requests that wake them. [pure]

Belongs here: who sleeps, and which of them a request calls. Starting a replica is Ray Serve's: its autoscaling policy
reads from `/fleet` which pools are wanted.
"""

from __future__ import annotations

from collections.abc import Iterable

from trimode_policy.route import RequestView, may_serve
from trimode_router.fleet.fleet import Fleet

WAKE_AFTER_S = 1.0
"""A request that others could serve, had they room, calls a sleeping pool after this wait, in seconds."""
WANTED_S = 30.0
"""A call holds for this long, whether its request still waits or not: it is heard within a second or two."""
LOOK_S = 1.0
LOOKED_AT = 64
"""Waiting requests that are looked at: the first ones call for all."""


class Activator:
    """`now` in seconds of the router's clock."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._called: dict[str, float] = {}
        self._looked_at = float("-inf")

    def asleep(self, now: float) -> tuple[str, ...]:
        """Pools that may sleep and have no replica that takes requests, in the policy's order."""
        sleepers = self._fleet.rules.sleepers
        if not sleepers:
            return ()
        awake = {view.pool for view in self._fleet.views(now) if self._fleet.usable(view)}
        return tuple(name for name in sleepers if name not in awake)

    def call(self, wish: RequestView, now: float) -> str | None:
        """Wake the first pool that may serve this; its name, None where there is none to wake."""
        for name in self.asleep(now):
            if may_serve(wish, self._fleet.rules.pools[name]):
                self._called[name] = now
                return name
        return None

    def awaited(self, wish: RequestView, now: float) -> str | None:
        """The pool that must wake for this, None where somebody who is awake may serve it, or nobody at all."""
        views = self._fleet.views(now)
        if any(self._fleet.usable(view) and may_serve(wish, view.points) for view in views):
            return None
        return self.call(wish, now)

    def look(self, waiting: Iterable[tuple[RequestView, float]], now: float) -> None:
        """Let those who wait (each with since when) call, once a second."""
        if now - self._looked_at < LOOK_S or not self._fleet.rules.sleepers:
            return
        self._looked_at = now
        for number, (wish, since) in enumerate(waiting):
            if number >= LOOKED_AT:
                break
            if now - since >= WAKE_AFTER_S:
                self.call(wish, now)

    def wanted(self, pool: str, now: float) -> bool:
        """Whether a request has called it of late."""
        return now - self._called.get(pool, float("-inf")) <= WANTED_S and pool in self.asleep(now)
