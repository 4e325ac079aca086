"""What a replica asks of its engine, whichever it is.

`EngineClient` (the native engine's process) and `SGLangClient` keep its promises.
"""

from __future__ import annotations

from typing import Protocol

from trimode_workers.engine.messages import Configure, Started, Stats, Submit
from trimode_workers.process.pending import OnEvent


class EngineHandle(Protocol):
    """One engine. `started` and `stats` are None until it is warm, `lost` says why it is gone, empty while it lives."""

    emitted_total: int
    lost: str

    @property
    def started(self) -> Started | None: ...

    @property
    def stats(self) -> Stats | None: ...

    @property
    def in_flight(self) -> int:
        """Requests submitted and not yet ended."""
        ...

    @property
    def silent_s(self) -> float:
        """Seconds since the engine's last message, or since it last had nothing to do."""
        ...

    def submit(self, request: Submit, on_event: OnEvent) -> None:
        """Queue a request. `on_event` is called for each of its events; the last one has `finish`."""
        ...

    def cancel(self, request_id: str) -> None:
        """End the request soon; its last event still arrives."""
        ...

    async def emptied(self) -> None:
        """Wait until no request is in flight."""
        ...

    def configure(self, configure: Configure) -> None:
        """In force from the engine's next cycle on, as far as a running engine can take it over."""
        ...

    async def close(self, grace_s: float = 5.0) -> None:
        """End the engine; kills it after `grace_s` seconds. Safe to call twice."""
        ...
