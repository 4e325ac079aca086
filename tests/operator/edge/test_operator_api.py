"""The client of the API server, against a small HTTP server: what it sends, and how refusals are mapped."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio import client

from trimode_operator.errors import ApiFailure, ApiUnreachable
from trimode_operator.kube.api import ApiServer
from trimode_operator.kube.client import RESOURCE
from trimode_operator.plan import ChildKind

CONFIG_MAP = ChildKind("v1", "ConfigMap", "configmaps")
OPERATIONS = [{"op": "add", "path": "/data", "value": {}}]
BODY = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "default"}}


class Talk:
    """What came in, and what is answered."""

    def __init__(self) -> None:
        self.method = self.path = self.kind = self.accept = ""
        self.query: dict[str, str] = {}
        self.body: Any = None
        self.status = 200
        self.answer: Any = {}

    async def handle(self, request: web.Request) -> web.Response:
        self.method, self.path, self.query = request.method, request.path, dict(request.query)
        self.kind, self.accept = request.content_type, request.headers["Accept"]
        text = await request.text()
        self.body = json.loads(text) if text else None
        body = self.answer if isinstance(self.answer, str) else json.dumps(self.answer)
        return web.Response(status=self.status, text=body)


@pytest.fixture
async def talk() -> Talk:
    return Talk()


@pytest.fixture
async def api(talk: Talk) -> AsyncIterator[ApiServer]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", talk.handle)
    server = TestServer(app)
    await server.start_server()
    configuration = client.Configuration()
    configuration.host = str(server.make_url("")).rstrip("/")
    connected = ApiServer(configuration)
    yield connected
    await connected.close()
    await server.close()


CALLS: list[tuple[str, Callable[[ApiServer], Any], tuple[str, str, str], dict[str, str]]] = [
    (
        "apply",
        lambda api: api.apply(CONFIG_MAP, BODY),
        ("PATCH", "/api/v1/namespaces/default/configmaps/c", "application/apply-patch+yaml"),
        {"fieldManager": "trimode-operator", "force": "true"},
    ),
    (
        "status",
        lambda api: api.merge(RESOURCE, "ns", "nemo", {"status": {"url": None}}, "status"),
        (
            "PATCH",
            "/apis/trimode.dev/v1alpha1/namespaces/ns/nemotrondeployments/nemo/status",
            "application/merge-patch+json",
        ),
        {"fieldManager": "trimode-operator"},
    ),
    (
        "operations",
        lambda api: api.patch(CONFIG_MAP, "default", "c", OPERATIONS),
        ("PATCH", "/api/v1/namespaces/default/configmaps/c", "application/json-patch+json"),
        {"fieldManager": "trimode-operator"},
    ),
    (
        "create",
        lambda api: api.create(CONFIG_MAP, "default", BODY),
        ("POST", "/api/v1/namespaces/default/configmaps", "application/json"),
        {"fieldManager": "trimode-operator"},
    ),
    (
        "replace",
        lambda api: api.replace(CONFIG_MAP, "default", "c", BODY),
        ("PUT", "/api/v1/namespaces/default/configmaps/c", "application/json"),
        {"fieldManager": "trimode-operator"},
    ),
]


@pytest.mark.parametrize(("call", "sent", "query"), [case[1:] for case in CALLS], ids=[case[0] for case in CALLS])
async def test_writes(
    api: ApiServer, talk: Talk, call: Callable[[ApiServer], Any], sent: tuple[str, str, str], query: dict[str, str]
) -> None:
    await call(api)
    assert (talk.method, talk.path, talk.kind) == sent
    assert talk.query == query
    assert talk.body in (BODY, OPERATIONS, {"status": {"url": None}})


async def test_a_delete_means_exactly_this_object(api: ApiServer, talk: Talk) -> None:
    await api.delete(CONFIG_MAP, "default", "c", "uid-1")
    assert talk.body["preconditions"] == {"uid": "uid-1"}
    assert talk.body["propagationPolicy"] == "Background"
    talk.status, talk.answer = 409, {"reason": "Conflict", "message": "another uid"}
    await api.delete(CONFIG_MAP, "default", "c", "uid-1")  # ours is gone


async def test_whether_a_secret_exists_is_asked_without_its_content(api: ApiServer, talk: Talk) -> None:
    secret = ChildKind("v1", "Secret", "secrets")
    talk.answer = {"kind": "PartialObjectMetadata", "metadata": {"name": "s"}}
    assert await api.exists(secret, "default", "s")
    assert (talk.method, talk.path) == ("GET", "/api/v1/namespaces/default/secrets/s")
    assert "as=PartialObjectMetadata" in talk.accept
    talk.status, talk.answer = 404, {"reason": "NotFound", "message": "no"}
    assert not await api.exists(secret, "default", "s")


async def test_lists_name_the_kind_of_each_item(api: ApiServer, talk: Talk) -> None:
    talk.answer = {"items": [{"metadata": {"name": "c"}}]}
    assert await api.listed(CONFIG_MAP, None, "a=b") == [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}
    ]
    assert (talk.path, talk.query) == ("/api/v1/configmaps", {"labelSelector": "a=b"})


async def test_what_is_not_there_is_none_and_an_unknown_kind_has_no_objects(api: ApiServer, talk: Talk) -> None:
    talk.status, talk.answer = 404, {"reason": "NotFound", "message": "no"}
    assert await api.get(CONFIG_MAP, "default", "c") is None
    assert await api.read("/apis/ray.io/v1") is None
    assert await api.listed(CONFIG_MAP, None) == []


@pytest.mark.parametrize(
    ("status", "answer", "reason", "words"),
    [
        (403, {"reason": "Forbidden", "message": "not for you"}, "Forbidden", "not for you"),
        (422, {"reason": "Invalid", "message": "spec.x: wrong"}, "Invalid", "spec.x: wrong"),
        (502, "<html>bad gateway</html>", "Http502", "bad gateway"),
        (500, "", "Http500", "HTTP 500"),
    ],
)
async def test_refusals(api: ApiServer, talk: Talk, status: int, answer: Any, reason: str, words: str) -> None:
    talk.status, talk.answer = status, answer
    with pytest.raises(ApiFailure, match=words) as caught:
        await api.apply(CONFIG_MAP, BODY)
    assert (caught.value.status, caught.value.reason) == (status, reason)


async def test_nobody_answers() -> None:
    configuration = client.Configuration()
    configuration.host = "http://127.0.0.1:1"
    api = ApiServer(configuration)
    with pytest.raises(ApiUnreachable, match="GET /apis"):
        await api.read("/apis")
    await api.close()
