"""Forms of requests that are right or wrong by the RFCs: codings, expectations, paths; and settings of the edge."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import zlib
from typing import Any

import pytest

from trimode_api.errors import ApiError
from trimode_lab.doubles.replica.replica import Call
from trimode_router.http.inflate import inflated
from trimode_router.http.request import split_target

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
BODY = json.dumps(CHAT).encode()
LINE = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)


def bare(data: bytes) -> bytes:
    engine = zlib.compressobj(wbits=-15)
    return engine.compress(data) + engine.flush()


# Compressed bodies.


@pytest.mark.parametrize(
    ("coding", "pack"),
    [("gzip", gzip.compress), ("X-GZIP", gzip.compress), ("deflate", zlib.compress), ("deflate", bare)],
)
async def test_a_compressed_body_is_read(house: Any, coding: str, pack: Any) -> None:
    answer = await house.http.post("/v1/chat/completions", content=pack(BODY), headers={"Content-Encoding": coding})
    assert answer.status_code == 200
    assert house.replicas[0].calls[0].body == BODY
    assert "content-encoding" not in house.replicas[0].calls[0].headers


async def test_other_codings_are_refused_by_name(house: Any) -> None:
    answer = await house.http.post("/v1/chat/completions", content=b"x", headers={"Content-Encoding": "br"})
    assert answer.status_code == 415
    assert answer.headers["accept-encoding"] == "gzip, deflate"
    assert "'br'" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (gzip.compress(b"x" * 1000), None),
        (gzip.compress(b"x" * 1001), 413),
        (gzip.compress(b"x" * 10_000_000), 413),
        (gzip.compress(b"x" * 100)[:-3], 400),
        (gzip.compress(b"x") + b"more", 400),
        (b"no gzip", 400),
        (b"", 400),
    ],
)
def test_what_comes_out_is_bounded_and_whole(body: bytes, status: int | None) -> None:
    if status is None:
        assert inflated(b"gzip", body, 1000) == b"x" * 1000
        return
    with pytest.raises(ApiError) as refused:
        inflated(b"gzip", body, 1000)
    assert refused.value.status == status


# Transfer codings and expectations.


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (b"Transfer-Encoding: chunked\r\n", 200),
        (b"Transfer-Encoding: Chunked\r\n", 200),
        (b"Transfer-Encoding: gzip, chunked\r\n", 501),
        (b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", 501),
        (b"Transfer-Encoding: chunked, chunked\r\n", 400),
    ],
)
async def test_what_a_body_is_wrapped_in(house: Any, fields: bytes, status: int) -> None:
    answer = await house.exchange(LINE + fields + b"\r\n" + CHUNKS)
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"%d" % status]
    assert len(house.replicas[0].calls) == (status == 200)


async def test_an_old_client_sends_no_chunks(house: Any) -> None:
    head = b"POST /v1/chat/completions HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert (await house.exchange(head + CHUNKS)).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("expectation", [b"100-continue", b"coffee"])
async def test_an_expectation_of_an_old_client_is_passed_over(house: Any, expectation: bytes) -> None:
    length = b"Content-Length: %d\r\n" % len(BODY)
    head = b"POST /v1/chat/completions HTTP/1.0\r\n" + length + b"Expect: " + expectation + b"\r\n\r\n"
    reader, writer = await house.raw(head)
    await asyncio.sleep(0.05)
    writer.write(BODY)
    async with asyncio.timeout(5):
        answer = await reader.read()
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"200"]


# Paths.


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", "/", ""),
        (b"//", "/", ""),
        (b"/v1/models/", "/v1/models", ""),
        (b"/v1/models/a%2Fb", "/v1/models/a/b", ""),
        (b"/v1/models/my%20model?x=%41", "/v1/models/my model", "x=%41"),
        (b"/v1/models/llama3%3A8b", "/v1/models/llama3:8b", ""),
        (b"/v1/models/%C3%A9", "/v1/models/\u00e9", ""),
        (b"/v1/models/100%", "/v1/models/100%", ""),
        (b"/v1/models/%ff", "/v1/models/\ufffd", ""),
        (b"http://h/v1/models%2fm?q", "/v1/models/m", "q"),
        (b"*", "*", ""),
    ],
)
def test_targets(target: bytes, path: str, query: str) -> None:
    assert split_target(target) == (path, query)


@pytest.mark.parametrize("path", ["/v1/models/", "/health", "/ping", "/health/"])
async def test_paths_that_tools_have_fixed(house: Any, path: str) -> None:
    assert (await house.http.get(path)).status_code == 200


async def test_the_version(house: Any) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\S+", (await house.http.get("/version")).json()["version"])


async def test_health_is_whether_requests_would_be_served(open_house: Any) -> None:
    house = await open_house(replicas=0)
    assert {(await house.http.get(path)).status_code for path in ("/health", "/ping", "/readyz")} == {503}


# Streams behind proxies.


async def test_a_stream_is_not_to_be_kept_back(house: Any) -> None:
    async def says_it_itself(call: Call) -> None:
        await call.begin(extra="X-Accel-Buffering: yes\r\n")
        await call.end()

    url = "/v1/chat/completions"
    streamed = await house.http.post(url, json=CHAT | {"stream": True})
    whole = await house.http.post(url, json=CHAT)
    house.replicas[0].script = says_it_itself
    other = await house.http.post(url, json=CHAT | {"stream": True})
    assert streamed.headers["x-accel-buffering"] == "no"
    assert "x-accel-buffering" not in whole.headers
    assert other.headers.get_list("x-accel-buffering") == ["no"]


# Settings.


async def test_limits_are_settings(open_house: Any) -> None:
    house = await open_house(config={"body_bytes": 2000, "header_bytes": 20_000, "idle_seconds": 700})
    url = "/v1/chat/completions"
    assert (await house.http.post(url, json=CHAT, headers={"x-token": "t" * 17_000})).status_code == 200
    assert (await house.http.post(url, json=CHAT, headers={"x-token": "t" * 21_000})).status_code == 431
    assert (await house.http.post(url, content=b" " * 1990 + BODY)).status_code == 413
    packed = gzip.compress(b" " * 1990 + BODY)
    refused = await house.http.post(url, content=packed, headers={"Content-Encoding": "gzip"})
    assert refused.status_code == 413
    reader, writer = await house.raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"alive")
    house.pass_time(600)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(5):
        assert b"200 OK" in await reader.readuntil(b"alive")
    house.pass_time(701)
    async with asyncio.timeout(5):
        assert (await reader.read()).count(b"HTTP/1.1") == 0


# What is refused is counted and told.


async def test_what_the_router_itself_refuses_is_counted_by_status(house: Any) -> None:
    url = "/v1/chat/completions"
    for _ in range(3):
        assert (await house.http.post(url, json=CHAT | {"model": "gpt-9"})).status_code == 404
    await house.http.post(url, content=b"{")
    await house.http.post(url, json=CHAT, headers={"x-trimode-tier": "gold"})
    await house.http.get("/nowhere")
    await house.http.get(url)
    await house.http.get("/v1/models", headers={"Host": "a.example"})
    await house.http.post(url, content=b"x", headers={"Content-Encoding": "br"})
    lines = (await house.http.get("/metrics")).text
    once = ("invalid_json", "unknown_tier", "not_found", "method_not_allowed", "unknown_host")
    told = dict(re.findall(r'^trimode_router_rejections_total\{code="(.*)"\} (.*)$', lines, re.MULTILINE))
    assert told == dict.fromkeys((*once, "unsupported_content_encoding"), "1.0") | {"model_not_found": "3.0"}
    assert 'trimode_router_requests_total{status="404",tier="unknown"} 3.0' in lines
    assert 'trimode_router_requests_total{status="400",tier="unknown"} 2.0' in lines
    assert "trimode_router_refusals_total{" not in lines


async def test_what_the_router_itself_refuses_is_logged(house: Any, capsys: Any) -> None:
    path = "/v1/models/" + "m" * 5000
    answer = await house.http.get(path)
    assert answer.status_code == 404
    assert len(answer.text) < 1000
    told = capsys.readouterr().out
    assert "model_not_found" in told
    assert answer.headers["x-request-id"] in told
    assert len(told) < 2000
