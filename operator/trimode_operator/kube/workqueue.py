"""Which resource is visited when: one visit at a time per resource, bounded overall, failures backed off.

It knows keys, not what a visit does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from trimode_operator.kube.cache import Key

Visit = Callable[[Key], Awaitable[float | None]]
"""Visits a resource; seconds until it wants to be visited again, None for never (unless something happens)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`workers` visits at once, `visit_s` seconds each at most. A failing resource waits `first_wait_s`, `growth` times
    as long with each failure in a row, up to `longest_wait_s`; what happens to it meanwhile is seen after
    `first_wait_s`."""

    workers: int = 8
    visit_s: float = 60.0
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    growth: float = 2.0


class WorkQueue:
    """`failed` is told of each visit that raised. `active` says whether visits may be made at all (leadership)."""

    def __init__(
        self,
        reconcile: Visit,
        failed: Callable[[Key, BaseException], None],
        active: Callable[[], bool],
        limits: Limits | None = None,
    ) -> None:
        self._visit = reconcile
        self._failed = failed
        self._active = active
        self._limits = limits or Limits()
        self._ready: asyncio.Queue[Key] = asyncio.Queue()
        self._dirty: set[Key] = set()
        self._busy: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._held: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}

    @property
    def depth(self) -> int:
        return len(self._dirty)

    def oldest_visit_s(self) -> float:
        """How long the longest of the running visits has run."""
        now = asyncio.get_running_loop().time()
        return max((now - begun for begun in self._busy.values()), default=0.0)

    def add(self, key: Key) -> None:
        """Visit soon: at once, or when the visit under way has ended, or when a failure's first wait is over."""
        if not self._active() or key in self._dirty or key in self._held:
            return
        # A failure is written into the status, which is an event of the same resource: answered at once, it would never
        # back off.
        if key in self._failures and key not in self._busy:
            self._held.add(key)
            self._later(key, self._limits.first_wait_s)
        else:
            self._push(key)

    def clear(self) -> None:
        """Forget all that waits; visits under way go on."""
        for key in list(self._timers):
            self._cancel(key)
        while not self._ready.empty():
            self._ready.get_nowait()
        self._dirty.clear()
        self._held.clear()
        self._failures.clear()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._limits.workers):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            key = await self._ready.get()
            self._dirty.discard(key)
            self._busy[key] = asyncio.get_running_loop().time()
            try:
                if self._active():
                    # A visit that hangs would keep its resource from ever being visited again.
                    async with asyncio.timeout(self._limits.visit_s):
                        again = await self._visit(key)
                    self._failures.pop(key, None)
                    if again is not None:
                        self._later(key, again)
            except Exception as error:  # noqa: BLE001 - whatever one resource does must not stop the others
                count = self._failures[key] = self._failures.get(key, 0) + 1
                self._failed(key, error)
                wait = self._limits.first_wait_s * self._limits.growth ** min(count - 1, 16)
                self._later(key, min(wait, self._limits.longest_wait_s))
            finally:
                del self._busy[key]
                if key in self._dirty:
                    self._cancel(key)
                    self._ready.put_nowait(key)

    def _push(self, key: Key) -> None:
        self._cancel(key)
        self._dirty.add(key)
        if key not in self._busy:  # else the worker puts it back when it is done
            self._ready.put_nowait(key)

    def _later(self, key: Key, seconds: float) -> None:
        def due() -> None:
            self._timers.pop(key, None)
            self._held.discard(key)
            if key not in self._dirty and self._active():
                self._push(key)

        self._cancel(key)
        self._timers[key] = asyncio.get_running_loop().call_later(seconds, due)

    def _cancel(self, key: Key) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
