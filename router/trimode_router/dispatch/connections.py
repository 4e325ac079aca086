"""Connections to replicas, kept by replica, new ones where none is free; and the head that a request is sent with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from trimode_api.stamp import LEFT_HEADER, RULES_HEADER, Stamp
from trimode_api.wire import REQUEST_ID_HEADER, TIER_HEADER
from trimode_router.fleet.policy import Tier
from trimode_router.fleet.replica import Replica
from trimode_router.http.outgoing import fields_bytes
from trimode_router.http.pool import LinkPool
from trimode_router.request.exchange import Exchange

_LENGTH_AND_ID = b"%bcontent-length: %d\r\n" + REQUEST_ID_HEADER.encode() + b": %b\r\n"
_AND_LEFT = _LENGTH_AND_ID + LEFT_HEADER.encode() + b": %d\r\n"


@dataclass(frozen=True, slots=True)
class ReplicaKey:
    """What replicas are sent as their key: `token`, the client's own where it `passes_clients_own`, or none.
    `ours`: they are replicas of this fleet, and are told the request's tier."""

    token: str = ""
    passes_clients_own: bool = False
    ours: bool = True


class ConnectionPool:
    """Pools of connections, one by replica id."""

    def __init__(self, key: ReplicaKey, connect_seconds: float, now: Callable[[], float]) -> None:
        self._key = key
        self._now = now
        self._authorization = f"authorization: Bearer {key.token}" if key.token else ""
        self._connect_seconds = connect_seconds
        self._pools: dict[str, LinkPool] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, exchange: Exchange, replica: Replica) -> None:
        """Send the request on a kept connection, or on a new one as soon as there is one."""
        url = replica.report.url
        pool = self._pools.get(replica.replica_id)
        # A replica may come back under its id at another address.
        if pool is None or pool.url != url:
            if pool is not None:
                pool.close()
            parts = urlsplit(url)
            pool = self._pools[replica.replica_id] = LinkPool(url, parts.hostname or "", parts.port or 80, parts.path)
        link = pool.take()
        if link is not None:
            exchange.send(link, self._head(exchange, pool))
            return
        task = asyncio.get_running_loop().create_task(self._connect(exchange, pool))
        # asyncio keeps weak references to tasks only: one that nothing else holds may be collected before it has
        # connected.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def keep_only(self, known: Callable[[str], bool]) -> None:
        """Close what leads to replicas that are no longer known."""
        for replica_id in [replica_id for replica_id in self._pools if not known(replica_id)]:
            self._pools.pop(replica_id).close()

    def trim(self) -> None:
        """Close connections that are not needed: after a peak, or when others have made up for a dead one."""
        for pool in self._pools.values():
            pool.trim()

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for pool in self._pools.values():
            pool.close()

    async def _connect(self, exchange: Exchange, pool: LinkPool) -> None:
        attempt = exchange.record.attempts
        try:
            link = await pool.connect(self._connect_seconds)
        except OSError as error:
            if exchange.awaits(attempt):
                exchange.unreached(f"could not be reached ({error or type(error).__name__})")
            return
        # Meanwhile the client may have left, or the replica may have been given up for another.
        if exchange.awaits(attempt):
            exchange.send(link, self._head(exchange, pool))
        else:
            pool.keep(link)

    def _head(self, exchange: Exchange, pool: LinkPool) -> bytes:
        request = exchange.request
        # Another fleet's endpoint among servers of others has tiers of its own, and refused the name of ours.
        tier = exchange.tier if self._key.ours else None
        common = _common_head(exchange.path, pool.base, pool.authority, tier, self._authorization)
        length, request_id = len(exchange.body), request.request_id.encode()
        if tier is None:
            head = _LENGTH_AND_ID % (common, length, request_id)
        else:
            left_s = tier.ttft_s - (self._now() - exchange.record.started)
            head = _AND_LEFT % (common, length, request_id, round(1000 * left_s))
        if request.passed:
            head += fields_bytes(request.passed)
        if self._key.passes_clients_own and request.authorization is not None:
            head += b"authorization: %b\r\n" % request.authorization
        return head + b"\r\n"


@lru_cache(maxsize=1024)
def _common_head(path: str, base: str, authority: str, tier: Tier | None, authorization: str) -> bytes:
    """What the heads of all requests for a path of a replica in a tier have in common: few heads, many requests.
    Without a `tier` none is named."""
    lines = [
        f"POST {base}{path} HTTP/1.1",
        f"host: {authority}",
        "content-type: application/json",
        *([authorization] if authorization else []),
    ]
    if tier is not None:
        lines += [f"{TIER_HEADER}: {tier.name}", f"{RULES_HEADER}: {Stamp(tier.priority, tier.tpot_s).header}"]
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1")
