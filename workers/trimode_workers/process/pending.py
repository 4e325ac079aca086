"""Who waits for what: requests given to an engine and not yet ended. All of it is for one loop."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from trimode_workers.engine.messages import Finish, TokenEvent

OnEvent = Callable[[TokenEvent], None]

_log = logging.getLogger(__name__)


class EngineFailed(Exception):
    """The engine cannot start, or has ended; the message is one line for the user."""


class PendingRequests(ABC):
    """Base of the engines' clients.

    `emitted_total`: tokens seen. `lost`: why the engine is gone, empty while it lives. `on_change` is called when the
    operating point has changed and when the engine is lost.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.emitted_total = 0
        self.lost = ""
        self._on_change = on_change
        self._listeners: dict[str, OnEvent] = {}
        self._heard = time.monotonic()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def in_flight(self) -> int:
        """Requests submitted and not yet ended."""
        return len(self._listeners)

    @property
    def silent_s(self) -> float:
        """Seconds since the engine's last message, or since it last had nothing to do."""
        return time.monotonic() - self._heard if self._listeners else 0.0

    @abstractmethod
    def cancel(self, request_id: str) -> None:
        """Free the request's row. Its last event (`CANCELLED`) still arrives."""

    async def emptied(self) -> None:
        """Wait until no request is in flight."""
        await self._empty.wait()

    def _enter(self, request_id: str, on_event: OnEvent) -> None:
        """A new request. EngineFailed where the engine is lost."""
        if self.lost:
            raise EngineFailed(self.lost)
        # An engine without work says nothing: its silence counts from when it got some.
        if not self._listeners:
            self._heard = time.monotonic()
        self._listeners[request_id] = on_event
        self._empty.clear()

    def _deliver(self, event: TokenEvent) -> None:
        """Pass it to the request that waits for it; with `finish` it is the last one."""
        self.emitted_total += len(event.tokens)
        request_id = event.request_id
        listener = self._listeners.pop(request_id, None) if event.finish else self._listeners.get(request_id)
        if listener is not None:
            _tell(listener, event)
        self._note_empty()

    def _end(self, why: str) -> None:
        """The engine has ended: every request that waits for it gets the error, once."""
        if self.lost:
            return
        # Before anybody is told: a listener that asks again must not join those that wait for an engine that is gone.
        self.lost = why
        listeners, self._listeners = self._listeners, {}
        for request_id, listener in listeners.items():
            _tell(listener, TokenEvent(request_id, [], Finish.ERROR, error=why))
        self._note_empty()
        self._on_change()

    def _note_empty(self) -> None:
        if not self._listeners:
            self._empty.set()


def _tell(listener: OnEvent, event: TokenEvent) -> None:
    try:
        listener(event)
    except Exception:  # noqa: BLE001 - one request's bug must not end the other streams
        _log.exception("request %s failed while handling an event", event.request_id)
