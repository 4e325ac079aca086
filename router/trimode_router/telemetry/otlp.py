"""Posts metrics of OpenTelemetry's SDK as OTLP over HTTP, in protobuf.

The SDK's own exporter for this brings `requests` along, and a loop of retries that would hold up the end of the process
for a minute; what there is to encode are histograms.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import structlog
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AGGREGATION_TEMPORALITY_CUMULATIVE,
    Histogram,
    HistogramDataPoint,
    Metric,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.sdk.metrics.export import Histogram as SdkHistogram
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData

_TIMEOUT_S = 5.0


class HttpExporter(MetricExporter):
    """To `endpoint`, with `headers`. Says in the log when that stops working, once for each outage."""

    def __init__(self, endpoint: str, headers: Mapping[str, str]) -> None:
        super().__init__()
        self._endpoint = endpoint
        self._headers = {**headers, "Content-Type": "application/x-protobuf"}
        self._failing = False

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: Any) -> MetricExportResult:
        body = encoded(metrics_data)
        request = urllib.request.Request(self._endpoint, body, self._headers)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S):
                self._failing = False
        except (OSError, ValueError) as error:
            if not self._failing:
                structlog.get_logger("otlp").warning("not exported", endpoint=self._endpoint, problem=str(error))
            self._failing = True
            return MetricExportResult.FAILURE
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        """Nothing is kept open."""


def encoded(data: MetricsData) -> bytes:
    """The body of an ExportMetricsServiceRequest: histograms, cumulative."""
    resources = []
    for resource in data.resource_metrics:
        scopes = []
        for scope in resource.scope_metrics:
            metrics = []
            for each in scope.metrics:
                if not isinstance(each.data, SdkHistogram):
                    continue
                points = [
                    HistogramDataPoint(
                        attributes=_attributes(point.attributes),
                        start_time_unix_nano=point.start_time_unix_nano,
                        time_unix_nano=point.time_unix_nano,
                        count=point.count,
                        sum=point.sum,
                        bucket_counts=point.bucket_counts,
                        explicit_bounds=point.explicit_bounds,
                        min=point.min,
                        max=point.max,
                    )
                    for point in each.data.data_points
                ]
                histogram = Histogram(data_points=points, aggregation_temporality=AGGREGATION_TEMPORALITY_CUMULATIVE)
                unit, description = each.unit or "", each.description or ""
                metrics.append(Metric(name=each.name, unit=unit, description=description, histogram=histogram))
            about_scope = InstrumentationScope(name=scope.scope.name, version=scope.scope.version or "")
            scopes.append(ScopeMetrics(scope=about_scope, metrics=metrics))
        about = Resource(attributes=_attributes(resource.resource.attributes))
        resources.append(ResourceMetrics(resource=about, scope_metrics=scopes))
    body: bytes = ExportMetricsServiceRequest(resource_metrics=resources).SerializeToString()
    return body


def _attributes(values: Mapping[str, Any] | None) -> list[KeyValue]:
    return [
        KeyValue(
            key=key, value=AnyValue(int_value=value) if isinstance(value, int) else AnyValue(string_value=str(value))
        )
        for key, value in (values or {}).items()
    ]
