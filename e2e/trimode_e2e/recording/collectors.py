"""What OpenTelemetry's collector gets from a router, and what it answers.

Belongs here: a `trimode router` before a server that is a double, the collector, and between them somebody who writes
down what passes. The collector writes what it has understood to files of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from trimode_e2e.collector import JSON, METRICS, PROTOBUF, RECORDED, TRACES, Exchange
from trimode_e2e.control.build import COLLECTOR, build
from trimode_e2e.control.plane import free_ports
from trimode_e2e.control.programs import Program
from trimode_e2e.crds import ROOT
from trimode_e2e.errors import Broken
from trimode_lab.doubles.replica.replica import Call, FakeReplica, polite

COMMAND = "PYTHONPATH=e2e python -m trimode_e2e record-collector"
PATIENCE_S = 60.0
HEADERS = "x-key=a%20b"
SECRET = "a secret"
CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": SECRET}], "max_tokens": 4}
ASKED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/chat/completions", CHAT | {"stream": True}),
    ("/v1/chat/completions", CHAT),
    ("/v1/completions", {"model": "tiny", "prompt": SECRET, "stream": True}),
    ("/v1/chat/completions", CHAT | {"max_tokens": 400}),
)
"""Two streams, a whole answer, and one that the server refuses."""
REFUSED = 400
"""The length of an answer that the server below does not give."""

Say = Callable[[str], None]


def record(say: Say) -> None:
    """Write `RECORDED`. Raises Missing and Broken."""
    program = build(COLLECTOR, say) / "otel-collector"
    with tempfile.TemporaryDirectory(prefix="trimode-") as folder:
        exchanges, received = asyncio.run(_record(program, Path(folder)))
    about = {
        "command": COMMAND,
        "otlpreceiver": COLLECTOR.version("go.opentelemetry.io/collector/receiver/otlpreceiver"),
        "fileexporter": COLLECTOR.version(
            "github.com/open-telemetry/opentelemetry-collector-contrib/exporter/fileexporter"
        ),
    }
    content = {"about": about, "exchanges": [each.told() for each in exchanges], "received": received}
    RECORDED.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    say(f"wrote {RECORDED.relative_to(ROOT)}: {len(exchanges)} exchanges")


async def story(call: Call) -> None:
    """A server that knows one model, and refuses one request."""
    if call.method == "GET":
        await call.answer({"object": "list", "data": [{"id": "tiny", "object": "model"}]})
    elif call.json.get("max_tokens") == REFUSED:
        await call.answer({"error": {"message": "no"}}, status=400)
    else:
        await polite(call)


async def _record(program: Path, folder: Path) -> tuple[list[Exchange], dict[str, Any]]:
    (port,) = free_ports(1)
    settings, files = folder / "collector.json", {path: folder / f"{path[4:]}.json" for path in (METRICS, TRACES)}
    settings.write_text(json.dumps(configuration(port, files)))
    running = Program.start("otel-collector", [str(program), "--config", str(settings)], folder / "collector.log")
    exchanges: list[Exchange] = []
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            await _until_answers(http, running)
            async with FakeReplica(script=story) as server, _between(http, exchanges) as url:
                await _use_a_router(f"http://127.0.0.1:{server.port}", url)
            unreadable = [await _pass(http, METRICS, kind, b"{no", {}) for kind in (PROTOBUF, JSON, "text/plain")]
    finally:
        running.stop()
    received = {path: [json.loads(line) for line in file.read_text().splitlines()] for path, file in files.items()}
    return exchanges + unreadable, received


def configuration(port: int, files: dict[str, Path]) -> dict[str, Any]:
    """Whatever comes by HTTP goes to a file of its kind."""
    exporters = {f"file/{path[4:]}": {"path": str(file)} for path, file in files.items()}
    return {
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": f"127.0.0.1:{port}"}}}},
        "exporters": exporters,
        "service": {
            "pipelines": {
                name.removeprefix("file/"): {"receivers": ["otlp"], "exporters": [name]} for name in exporters
            }
        },
    }


async def _until_answers(http: aiohttp.ClientSession, running: Program) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                async with http.get("/"):
                    return
            except aiohttp.ClientError as exc:
                if not running.alive():
                    raise Broken(f"the collector ended:\n{running.log_end()}") from exc
                await asyncio.sleep(0.1)


@asynccontextmanager
async def _between(http: aiohttp.ClientSession, exchanges: list[Exchange]) -> AsyncIterator[str]:
    """The URL of a server that hands everything on to the collector, and back."""

    async def hand_on(request: web.Request) -> web.Response:
        body, extra = await request.read(), {"x-key": request.headers["x-key"]}
        done = await _pass(http, request.path, request.headers["content-type"], body, extra)
        exchanges.append(done)
        return web.Response(status=done.status, body=done.answer, headers={"content-type": done.answer_type})

    app = web.Application()
    app.router.add_post("/{path:.*}", hand_on)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def _pass(
    http: aiohttp.ClientSession, path: str, content_type: str, body: bytes, extra: dict[str, str]
) -> Exchange:
    async with http.post(path, data=body, headers={"content-type": content_type, **extra}) as answer:
        kind = answer.headers.get("content-type", "")
        return Exchange(path, content_type, body, answer.status, kind, await answer.read())


async def _use_a_router(server: str, collector: str) -> None:
    """From its start to its end, at which it tells what it has counted."""
    telemetry = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
        "OTEL_EXPORTER_OTLP_HEADERS": HEADERS,
        "OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=router-1",
    }
    command = (sys.executable, "-m", "trimode_cli.main", "router", "--port", "0", "--replica", server)
    router = await asyncio.create_subprocess_exec(
        *command, stdout=PIPE, stderr=DEVNULL, env={**os.environ, **telemetry}
    )
    assert router.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE_S):
            told = json.loads(await router.stdout.readline())
            async with aiohttp.ClientSession(told["url"]) as http:
                while (await _status(http, "GET", "/readyz", None)) != 200:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.1)
                answered = [await _status(http, "POST", path, body) for path, body in ASKED]
            if answered != [200, 200, 200, 400]:
                raise Broken(f"the router answered {answered}")
            router.send_signal(signal.SIGTERM)
            await router.wait()
    finally:
        if router.returncode is None:
            router.kill()
            await router.wait()


async def _status(http: aiohttp.ClientSession, method: str, path: str, body: Any) -> int:
    async with http.request(method, path, json=body) as answer:
        await answer.read()
        return answer.status
