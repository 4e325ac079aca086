"""kopf's way to the API server, on which kinds may come and go.

Belongs here: kopf's login and HTTP session. Requests of our own are in `api`.
"""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import kopf

DISCOVERY_PARTS = 3
"""Of a path such as `/apis/ray.io/v1`; those of objects have more."""


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
