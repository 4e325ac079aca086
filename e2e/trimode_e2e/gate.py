"""A gate between one client and the API server: counts its writes, and does something at the n-th.

Belongs here: a small reverse proxy that speaks plain HTTP to the client, and to the server as the client's user.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from trimode_e2e.control.plane import free_ports

WRITES = ("POST", "PUT", "PATCH", "DELETE")
_HOP = {"host", "connection", "transfer-encoding", "content-length", "content-encoding", "accept-encoding"}


@dataclass(frozen=True, slots=True)
class Write:
    """One request that changes something, and what the server answered."""

    method: str
    path: str
    status: int


@dataclass(slots=True)
class Gate:
    """Runs from `start` to `stop`. Leases and Events are let through uncounted: they change nothing of a resource."""

    server: str
    authority: Path
    certificate: Path
    key: Path
    writes: list[Write] = field(default_factory=list)
    port: int = 0
    _at: int | None = None
    _act: Callable[[], None] | None = None
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        (self.port,) = free_ports(1)
        listening = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(listening,), daemon=True)
        self._thread.start()
        assert listening.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        assert self._thread is not None
        self._thread.join(10)

    def kubeconfig(self, file: Path) -> Path:
        """For the client: no credentials, they are the gate's."""
        server = f"http://127.0.0.1:{self.port}"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "gate",
            "contexts": [{"name": "gate", "context": {"cluster": "gate", "user": "gate"}}],
            "clusters": [{"name": "gate", "cluster": {"server": server}}],
            "users": [{"name": "gate", "user": {"username": "nobody", "password": "needed"}}],
        }
        file.write_text(json.dumps(content))
        return file

    def at_write(self, number: int, act: Callable[[], None]) -> None:
        """From now on count anew, and call `act` after the server has done the n-th write, before the client hears."""
        self.writes.clear()
        self._at, self._act = number, act

    def count(self) -> None:
        """From now on count anew, and only count."""
        self.writes.clear()
        self._at = self._act = None

    def _run(self, listening: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        context = ssl.create_default_context(cafile=str(self.authority))
        context.load_cert_chain(self.certificate, self.key)

        async def serve() -> tuple[aiohttp.ClientSession, web.AppRunner]:
            timeout = aiohttp.ClientTimeout(total=None)
            session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context, limit=0), timeout=timeout, auto_decompress=False
            )

            async def handle(request: web.Request) -> web.StreamResponse:
                return await self._pass(request, session)

            app = web.Application(client_max_size=16 << 20)
            app.router.add_route("*", "/{path:.*}", handle)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", self.port).start()
            return session, runner

        session, runner = self._loop.run_until_complete(serve())
        listening.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.run_until_complete(session.close())
        left = asyncio.all_tasks(self._loop)
        for task in left:  # watches of a client that was killed
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.close()

    async def _pass(self, request: web.Request, session: aiohttp.ClientSession) -> web.StreamResponse:
        try:
            return await self._forward(request, session)
        except (ConnectionError, aiohttp.ClientError) as exc:  # either side has gone
            return web.Response(status=502, text=str(exc))

    async def _forward(self, request: web.Request, session: aiohttp.ClientSession) -> web.StreamResponse:
        kept = _end_to_end(request.headers)
        kept.popall("authorization", None)
        kept["Accept-Encoding"] = "identity"
        url = self.server + request.path_qs
        async with session.request(request.method, url, headers=kept, data=await request.read() or None) as answer:
            await self._note(request, answer.status)
            reply = web.StreamResponse(status=answer.status, headers=_end_to_end(answer.headers))
            await reply.prepare(request)
            async for piece in answer.content.iter_any():
                await reply.write(piece)
            await reply.write_eof()
            return reply

    async def _note(self, request: web.Request, status: int) -> None:
        parts = request.path.split("/")
        if request.method not in WRITES or "leases" in parts or "events" in parts or "authorization.k8s.io" in parts:
            return
        self.writes.append(Write(request.method, request.path, status))
        if self._at is not None and len(self.writes) == self._at and self._act is not None:
            act: Any = self._act
            self._at = self._act = None
            await asyncio.to_thread(act)


def _end_to_end(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """All headers, also repeated ones, but for those that are between neighbours."""
    return CIMultiDict((key, value) for key, value in headers.items() if key.lower() not in _HOP)
