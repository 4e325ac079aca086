"""Where OpenTelemetry's signals go and what they say about this process, by its standard variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal's `endpoint`, empty for nowhere, and the fields that are sent along."""

    endpoint: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What is exported. `resource` are the attributes of this process: among all that export to one collector its
    `service.instance.id` has to be its own, since metrics of the same instance take each other's place there."""

    traces: Signal = Signal()
    metrics: Signal = Signal()
    resource: Mapping[str, str] = field(default_factory=dict)


def telemetry_of(environment: Mapping[str, str], resource: Mapping[str, str]) -> Telemetry:
    """By the variables of OpenTelemetry's specification; `resource` is what holds where they say nothing else."""
    said = _pairs(environment.get("OTEL_RESOURCE_ATTRIBUTES", ""))
    if name := environment.get("OTEL_SERVICE_NAME"):
        said["service.name"] = name  # wins over the attributes, the specification says
    return Telemetry(_signal(environment, "traces"), _signal(environment, "metrics"), {**resource, **said})


def _signal(environment: Mapping[str, str], name: str) -> Signal:
    capitals = name.upper()
    off = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if off or environment.get(f"OTEL_{capitals}_EXPORTER", "otlp") != "otlp":
        return Signal()
    # OTLP's specification: a signal's own endpoint is the whole address, to the common one the signal's path is added.
    exact = environment.get(f"OTEL_EXPORTER_OTLP_{capitals}_ENDPOINT", "")
    base = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    headers = environment.get(f"OTEL_EXPORTER_OTLP_{capitals}_HEADERS") or environment.get(
        "OTEL_EXPORTER_OTLP_HEADERS", ""
    )
    endpoint = exact or (f"{base.rstrip('/')}/v1/{name}" if base else "")
    return Signal(endpoint, _pairs(headers))


def _pairs(text: str) -> dict[str, str]:
    """`name=value,name=value`, values percent-encoded."""
    pairs = (each.partition("=") for each in text.split(",") if "=" in each)
    return {name.strip(): unquote(value.strip()) for name, _, value in pairs}
