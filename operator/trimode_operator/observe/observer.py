"""The reads of a reconciliation: children from the API server, the fleet from the routers."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Iterable

from trimode_api.spec import Router
from trimode_operator.kube.cache import Cache, Key
from trimode_operator.kube.client import ENDPOINT_SLICES, POD, Cluster, Object
from trimode_operator.observe.fleets import NO_FLEETS, Address, Fleets, addresses
from trimode_operator.observe.observations import secret_missing, secrets_refused
from trimode_operator.observe.pods import PodsSeen, pods_seen
from trimode_operator.observe.routers import Routers
from trimode_operator.plan import ChildKind, Names, Note, selector
from trimode_operator.plan.make import ALWAYS
from trimode_operator.plan.names import TOKEN_KEY
from trimode_operator.plan.router import user_secrets

TOKEN_BYTES = 32
SERVICE_LABEL = "kubernetes.io/service-name"
"""On every EndpointSlice: whose it is."""
SECRET = next(kind for kind in ALWAYS if kind.kind == "Secret")


class Observer:
    """Reads for one resource at a time."""

    def __init__(self, cluster: Cluster, cache: Cache, routers: Routers) -> None:
        self._cluster = cluster
        self._cache = cache
        self._routers = routers

    async def list_children(self, key: Key, kinds: Iterable[ChildKind]) -> None:
        """Put into the cache what is really there, EndpointSlices too: watches tell of changes, and may have missed
        some."""
        listed: list[Object] = []
        for kind in (*kinds, ENDPOINT_SLICES):
            listed += await self._cluster.listed(kind, key.namespace, selector(key.name))
        self._cache.list_children(key, listed)

    async def token(self, key: Key, names: Names) -> str | None:
        """The fleet's shared token, None where there is none yet. Another one would replace every pod."""
        body = self._cache.children(key).get((SECRET.kind, names.secret))
        if body is None:
            body = await self._cluster.get(SECRET, key.namespace, names.secret)
        data = ((body or {}).get("data") or {}).get(TOKEN_KEY)
        if not data:
            return None
        try:
            return base64.b64decode(data, validate=True).decode() or None
        except (binascii.Error, UnicodeDecodeError):
            return None

    async def secrets(self, key: Key, router: Router, fleets: Fleets) -> tuple[Note, ...]:
        """What is wrong with the Secrets that the spec names: by whether they are there, and by what routers say."""
        named = user_secrets(router)
        # Metadata only: the operator never looks at what is in users' Secrets.
        missing = [each for each in named if not await self._cluster.exists(SECRET, key.namespace, each.name)]
        there = [each for each in named if each not in missing]
        return (*(secret_missing(each, key.namespace) for each in missing), *secrets_refused(there, fleets))

    def routers(self, key: Key, names: Names) -> tuple[Address, ...]:
        """Where the routers are now."""
        slices = (body for (kind, _), body in self._cache.children(key).items() if kind == ENDPOINT_SLICES.kind)
        return addresses(each for each in slices if each["metadata"]["labels"].get(SERVICE_LABEL) == names.reports)

    async def pods(self, key: Key) -> PodsSeen:
        """What keeps pods of the fleet from running."""
        return pods_seen(await self._cluster.listed(POD, key.namespace, selector(key.name)))

    async def fleets(self, routers: Iterable[Address], token: str | None) -> Fleets:
        """What the routers answer; nothing where the fleet has no token yet."""
        return NO_FLEETS if token is None else await self._routers.fleets(routers, token)


def fresh_token() -> str:
    """A token for a new fleet."""
    return secrets.token_urlsafe(TOKEN_BYTES)
