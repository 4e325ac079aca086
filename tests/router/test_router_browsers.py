"""What browsers may do: pages of other origins, and names that are made to point to this machine."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from trimode_api.errors import ApiError
from trimode_api.wire import RouterConfig
from trimode_router.edge.origins import Hosts, Origins, preflight

PAGE = "https://chat.example"
CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
ASKS = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}


@pytest.fixture
async def open_to(open_house: Any) -> Any:
    async def make(*origins: str, **config: Any) -> Any:
        return await open_house(config={"cors_origins": origins, **config})

    return make


async def test_a_browser_asks_beforehand_and_is_let_in(open_to: Any) -> None:
    house = await open_to(PAGE)
    answer = await house.http.options("/v1/chat/completions", headers={"Origin": PAGE, **ASKS})
    assert (answer.status_code, answer.content) == (204, b"")
    assert "content-length" not in answer.headers
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["access-control-allow-methods"] == "POST"
    assert answer.headers["access-control-allow-headers"] == "authorization,content-type"
    assert answer.headers["vary"] == "origin"
    models = await house.http.options("/v1/models/tiny", headers={"Origin": PAGE, **ASKS})
    assert models.headers["access-control-allow-methods"] == "GET, HEAD"


async def test_every_answer_says_so_errors_and_streams_too(open_to: Any) -> None:
    async def also_says_it(call: Any) -> None:
        await call.begin(extra="Access-Control-Allow-Origin: *\r\n")
        await call.say("hello")
        await call.end()

    house = await open_to(PAGE)
    house.replicas[0].script = also_says_it
    for answer in (
        await house.http.post("/v1/chat/completions", json=CHAT | {"stream": True}, headers={"Origin": PAGE}),
        await house.http.post("/v1/chat/completions", content=b"{", headers={"Origin": PAGE}),
        await house.http.get("/v1/models", headers={"Origin": PAGE}),
    ):
        assert answer.headers.get_list("access-control-allow-origin") == [PAGE]
        assert "x-request-id" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize("origins", [(), ("https://other.example",)])
async def test_pages_that_are_not_named_are_not_let_in(open_to: Any, origins: tuple[str, ...]) -> None:
    house = await open_to(*origins)
    refused = await house.http.options("/v1/chat/completions", headers={"Origin": PAGE, **ASKS})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "origin_not_allowed")
    served = await house.http.post("/v1/chat/completions", json=CHAT, headers={"Origin": PAGE})
    assert served.status_code == 200  # a client that is no browser may send Origin; a browser keeps it from the page
    assert "access-control-allow-origin" not in served.headers


async def test_any_page(open_to: Any) -> None:
    house = await open_to("*")
    answer = await house.http.get("/v1/models", headers={"Origin": "null"})
    assert answer.headers["access-control-allow-origin"] == "*"


async def test_options_without_an_origin_is_a_method_like_others(open_to: Any) -> None:
    house = await open_to("*")
    assert (await house.http.options("/v1/models")).status_code == 405


def test_fields_that_are_no_names_are_not_repeated() -> None:
    assert dict(preflight("POST", b"x-a, x_b")).get(b"access-control-allow-headers") == b"x-a, x_b"
    assert b"access-control-allow-headers" not in dict(preflight("POST", b"a: b"))
    assert Origins((PAGE,)).lines(b"https://other.example") == b"vary: origin\r\n"


@pytest.mark.parametrize("origin", ["chat.example", "https://chat.example/", "https://chat.example/x", ""])
def test_an_origin_is_written_as_browsers_send_it(make_policy: Any, origin: str) -> None:
    with pytest.raises(ValidationError):
        RouterConfig(name="demo", model="tiny", policy=make_policy(), cors_origins=(origin,))


# Host.

OURS = [
    b"", b"127.0.0.1", b"127.0.0.1:8000", b"[::1]:8000", b"192.168.3.4:80", b"localhost", b"LocalHost:8000",
    b"a.localhost", b"router", b"host.docker.internal:8000", b"printer.local", b"localhost.",
]  # fmt: skip
THEIRS = [
    b"rebound.example",
    b"rebound.example:8000",
    b"127.0.0.1.example",
    b"localhost.example",
    b"a.b",
]


@pytest.mark.parametrize("host", OURS)
def test_names_of_this_machine(host: bytes) -> None:
    Hosts().check(host)


@pytest.mark.parametrize("host", THEIRS)
def test_names_of_others(host: bytes) -> None:
    with pytest.raises(ApiError, match="allowedHosts") as refused:
        Hosts().check(host)
    assert refused.value.status == 403
    Hosts(("*",)).check(host)
    Hosts((host.decode().partition(":")[0],)).check(host)


async def test_a_page_whose_name_points_here_is_refused(house: Any) -> None:
    for method, path in (("GET", "/fleet"), ("POST", "/v1/chat/completions")):
        answer = await house.http.request(method, path, json=CHAT, headers={"Host": "rebound.example"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "unknown_host")
    assert house.replicas[0].calls == []


@pytest.mark.parametrize("config", [{"host": "0.0.0.0"}, {"allowed_hosts": ("models.example",)}])
async def test_a_router_for_the_network_or_of_that_name_is_asked_by_it(open_house: Any, config: Any) -> None:
    house = await open_house(config=config)
    answer = await house.http.get("/v1/models", headers={"Host": "models.example"})
    assert answer.status_code == 200
