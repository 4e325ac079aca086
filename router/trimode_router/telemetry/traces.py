"""OpenTelemetry traces over OTLP/HTTP (JSON), when an endpoint is configured in the standard variables.

Spans of requests are made from their records at their end, and exported in batches. Without an endpoint nothing of
this runs. A client's `traceparent` is continued; what goes on to the replica names the router's span.

Not by OpenTelemetry's SDK: a span of it costs 117 us of processor time, one of these 31, and a whole request some 400
(medians of 11 rounds of 1,000 in turns, Python 3.11, opentelemetry-sdk 1.45.2).
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import structlog

from trimode_router.request.exchange import Exchange
from trimode_router.telemetry.environment import Telemetry

_PARENT = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_SAMPLED = 0x01
EXPORT_SECONDS = 2.0
# Both numbers as the SDK's own batch processor has them by default.
_MOST_KEPT = 2048
"""Spans that wait for an exporter; beyond it the oldest are lost."""
_MOST_SENT = 512
_SERVER, _OK, _ERROR = 2, 1, 2


@dataclass(frozen=True, slots=True)
class Context:
    """A span's place in its trace, as hexadecimal text; `parent` empty for a trace's first."""

    trace: str
    span: str
    parent: str

    @classmethod
    def of(cls, traceparent: bytes | None) -> Context | None:
        """A new span below the client's, or of a trace of its own; None where the client's is not sampled."""
        found = None if traceparent is None else _PARENT.fullmatch(traceparent)
        if found is None:
            return cls(secrets.token_hex(16), secrets.token_hex(8), "")
        if not int(found[3], 16) & _SAMPLED:
            return None
        return cls(found[1].decode(), secrets.token_hex(8), found[2].decode())

    @property
    def header(self) -> bytes:
        return f"00-{self.trace}-{self.span}-01".encode()


class Traces:
    """Collects spans, and posts them. `now` is the records' clock, `wall` gives Unix seconds."""

    def __init__(self, telemetry: Telemetry, now: Callable[[], float], wall: Callable[[], float]) -> None:
        self._to = telemetry.traces
        self.on = bool(self._to.endpoint)
        self._resource = [_attribute(name, value) for name, value in telemetry.resource.items()]
        self._now, self._wall = now, wall
        self._spans: deque[dict[str, Any]] = deque(maxlen=_MOST_KEPT)
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    def begin(self, passed: tuple[tuple[bytes, bytes], ...]) -> tuple[Context | None, tuple[tuple[bytes, bytes], ...]]:
        """The span of a request with these fields, and the fields that go on."""
        parent = next((value for name, value in passed if name == b"traceparent"), None)
        context = Context.of(parent)
        if context is None:
            return None, passed
        return context, ((b"traceparent", context.header), *(f for f in passed if f[0] != b"traceparent"))

    def end(self, exchange: Exchange, context: Context) -> None:
        """Its request is over. Nothing of prompt or answer goes into the span."""
        record, ended = exchange.record, self._now()
        offset = self._wall() - ended
        attributes = {
            "http.request.method": "POST",
            "url.path": exchange.request.path,
            "http.response.status_code": record.status,
            "gen_ai.request.model": exchange.asked.model,
            "gen_ai.usage.output_tokens": record.tokens,
            "trimode.request_id": exchange.request.request_id,
            "trimode.tier": exchange.tier.name,
            "trimode.replica": record.replica_id,
            "trimode.attempts": record.attempts,
            "trimode.resumptions": record.resumptions,
            "trimode.queue_seconds": record.queue_wait,
        }
        first = record.first_byte
        events = [] if first is None else [{"name": "first byte", "timeUnixNano": _nanos(first + offset)}]
        span = {
            "traceId": context.trace,
            "spanId": context.span,
            "name": f"POST {exchange.request.path}",
            "kind": _SERVER,
            "startTimeUnixNano": _nanos(record.started + offset),
            "endTimeUnixNano": _nanos(ended + offset),
            "attributes": [_attribute(name, value) for name, value in attributes.items() if value not in (None, "")],
            "events": events,
            "status": {"code": _OK if record.status in ("200", "client_gone") else _ERROR},
        }
        if context.parent:
            span["parentSpanId"] = context.parent
        self._spans.append(span)

    async def start(self) -> None:
        if self.on:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10), headers=self._to.headers)
            self._task = asyncio.ensure_future(self._export_forever())

    async def stop(self) -> None:
        """Send what is left."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._export()
        await self._session.close()

    async def _export_forever(self) -> None:
        while True:
            await asyncio.sleep(EXPORT_SECONDS)
            await self._export()

    async def _export(self) -> None:
        while self._spans:
            batch = [self._spans.popleft() for _ in range(min(_MOST_SENT, len(self._spans)))]
            try:
                scopes = [{"scope": {"name": "trimode_router"}, "spans": batch}]
                about = {"resource": {"attributes": self._resource}, "scopeSpans": scopes}
                async with self._session.post(self._to.endpoint, json={"resourceSpans": [about]}) as response:
                    response.raise_for_status()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                # Once for each outage: a collector that is away for a day must not fill the log.
                if not self._failing:
                    log = structlog.get_logger("traces")
                    log.warning("not exported", endpoint=self._to.endpoint, problem=str(error))
                self._failing = True
                return
            self._failing = False


def _nanos(seconds: float) -> str:
    return str(int(seconds * 1e9))


def _attribute(name: str, value: object) -> dict[str, Any]:
    if isinstance(value, int):
        return {"key": name, "value": {"intValue": str(value)}}
    if isinstance(value, float):
        return {"key": name, "value": {"doubleValue": value}}
    return {"key": name, "value": {"stringValue": str(value)}}
