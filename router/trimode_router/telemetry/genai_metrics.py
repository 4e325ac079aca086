"""OpenTelemetry's metrics of generative AI servers, beside our own: recorded by its SDK, exported over OTLP.

Names, units, attributes and bounds of buckets are those of open-telemetry/semantic-conventions-genai
(docs/gen-ai/gen-ai-metrics.md, "model server metrics"; still in development there). Without an endpoint in the standard
variables nothing of this is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import structlog

from trimode_router.request.exchange import Exchange
from trimode_router.request.parse import TEXT_PATH
from trimode_router.telemetry.environment import Telemetry

PROVIDER = "trimode"
"""No well-known provider applies."""
DURATION_BOUNDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
PER_TOKEN_BOUNDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
FIRST_TOKEN_BOUNDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


class GenAiMetrics:
    """Records exchanges that are over. `now` in seconds of the records' clock. Exports every minute, or as
    OTEL_METRIC_EXPORT_INTERVAL (milliseconds) says, in a thread of its own."""

    def __init__(self, telemetry: Telemetry, now: Callable[[], float]) -> None:
        self._now = now
        self._provider: Any = None
        if not telemetry.metrics.endpoint:
            return
        try:
            from opentelemetry.sdk.metrics import MeterProvider
            from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
            from opentelemetry.sdk.resources import Resource

            from trimode_router.telemetry.otlp import HttpExporter
        except ImportError as error:
            structlog.get_logger("otlp").warning("no metrics", problem=f"{error}: pip install 'trimode[otel]'")
            return
        about = {"service.version": version("trimode"), **telemetry.resource}
        reader = PeriodicExportingMetricReader(HttpExporter(telemetry.metrics.endpoint, telemetry.metrics.headers))
        # `stop` ends it, within 5 s. The SDK's own hook at the end of the process would come second and warn, or
        # wait for up to 30 s.
        self._provider = MeterProvider([reader], Resource(about), shutdown_on_exit=False)
        meter = self._provider.get_meter("trimode_router", version("trimode"))
        self._duration, self._per_token, self._first_token = (
            meter.create_histogram(f"gen_ai.server.{what}", "s", about, explicit_bucket_boundaries_advisory=bounds)
            for what, about, bounds in (
                ("request.duration", "Time from the request to the end of its answer.", DURATION_BOUNDS),
                ("time_per_output_token", "Time per output token after the first, of good answers.", PER_TOKEN_BOUNDS),
                ("time_to_first_token", "Time to the first token, of good answers.", FIRST_TOKEN_BOUNDS),
            )
        )

    @property
    def on(self) -> bool:
        return self._provider is not None

    def record(self, exchange: Exchange) -> None:
        """An exchange is over. `error.type` is the HTTP status, or what cut it short: `client_gone`, `broken`."""
        record, now = exchange.record, self._now()
        attributes: dict[str, str] = {
            "gen_ai.operation.name": "text_completion" if exchange.request.path == TEXT_PATH else "chat",
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": exchange.asked.model,
        }
        well = record.status == "200"
        if well:
            attributes["gen_ai.response.model"] = exchange.asked.model
        else:
            attributes["error.type"] = record.status
        self._duration.record(now - record.started, attributes)
        # The first byte of an answer that is no stream is its last.
        if not well or not record.stream or record.first_byte is None:
            return
        self._first_token.record(record.first_byte - record.started, attributes)
        if record.tokens is not None and record.tokens > 1:
            self._per_token.record((now - record.first_byte) / (record.tokens - 1), attributes)

    def stop(self) -> None:
        """Send what is left; takes up to some seconds."""
        if self._provider is not None:
            self._provider.shutdown(5_000)
