"""Where the routers are: every address behind a list of URLs.

On one machine the URLs name addresses; on a cluster the one URL names a headless Service, which has an address for each
router.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""From a host to its addresses; OSError where the name is unknown."""

LOOKUP_S = 3.0
"""Routers come and go: their names are looked up this often, in seconds."""
FIRST_LOOKUP_S = 0.5
"""The same as long as some name has no address at all."""

_log = logging.getLogger(__name__)


async def resolve_host(host: str) -> Sequence[str]:
    """All addresses of `host`, of one family: a host that has both is not two hosts."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    family = found[0][0]
    return [str(address[0]) for kind, _, _, _, address in found if kind == family]


class Routers:
    """The routers' addresses as URLs. A name that cannot be looked up keeps the addresses it last had."""

    def __init__(self, urls: Sequence[str], resolve: Resolve = resolve_host, every_s: float = LOOKUP_S) -> None:
        self._resolve = resolve
        self._every_s = every_s
        self._found: dict[str, tuple[str, ...]] = dict.fromkeys(urls, ())
        self._failing: set[str] = set()

    @property
    def urls(self) -> tuple[str, ...]:
        """One URL per address, each once."""
        return tuple(dict.fromkeys(url for found in self._found.values() for url in found))

    @property
    def pause_s(self) -> float:
        """Seconds to wait before the next lookup."""
        return self._every_s if all(self._found.values()) else min(FIRST_LOOKUP_S, self._every_s)

    async def look_up(self) -> None:
        """Look every name up again. Says in the log when that stops working, and when it works again."""
        for url in self._found:
            parts = urlsplit(url)
            try:
                addresses = await self._resolve(parts.hostname or "")
            except OSError as exc:
                if url not in self._failing:
                    _log.warning("routers: %s cannot be looked up: %s", parts.hostname, exc)
                self._failing.add(url)
                continue
            if url in self._failing:
                _log.info("routers: %s has addresses again", parts.hostname)
            self._failing.discard(url)
            hosts = (f"[{address}]" if ":" in address else address for address in addresses)
            port = "" if parts.port is None else f":{parts.port}"
            self._found[url] = tuple(f"{parts.scheme}://{host}{port}" for host in hosts)
