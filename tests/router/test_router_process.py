"""The router as a process: its line on stdout, its exit codes, its drain."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from trimode_api.wire import REPORT_PATH, TOKEN_VARIABLE, RouterConfig
from trimode_lab.doubles.replica.replica import FakeReplica
from trimode_router.__main__ import main
from trimode_router.edge.server import Router

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": True}
TOKEN = "s3cret-of-the-fleet"


class Process:
    """A router process; `listening` is the line it printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.listening: dict[str, str] = {}

    async def wait_until_listening(self) -> None:
        assert self.process.stdout is not None
        async with asyncio.timeout(30):
            self.listening = json.loads(await self.process.stdout.readline())

    async def ended(self) -> tuple[int, str]:
        """Exit code and stderr."""
        async with asyncio.timeout(30):
            _, err = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, err.decode()


@pytest.fixture
async def spawn(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    started: list[Process] = []

    async def make(config: RouterConfig) -> Process:
        file = tmp_path / "router.json"
        file.write_bytes(config.to_wire())
        environment = os.environ | {TOKEN_VARIABLE: TOKEN}
        command = [sys.executable, "-m", "trimode_router", "--config", str(file)]
        pipe = asyncio.subprocess.PIPE
        process = Process(await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=environment))
        started.append(process)
        return process

    yield make
    for process in started:
        if process.process.returncode is None:
            process.process.kill()
            await process.process.communicate()


@pytest.fixture
def config(make_policy: Any) -> RouterConfig:
    return RouterConfig(name="demo", model="tiny", port=0, policy=make_policy())


async def test_sigterm_finishes_streams_and_exits_0(spawn: Any, config: RouterConfig) -> None:
    process = await spawn(config)
    await process.wait_until_listening()
    assert process.listening["event"] == "listening"
    base, internal = process.listening["url"], process.listening["internalUrl"]
    assert process.listening["address"] == base.removeprefix("http://")

    async def script(call: Any) -> None:
        await call.begin()
        await call.say("one")
        await call.go.wait()
        await call.end()

    async with FakeReplica(script=script) as replica, httpx.AsyncClient(verify=False, timeout=10) as client:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        report = replica.report().to_wire()
        assert (await client.post(internal + REPORT_PATH, content=report, headers=headers)).status_code == 200
        assert (await client.get(base + "/readyz")).status_code == 200
        async with (
            httpx.AsyncClient(base_url=base, verify=False) as kept,
            client.stream("POST", base + "/v1/chat/completions", json=CHAT) as response,
        ):
            # A request under way on a second connection, so that it survives the end of listening.
            lines = response.aiter_lines()
            assert "one" in await anext(lines)
            other = asyncio.ensure_future(kept.post("/v1/chat/completions", json=CHAT))
            await replica.next_call()
            second = await replica.next_call()
            process.process.send_signal(signal.SIGTERM)
            await _refused(base)
            second.go.set()
            assert (await other).status_code == 200
            replica.calls[0].go.set()
            rest = [line async for line in lines if line]
        assert rest[-1] == "data: [DONE]"
    code, err = await process.ended()
    assert code == 0
    events = [json.loads(line)["event"] for line in err.splitlines()]
    assert events[0] == "listening"
    assert events[-2:] == ["draining", "stopped"]
    assert TOKEN not in err
    assert '"hi"' not in err


async def _refused(base: str) -> None:
    """Wait until the public port takes no more connections."""
    host, port = base.removeprefix("http://").split(":")
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except ConnectionRefusedError:
                return
            except ConnectionResetError:
                continue  # it waited to be accepted when the port closed
            writer.close()
            await asyncio.sleep(0.01)


async def test_a_drain_has_an_end(spawn: Any, make_policy: Any) -> None:
    policy = make_policy(drain_timeout_seconds=1)
    process = await spawn(RouterConfig(name="demo", model="tiny", port=0, policy=policy))
    await process.wait_until_listening()

    async def hang(call: Any) -> None:
        await call.begin()
        await call.say("one")
        await call.gone.wait()

    async with FakeReplica(script=hang) as replica, httpx.AsyncClient(verify=False, timeout=10) as client:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        internal = process.listening["internalUrl"] + REPORT_PATH
        await client.post(internal, content=replica.report().to_wire(), headers=headers)
        async with client.stream("POST", process.listening["url"] + "/v1/chat/completions", json=CHAT) as response:
            lines = response.aiter_lines()
            await anext(lines)
            process.process.send_signal(signal.SIGTERM)
            with pytest.raises(httpx.HTTPError):
                [line async for line in lines]
    code, _ = await process.ended()
    assert code == 1


async def test_a_port_in_use_is_one_line_and_exit_2(spawn: Any, config: RouterConfig) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = await spawn(config.model_copy(update={"port": port}))
        code, err = await process.ended()
    assert code == 2
    (line,) = err.splitlines()
    assert f"127.0.0.1:{port}" in line
    assert "in use" in line


async def test_an_internal_port_in_use_leaves_the_public_port_free(make_policy: Any) -> None:
    with socket.socket() as taken, socket.socket() as free:
        for one in (taken, free):
            one.bind(("127.0.0.1", 0))
        taken.listen()
        public, internal = free.getsockname()[1], taken.getsockname()[1]
        free.close()
        config = RouterConfig(name="demo", model="tiny", port=public, internal_port=internal, policy=make_policy())
        router = Router(config, TOKEN, now=lambda: 0.0, wall=lambda: 0.0)
        with pytest.raises(OSError, match="in use"):
            await router.start()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", public)


@pytest.mark.parametrize(
    ("content", "message"), [(b"{", "JSON"), (b'{"name": "x"}', "model: is required"), (b'{"port": "a"}', "port: ")]
)
def test_bad_configuration(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
    message: str,
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    file = tmp_path / "router.json"
    file.write_bytes(content)
    assert main(["--config", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    assert main(["--config", str(tmp_path / "none.json")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert main(["--config", str(tmp_path / "none.json")]) == 2
    assert TOKEN_VARIABLE in capsys.readouterr().err
