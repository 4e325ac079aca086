"""The router before servers that do not report; `trimode router` as a process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from trimode_lab.doubles.replica.replica import Call, FakeReplica, polite

CHAT: dict[str, Any] = {"model": "some-model", "messages": [{"role": "user", "content": "hi"}]}


async def server(call: Call) -> None:
    """Any OpenAI-compatible server: it knows neither reports nor tokens of a fleet."""
    if call.path == "/v1/models":
        await call.answer({"object": "list", "data": [{"id": "some-model", "object": "model"}]})
        return
    await polite(call)


class Running:
    def __init__(self, process: asyncio.subprocess.Process, url: str, http: httpx.AsyncClient) -> None:
        self.process, self.url, self.http = process, url, http

    async def until(self, status: int) -> None:
        """Wait until /readyz says so."""
        async with asyncio.timeout(20):
            while (await self.http.get("/readyz")).status_code != status:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)


@pytest.fixture
async def start() -> Any:
    started: list[asyncio.subprocess.Process] = []
    clients: list[httpx.AsyncClient] = []

    async def run(*arguments: str, env: dict[str, str] | None = None) -> Running:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "trimode_cli.main", "router", "--port", "0", *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | (env or {}),
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        async with asyncio.timeout(30):
            url = json.loads(await process.stdout.readline())["url"]
        clients.append(httpx.AsyncClient(base_url=url, timeout=20, verify=False))
        return Running(process, url, clients[-1])

    yield run
    for client in clients:
        await client.aclose()
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_two_servers_one_dies(start: Any) -> None:
    async with FakeReplica(script=server) as one, FakeReplica(script=server) as two:
        router = await start("--replica", one.url, "--replica", two.url + "/v1")
        await router.until(200)
        models = (await router.http.get("/v1/models")).json()["data"]
        assert [model["id"] for model in models] == ["some-model"]
        async with asyncio.timeout(20):
            while not (_asked(one) and _asked(two)):
                answer = await router.http.post("/v1/chat/completions", json=CHAT | {"stream": True})
                assert answer.text.endswith("data: [DONE]\n\n")
        await one.stop()
        for _ in range(20):
            assert (await router.http.post("/v1/chat/completions", json=CHAT)).status_code == 200
        await two.stop()
        await router.until(503)
        refused = await router.http.post("/v1/chat/completions", json=CHAT)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    router.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(20):
        assert await router.process.wait() == 0


def _asked(replica: FakeReplica) -> int:
    return sum(call.method == "POST" for call in replica.calls)


async def test_several_processes_on_one_port(start: Any) -> None:
    async with FakeReplica(script=server) as replica:
        router = await start("--replica", replica.url, "--processes", "2")
        await router.until(200)
        (one, two) = psutil.Process(router.process.pid).children()
        for _ in range(40):  # new connections each: the kernel shares them out
            async with httpx.AsyncClient(base_url=router.url, timeout=20, verify=False) as http:
                answer = await http.post("/v1/chat/completions", json=CHAT)
                assert answer.status_code in (200, 503)  # one of them may not have probed yet
        served = [await _served(router.url, each.pid) for each in (one, two)]
        assert all(served), served
        router.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            assert await router.process.wait() == 0
        assert not one.is_running()
        assert not two.is_running()


async def test_whichever_process_is_scraped_tells_of_all(start: Any) -> None:
    async with FakeReplica(script=server) as replica:
        router = await start("--replica", replica.url, "--processes", "2")
        good, told, answered_by = 0, [], set()
        async with asyncio.timeout(60):
            while len(answered_by) < 2 or good < 10:
                async with httpx.AsyncClient(base_url=router.url, timeout=20, verify=False) as http:
                    answer = await http.post("/v1/chat/completions", json=CHAT)
                    answered_by.add(answer.headers["x-request-id"].split("-")[1])
                    good += answer.status_code == 200
                async with httpx.AsyncClient(base_url=router.url, timeout=20, verify=False) as http:
                    lines = (await http.get("/metrics")).text.splitlines()
                (line,) = [e for e in lines if e.startswith('trimode_router_requests_total{status="200"')] or ["x 0"]
                told.append((float(line.rpartition(" ")[2]), float(good)))
        assert [counted for counted, _ in told] == [sent for _, sent in told]


async def test_a_process_that_does_not_answer_leaves_no_half_of_a_sum(open_house: Any) -> None:
    house = await open_house()
    answer = await house.internal.put("/internal/v1/siblings", json={"urls": ["http://127.0.0.1:9"]})
    assert answer.status_code == 200
    scrape = await house.http.get("/metrics")
    assert (scrape.status_code, scrape.json()["error"]["code"]) == (503, "incomplete")
    assert (await house.http.post("/metrics")).status_code == 405


async def _served(url: str, pid: int) -> bool:
    """Whether this process listens on the port of `url`."""
    port = int(url.rsplit(":", 1)[1])
    return any(c.laddr.port == port and c.status == "LISTEN" for c in psutil.Process(pid).net_connections())


async def test_whose_key_the_server_sees(start: Any) -> None:
    async with FakeReplica(script=server) as replica:
        for env, seen in (({}, "Bearer of-the-client"), ({"TRIMODE_REPLICA_KEY": "own"}, "Bearer own")):
            router = await start("--replica", replica.url, env=env)
            await router.until(200)
            headers = {"Authorization": "Bearer of-the-client"}
            await router.http.post("/v1/chat/completions", json=CHAT, headers=headers)
            call = next(call for call in reversed(replica.calls) if call.method == "POST")
            assert call.headers["authorization"] == seen


async def test_options_of_the_edge_and_of_keys(start: Any, tmp_path: Path) -> None:
    """Each is followed by the process; what they mean is tried elsewhere."""
    file, page = tmp_path / "keys.json", {"Origin": "https://page.example"}
    digest = sha256(b"of-the-tenant").hexdigest()
    file.write_text(json.dumps({"tenants": [{"name": "acme"}], "keys": [{"tenant": "acme", "sha256": digest}]}))
    async with FakeReplica(script=server) as replica:
        limits = ["--header-bytes", "2000", "--body-bytes", "3000", "--idle-seconds", "1"]
        plain = await start(
            "--replica", replica.url, *limits, "--cors-origin", page["Origin"], "--allowed-host", "a.example"
        )
        await plain.until(200)

        async def post(**more: Any) -> httpx.Response:
            answer: httpx.Response = await plain.http.post("/v1/chat/completions", **({"json": CHAT} | more))
            return answer

        assert (await post(headers={"x-large": "x" * 2000})).status_code == 431
        assert (await post(content=b" " * 3001)).status_code == 413
        assert (await post(headers=page)).headers["access-control-allow-origin"] == page["Origin"]
        assert [(await post(headers={"Host": f"{name}.example"})).status_code for name in "ab"] == [200, 403]
        reader, writer = await asyncio.open_connection("127.0.0.1", int(plain.url.rpartition(":")[2]))
        async with asyncio.timeout(20):
            assert await reader.read() == b""  # closed without a word
        writer.close()
        for told, seen in (([], None), (["--forward-client-keys"], "Bearer of-the-tenant")):
            router = await start("--replica", replica.url, "--keys", str(file), *told)
            await router.until(200)
            headers = {"Authorization": "Bearer of-the-tenant"}
            assert (await router.http.post("/v1/chat/completions", json=CHAT, headers=headers)).status_code == 200
            call = next(call for call in reversed(replica.calls) if call.method == "POST")
            assert call.headers.get("authorization") == seen


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--replica", "localhost:8000"], "http://HOST:PORT"),
        (["--replica", "https://x:1"], "http://HOST:PORT"),
        (["--replica", "http://me:secret@x:1"], "http://HOST:PORT"),
        (["--replica", "http://x:1/?a=b"], "http://HOST:PORT"),
        (["--replica", "http://x:1/a", "--replica", "http://x:1/a/v1/"], "is the same server as"),
        (["--replica", "http://x:1", "--cors-origin", "https://page.example/"], "SCHEME://HOST:PORT"),
        (["--replica", "http://127.0.0.1:1", "--host", "0.0.0.0"], "--keys"),
        (["--replica", "http://127.0.0.1:1", "--keys", "/none.json"], "No such file"),
        (["--replica", "http://127.0.0.1:1", "--forward-client-keys"], "goes without TRIMODE_REPLICA_KEY"),
    ],
)
async def test_bad_options(arguments: list[str], words: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "trimode_cli.main", "router", *arguments, stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"TRIMODE_REPLICA_KEY": "own"},
    )  # fmt: skip
    async with asyncio.timeout(30):
        _, err = await process.communicate()
    assert process.returncode == 2
    assert words in err.decode()
