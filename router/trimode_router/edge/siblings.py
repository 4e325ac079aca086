"""The other processes that share this one's public port: what they have counted.

Their parent tells each the internal ports of the others, once all of them listen.
"""

from __future__ import annotations

import asyncio

import aiohttp
import msgspec

from trimode_api.errors import TrimodeError
from trimode_router.telemetry.shares import Share

SIBLINGS_PATH = "/internal/v1/siblings"
SHARE_PATH = "/internal/v1/share"
_TIMEOUT_SECONDS = 5.0
"""Below Prometheus' usual limit on a scrape, 10 s."""
_SHARE = msgspec.json.Decoder(Share)


class SiblingError(TrimodeError):
    """One of them does not answer, so that there is no sum."""


class Siblings:
    """`urls` of their internal ports; none where this process is the only one."""

    def __init__(self, token: str) -> None:
        self.urls: tuple[str, ...] = ()
        self._headers = bearer(token)

    async def shares(self) -> list[Share]:
        """What each has counted by now. Raises SiblingError."""
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
        async with aiohttp.ClientSession(headers=self._headers, timeout=timeout) as session:
            return await asyncio.gather(*(_share(session, url) for url in self.urls))


async def _share(session: aiohttp.ClientSession, url: str) -> Share:
    try:
        async with session.get(url + SHARE_PATH, raise_for_status=True) as response:
            return _SHARE.decode(await response.read())
    except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError) as error:
        raise SiblingError(f"{url} {error or type(error).__name__}") from error


async def introduce(urls: list[str], token: str) -> bool:
    """Tell each process which the others are; whether all have heard it."""
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(headers=bearer(token), timeout=timeout, raise_for_status=True) as session:
        try:
            for url in urls:
                async with session.put(url + SIBLINGS_PATH, json={"urls": [other for other in urls if other != url]}):
                    pass
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False
    return True


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
