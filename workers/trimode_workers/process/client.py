"""The shell's side of the engine's process: start it, talk to it, notice its death. No HTTP, no text."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, cast

from trimode_workers.engine.messages import (
    Cancel,
    Command,
    Configure,
    Failed,
    Started,
    Stats,
    Stop,
    Submit,
)
from trimode_workers.process.framing import encode, reply_framer
from trimode_workers.process.pending import EngineFailed, OnEvent, PendingRequests


class Process(Protocol):
    """What is asked of the engine's process; `subprocess.Popen` is one."""

    pid: int

    def wait(self, timeout: float | None = None) -> int: ...

    def kill(self) -> None: ...


class EngineClient(PendingRequests, asyncio.Protocol):
    """One engine process. All methods are for the loop it was started in.

    `started` holds the engine's limits, `stats` its latest state (both None until it is warm).
    """

    def __init__(self, process: Process, on_change: Callable[[], None]) -> None:
        super().__init__(on_change)
        self.process = process
        self.started: Started | None = None
        self.stats: Stats | None = None
        self._framer = reply_framer()
        self._transport: asyncio.Transport | None = None
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = loop.create_future()
        self._gone: asyncio.Future[None] = loop.create_future()

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        on_change: Callable[[], None] = lambda: None,
    ) -> EngineClient:
        """Start `argv --fd N` and wait until the engine is warm. EngineFailed says why it is not."""
        ours, theirs = socket.socketpair()
        with theirs:
            # A process, not a thread: a cycle of a few milliseconds and 64 event streams would wait for one interpreter
            # lock.
            process = subprocess.Popen(  # noqa: ASYNC220 - fork and exec take a millisecond; nothing is waited for
                [*argv, "--fd", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=None if env is None else dict(env),
            )
        return await cls.connect(ours, process, on_change)

    @classmethod
    async def connect(cls, sock: socket.socket, process: Process, on_change: Callable[[], None]) -> EngineClient:
        """Talk to an engine that is being started, and wait until it is warm."""
        sock.setblocking(False)
        client = cls(process, on_change)
        await asyncio.get_running_loop().create_connection(lambda: client, sock=sock)
        try:
            await asyncio.shield(client._ready)
        except BaseException:
            await client.close()
            raise
        return client

    def submit(self, request: Submit, on_event: OnEvent) -> None:
        """Queue a request. `on_event` is called for each of its events; the last one has `finish`."""
        self._enter(request.request_id, on_event)
        self._send(request)

    def cancel(self, request_id: str) -> None:
        """Free the request's row. The engine's last event (`CANCELLED`) still arrives."""
        if request_id in self._listeners:
            self._send(Cancel(request_id))

    def configure(self, configure: Configure) -> None:
        """In force from the engine's next cycle on."""
        self._send(configure)

    async def close(self, grace_s: float = 5.0) -> None:
        """End the process; kills it after `grace_s` seconds. Safe to call twice."""
        self._ready.cancel()
        self._send(Stop())
        self._end("the replica is shutting down")
        try:
            await asyncio.wait_for(asyncio.shield(self._gone), grace_s)
        except TimeoutError:
            self.process.kill()
        if self._transport is not None:
            self._transport.abort()
        await asyncio.to_thread(self.process.wait)

    def _send(self, command: Command) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode(command))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        self._heard = time.monotonic()
        for reply in self._framer.feed(data):
            if isinstance(reply, Started):
                self.started = reply
            elif isinstance(reply, Failed):
                self._end(reply.error)
            else:
                for event in reply.events:
                    self._deliver(event)
                if reply.stats is None:
                    continue
                moved = self.stats is None or self.stats.point != reply.stats.point
                self.stats = reply.stats
                if not self._ready.done():
                    # The engine's first message after `Started`: from now on both are set.
                    self._ready.set_result(None)
                if moved:
                    self._on_change()

    def connection_lost(self, exc: Exception | None) -> None:
        how = ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            # The socket closes a moment before the exit code is there.
            code = self.process.wait(timeout=0.2)
            how = f" by signal {-code}" if code < 0 else f" with exit code {code}"
        self._end(f"the engine process ended{how}")
        if not self._gone.done():
            self._gone.set_result(None)

    def _end(self, why: str) -> None:
        if not self.lost and not self._ready.done():
            self._ready.set_exception(EngineFailed(why))
        super()._end(why)
