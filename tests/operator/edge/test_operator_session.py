"""A kind that goes from the API server does not end kopf; every other refusal reaches it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import kopf
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from trimode_operator.kube.watch import Login, session_of

GONE = "/apis/ray.io/v1/rayservices"


@pytest.fixture
async def session() -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """A session, and the address of a server that knows `/apis` and nothing else."""
    app = web.Application()

    async def served(_: web.Request) -> web.Response:
        return web.json_response({})

    async def refused(_: web.Request) -> web.Response:
        return web.Response(status=403)

    app.router.add_get("/apis/", served)
    app.router.add_get("/apis/trimode.dev/v1alpha1/nemotrondeployments", refused)
    server = TestServer(app)
    await server.start_server()
    address = str(server.make_url("")).rstrip("/")
    made = session_of(kopf.ConnectionInfo(server=address, token="secret"))
    assert made.server == address
    yield made.aiohttp_session, address
    await made.aiohttp_session.close()
    await server.close()


@pytest.mark.parametrize(
    "path",
    [
        GONE,
        f"{GONE}?watch=true&resourceVersion=963",
        "/apis/ray.io/v1/namespaces/team-a/rayservices?watch=true",
    ],
)
async def test_objects_of_a_kind_that_is_gone_are_asked_for_again(
    session: tuple[aiohttp.ClientSession, str], path: str
) -> None:
    http, address = session
    with pytest.raises(aiohttp.ClientConnectionError, match="is not served"):  # which kopf answers with a pause
        await http.get(address + path)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/apis/", 200),
        ("GET", "/apis/ray.io/v1", 404),
        ("GET", "/api/v1/namespaces/gone", 404),
        ("PATCH", f"{GONE}/tiny", 404),
        ("GET", "/apis/trimode.dev/v1alpha1/nemotrondeployments", 403),
    ],
)
async def test_all_else_is_answered(
    session: tuple[aiohttp.ClientSession, str], method: str, path: str, status: int
) -> None:
    http, address = session
    async with http.request(method, address + path) as answer:
        assert answer.status == status
        assert answer.request_info.headers["Authorization"] == "Bearer secret"


async def test_the_same_credentials_are_the_same_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """kopf gives up on credentials that are refused again; new sessions would look like new credentials for ever."""
    login = Login()

    async def after(token: str | None) -> Any:
        found = token and kopf.ConnectionInfo(server="http://127.0.0.1:1", token=token)
        monkeypatch.setattr(kopf, "login_via_client", lambda **_: found)
        return await login.give(logger=None, settings=None)

    assert await after(None) is None
    first, again, other = await after("a"), await after("a"), await after("b")
    assert first == again
    assert first != other
    for each in (first, other):
        await each.aiohttp_session.close()
