"""Kept connections to one replica."""

from __future__ import annotations

import asyncio

from trimode_router.http.upstream import Link


class LinkPool:
    """Idle connections, the latest used first."""

    def __init__(self, url: str, host: str, port: int, base: str = "") -> None:
        """`base`: what stands before the paths of its API."""
        self.url = url
        self.host = host
        self.port = port
        self.base = base
        self.authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._idle: list[Link] = []
        self._spare = 0
        """The fewest that were idle at any time since the last `trim`: so many were not needed."""
        self._closed = False

    def take(self) -> Link | None:
        # The latest used is the least likely to have been closed by the replica for being idle.
        while self._idle:
            link = self._idle.pop()
            self._spare = min(self._spare, len(self._idle))
            if not link.transport.is_closing():
                return link
        return None

    def keep(self, link: Link) -> None:
        if self._closed:
            link.transport.close()
        else:
            self._idle.append(link)

    def forget(self, link: Link) -> None:
        if link in self._idle:
            self._idle.remove(link)

    def trim(self) -> None:
        """Close half of those that were not needed since the last time, the longest idle first."""
        # After a peak they would stay open for as long as both sides live; half at a time, as the next may be near.
        for link in self._idle[: (self._spare + 1) // 2]:
            link.transport.close()
        del self._idle[: (self._spare + 1) // 2]
        self._spare = len(self._idle)

    async def connect(self, timeout_s: float) -> Link:
        """A new connection. Raises OSError (TimeoutError included) when there is none in time."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout_s):
            _, link = await loop.create_connection(lambda: Link(self), self.host, self.port)
        return link

    def close(self) -> None:
        """Close what is idle; links in use close when they are done or dropped."""
        self._closed = True
        for link in self._idle:
            link.transport.close()
        self._idle.clear()
