"""A double of OpenTelemetry's collector: takes OTLP over HTTP and tells what it has understood, as JSON.

Belongs here: reading and answering. Both are what the collector did that `recording.collectors` ran: answers are the
recorded ones, and a test holds the reading to the recording. `python -m trimode_e2e.collector --config FILE` stands
for a collector with an OTLP receiver and file exporters.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from trimode_e2e.control.build import COLLECTOR, E2E

RECORDED = E2E / COLLECTOR.folder / "recorded.json"
METRICS, TRACES = "/v1/metrics", "/v1/traces"
PROTOBUF, JSON = "application/x-protobuf", "application/json"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request to a collector and its answer."""

    path: str
    content_type: str
    body: bytes
    status: int
    answer_type: str
    answer: bytes

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Exchange:
        return cls(**{**told, **{key: base64.b64decode(told[key]) for key in ("body", "answer")}})

    def told(self) -> dict[str, Any]:
        """For a file in JSON."""
        text = {key: base64.b64encode(getattr(self, key)).decode() for key in ("body", "answer")}
        return {name: getattr(self, name) for name in self.__slots__} | text


def exchanges() -> list[Exchange]:
    """What passed between a router and the collector, and then what it said of bodies that it cannot read."""
    return [Exchange.of(each) for each in json.loads(RECORDED.read_text())["exchanges"]]


def received() -> dict[str, list[dict[str, Any]]]:
    """By path: what the collector understood of it, as it wrote it down."""
    found: dict[str, list[dict[str, Any]]] = json.loads(RECORDED.read_text())["received"]
    return found


def understood(content_type: str, body: bytes) -> dict[str, Any] | None:
    """Metrics in protobuf, and anything in JSON, as the collector writes it; None for what cannot be read."""
    try:
        if content_type == JSON:
            return dict(json.loads(body))
        message = ExportMetricsServiceRequest.FromString(body)
    except (ValueError, DecodeError):
        return None
    found: dict[str, Any] = MessageToDict(message, use_integers_for_enums=True)
    return found


@dataclass
class Collector:
    """`posted` are fields and what was understood, by path; `taken` is told of it, too. `url` has no path."""

    taken: Callable[[str, dict[str, Any]], None] = lambda path, found: None
    posted: dict[str, list[tuple[Mapping[str, str], dict[str, Any]]]] = field(
        default_factory=lambda: {METRICS: [], TRACES: []}
    )
    url: str = ""

    @asynccontextmanager
    async def running(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Collector]:
        answers = {(each.content_type, each.status): each for each in exchanges()}

        async def answer(request: web.Request) -> web.Response:
            kind = request.content_type
            if kind not in (PROTOBUF, JSON):
                said = answers["text/plain", 415]
            elif (found := understood(kind, await request.read())) is None:
                said = answers[kind, 400]
            else:
                said = answers[kind, 200]
                self.posted[request.path].append((request.headers, found))
                self.taken(request.path, found)
            return web.Response(status=said.status, body=said.answer, content_type=said.answer_type)

        app = web.Application()
        for path in self.posted:
            app.router.add_post(path, answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
            self.url = f"http://{host}:{runner.addresses[0][1]}"
            yield self
        finally:
            await runner.cleanup()


async def main() -> None:
    """Until the process is ended. Every file gets a line for each request of its pipeline's kind."""
    words = argparse.ArgumentParser()
    words.add_argument("--config", required=True, type=Path)
    settings = yaml.safe_load(words.parse_args().config.read_text())
    host, _, port = settings["receivers"]["otlp"]["protocols"]["http"]["endpoint"].rpartition(":")

    def write(path: str, found: dict[str, Any]) -> None:
        pipeline = settings["service"]["pipelines"].get(path.rpartition("/")[2], {"exporters": []})
        for name in pipeline["exporters"]:
            with Path(settings["exporters"][name]["path"]).open("a") as file:
                file.write(json.dumps(found, separators=(",", ":")) + "\n")

    async with Collector(write).running(host, int(port)):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
