"""What kopf watches, and what an event leads to: the cache knows, and the resource concerned is visited.

No handler here keeps state in resources, waits or writes, so a copy that does not lead may watch as well, and takes
over knowing everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import kopf

from trimode_operator.kube.cache import Cache, Key
from trimode_operator.kube.client import ENDPOINT_SLICES, RESOURCE, Object
from trimode_operator.plan.make import ALWAYS, BUDGET, INFERENCE_POOL, MONITOR, RAY_SERVICE, ROUTE
from trimode_operator.plan.names import MANAGER

CHILDREN = (*ALWAYS, RAY_SERVICE, BUDGET, MONITOR, ROUTE, INFERENCE_POOL, ENDPOINT_SLICES)
"""What the operator makes, and what Kubernetes makes of its Services: EndpointSlices have their Service's labels."""
DISCOVERY_PARTS = 3
"""Of a path such as `/apis/ray.io/v1`; those of objects have more."""
OURS = f"app.kubernetes.io/managed-by={MANAGER}"


class Backoffs:
    """Seconds between attempts of kopf's requests, without end: an API server that is away comes back."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.5, 1.0, 2.0)
        while True:
            yield 3.0


def registry(cache: Cache, changed: Callable[[Key], None], seen: Callable[[], None]) -> kopf.OperatorRegistry:
    """Handlers for all that is watched. `seen` is called at every event, `changed` where it is news."""
    found = kopf.OperatorRegistry()
    kopf.on.login(registry=found)(Login().give)

    async def handle(event: Any, **_: Any) -> None:  # async, since kopf runs others in threads
        seen()
        body: Object = dict(event["object"])
        key = cache.drop(body) if event["type"] == "DELETED" else cache.put(body)
        if key is not None:
            changed(key)

    for kind in (RESOURCE, *CHILDREN):
        group, _, version = kind.api_version.rpartition("/")
        kopf.on.event(group, version, kind.plural, id=f"{kind.plural}-seen", registry=found)(handle)
    return found


def operator_settings(*, namespaced: bool) -> kopf.OperatorSettings:
    """kopf's settings. In namespaces only there is no right to look at CRDs, so none is asked for."""
    settings = kopf.OperatorSettings()
    # A daemon for each resource was tried: its finalizer and peering save one queue, and two copies write at once after
    # a pause (decision record 11).
    settings.persistence.finalizer = "trimode.dev/kopf"  # never set: no handler here needs one
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix="trimode.dev")
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix="trimode.dev")
    # kopf would post an Event for each line that it logs; ours are for transitions of conditions (`apply.events`).
    settings.posting.enabled = False
    # kopf's peering is no leader election (nolar/kopf#1266 and #734); the Lease is.
    settings.peering.standalone = True
    # Kubernetes sends a bookmark each 60 s: a stream that is silent for longer is dead, although its socket may not
    # know.
    settings.watching.inactivity_timeout = 70.0
    settings.watching.connect_timeout = 10.0
    settings.networking.request_timeout = 30.0
    settings.networking.connect_timeout = 10.0
    settings.networking.error_backoffs = Backoffs()
    settings.scanning.disabled = namespaced
    settings.execution.default_backoff = 60
    # Without a selector every Secret and Service of the cluster would be streamed to each copy of the operator.
    for kind in CHILDREN:
        group, _, version = kind.api_version.rpartition("/")
        settings.watching.label_selectors[group, version, kind.plural] = OURS
    return settings


class Login:
    """`give` is a handler for `kopf.on.login`: the official client's credentials, in a session of our own.

    The same credentials give the same session, also a closed one: that is how kopf knows those that it has tried.
    """

    def __init__(self) -> None:
        self._credentials: kopf.ConnectionInfo | None = None
        self._session: kopf.AiohttpSession | None = None

    async def give(self, **kwargs: Any) -> kopf.AiohttpSession | None:
        found = await asyncio.to_thread(kopf.login_via_client, **kwargs)  # may start a program that gives a token
        if found is None:
            return None
        if self._session is None or found != self._credentials:
            self._credentials, self._session = found, session_of(found)
        return self._session


def session_of(found: kopf.ConnectionInfo) -> kopf.AiohttpSession:
    """As kopf makes it by itself, with `patient` in between."""
    connector = aiohttp.TCPConnector(limit=0, ssl=found.as_ssl_context())
    session = aiohttp.ClientSession(
        connector=connector,
        headers=found.as_http_headers(),
        proxy=found.proxy_url,
        trust_env=found.trust_env,
        middlewares=(patient,),
    )
    return kopf.AiohttpSession(server=found.server, priority=found.priority, aiohttp_session=session)


async def patient(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Objects of a kind that is not served: an error after which kopf tries again.

    A CustomResourceDefinition that goes ends the streams of its objects at once, and kopf hears of it a moment later.
    In that moment it reads again, and its own answer to 404 is to end the whole operator (seen with 1.45.2).
    """
    answer = await handler(request)
    if answer.status == 404 and request.method == "GET" and is_collection(request.url.path):
        answer.close()
        raise aiohttp.ClientConnectionError(f"{request.url.path} is not served (any more)")
    return answer


def is_collection(path: str) -> bool:
    """Whether a path is of custom objects: 404 for a group and version is what discovery asks for."""
    parts = path.strip("/").split("/")
    return parts[0] == "apis" and len(parts) > DISCOVERY_PARTS
