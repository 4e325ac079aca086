"""The other copies of this router: what they have counted, and what tenants have spent at them.

Copies on one machine share its public port (`Siblings`); their parent tells each the internal ports of the others, once
all of them listen. On a cluster they know of one another by the name of the headless Service, which has an address for
each of them, this one's own among them.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import aiohttp
import msgspec

from trimode_api.errors import TrimodeError
from trimode_router.access.access import Access
from trimode_router.access.budget import HEARD_EVERY_S, Counts
from trimode_router.telemetry.shares import Share

BUDGETS_PATH = "/internal/v1/budgets"
SIBLINGS_PATH = "/internal/v1/siblings"
SHARE_PATH = "/internal/v1/share"
SHARE_TIMEOUT_S = 5.0
"""Below Prometheus' usual limit on a scrape, 10 s."""
LOOKUP_S = 3.0
"""Copies come and go: their name is looked up this often, in seconds."""
_TIMEOUT_S = 1.0
_FEW = 8
"""Up to so many copies each asks every other one each time; of more, each asks the less often."""
_COUNTS = msgspec.json.Decoder(Counts)
_SHARE = msgspec.json.Decoder(Share)


class SiblingError(TrimodeError):
    """One of them does not answer, so that there is no sum."""


class Siblings:
    """`urls` of the internal ports of those that share this one's public port; none where it is the only one."""

    def __init__(self, token: str) -> None:
        self.urls: tuple[str, ...] = ()
        self._headers = bearer(token)

    async def shares(self) -> list[Share]:
        """What each has counted by now. Raises SiblingError."""
        timeout = aiohttp.ClientTimeout(total=SHARE_TIMEOUT_S)

        async def ask(session: aiohttp.ClientSession, url: str) -> Share:
            try:
                async with session.get(url + SHARE_PATH, raise_for_status=True) as response:
                    return _SHARE.decode(await response.read())
            except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError) as error:
                raise SiblingError(f"{url} {error or type(error).__name__}") from error

        async with aiohttp.ClientSession(headers=self._headers, timeout=timeout) as session:
            return await asyncio.gather(*(ask(session, url) for url in self.urls))


async def introduce(urls: list[str], token: str) -> bool:
    """Tell each process which the others are; whether all have heard it."""
    timeout = aiohttp.ClientTimeout(total=SHARE_TIMEOUT_S)
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


class Peers:
    """Asks the copies for their counts for as long as it runs, where some tenant has a budget. `names`: URLs whose
    host may have several addresses. `now` in seconds of the router's clock."""

    def __init__(
        self, access: Access, siblings: Siblings, names: Sequence[str], token: str, now: Callable[[], float]
    ) -> None:
        self._access, self._siblings, self._names, self._now = access, siblings, names, now
        self._headers = bearer(token)
        self._found: dict[str, list[str]] = {}
        self._looked_up = float("-inf")
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """The first round is over when this returns: a copy that is new must know what the others have spent."""
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=timeout)
        await self._round()
        self._task = asyncio.create_task(self._forever())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._session.close()

    async def _forever(self) -> None:
        while True:
            await asyncio.sleep(HEARD_EVERY_S * max(1, len(self._urls()) / _FEW))
            await self._round()

    async def _round(self) -> None:
        if not self._access.limited:
            return
        if self._names and self._now() - self._looked_up >= LOOKUP_S:
            self._looked_up = self._now()
            for name in self._names:
                parts = urlsplit(name)
                try:
                    found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, None, type=socket.SOCK_STREAM)
                except OSError:  # unknown for now: those that it had are asked on
                    continue
                # Of one family, as a copy that has both is not two.
                hosts = [str(address[0]) for family, _, _, _, address in found if family == found[0][0]]
                bracketed = [f"[{host}]" if ":" in host else host for host in hosts]
                self._found[name] = [f"http://{host}:{parts.port}" for host in bracketed]
        urls = self._urls()
        answers = await asyncio.gather(*map(self._ask, urls))
        heard = [answer for answer in answers if isinstance(answer, Counts)]
        silent = answers.count(True)
        # Where all are silent it is this copy that is cut off: it goes on with its part.
        if heard or not silent:
            self._access.hear(heard, silent, self._now())

    def _urls(self) -> list[str]:
        found = (url for urls in self._found.values() for url in urls)
        return list(dict.fromkeys([*self._siblings.urls, *found]))

    async def _ask(self, url: str) -> Counts | bool:
        """What the copy says; True where it may be there and says nothing, False where there is none."""
        try:
            async with self._session.get(url + BUDGETS_PATH, raise_for_status=True) as response:
                return _COUNTS.decode(await response.read())
        except aiohttp.ClientConnectorError:
            return False
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError):
            return True
