"""HTTP to one SGLang server.

Belongs here: its endpoints, a method each. What follows from an answer is for others to say.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from trimode_workers.engine.messages import Submit
from trimode_workers.sglang.metrics import Figures, parse
from trimode_workers.sglang.stream import BadChunk, body_of

HEALTH_TIMEOUT_S = 10.0
FIGURES_TIMEOUT_S = 5.0
PROBE_TIMEOUT_S = 60.0
_AWAY = (aiohttp.ClientError, TimeoutError, OSError)


class Door:
    """For the loop it was made in. `close` when done."""

    def __init__(self, url: str) -> None:
        self._session = aiohttp.ClientSession(
            url,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
            read_bufsize=1 << 20,
        )

    async def close(self) -> None:
        await self._session.close()

    async def healthy(self) -> bool:
        """Whether it says that it has started."""
        return await self._says_yes("/health", HEALTH_TIMEOUT_S)

    async def generates(self) -> bool:
        """Whether it generates a token when asked to."""
        return await self._says_yes("/health_generate", PROBE_TIMEOUT_S)

    async def figures(self) -> Figures | None:
        """Its metrics, None where it does not answer."""
        try:
            timeout = aiohttp.ClientTimeout(total=FIGURES_TIMEOUT_S)
            async with self._session.get("/metrics", timeout=timeout) as response:
                return parse(await response.text())
        except (*_AWAY, ValueError):
            return None

    async def chunks(self, request: Submit) -> AsyncIterator[dict[str, Any]]:
        """The stream's chunks. Leaving it early aborts the request: the server notices the closed connection.

        Raises BadChunk where it refuses, ValueError for what is no JSON, aiohttp.ClientError where it breaks off.
        """
        async with self._session.post("/generate", json=body_of(request)) as response:
            if response.status != 200:
                words = (await response.text())[:500]
                raise BadChunk(f"the SGLang server answered {response.status}: {words}")
            async for line in response.content:
                if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
                    yield json.loads(line[6:])

    async def _says_yes(self, path: str, timeout_s: float) -> bool:
        try:
            async with self._session.get(path, timeout=aiohttp.ClientTimeout(total=timeout_s)) as response:
                return response.status == 200
        except _AWAY:
            return False
