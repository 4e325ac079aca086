"""Numbers of several processes on one port, added up."""

from __future__ import annotations

from typing import Any

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from trimode_router.telemetry.metrics import Metrics
from trimode_router.telemetry.shares import Share


def counted(ok: int, seconds: float, retries: int) -> Metrics:
    metrics = Metrics()
    metrics.requests.labels("standard", "200").inc(ok)
    metrics.whole.labels("standard", "AR", "chat").observe(seconds)
    metrics.retries.inc(retries)
    return metrics


def samples(text: bytes) -> dict[tuple[str, str], float]:
    """By name and the value of the first label of interest."""
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            which = sample.labels.get("le") or sample.labels.get("replica") or sample.labels.get("status") or ""
            found[sample.name, which] = sample.value
    return found


async def test_the_sum_of_two(house: Any) -> None:
    view = house.router.viewer.fleet()
    one, two = counted(3, 0.2, 1), counted(4, 0.7, 0)
    two.requests.labels("standard", "503").inc(2)
    sent = msgspec.json.decode(msgspec.json.encode(two.share(view)), type=Share)
    sent.in_flight["r1"] = 5
    whole, alone = samples(one.text(view, [sent])), samples(one.text(view))
    assert whole.keys() == alone.keys() | {("trimode_router_requests_total", "503")}
    assert whole["trimode_router_requests_total", "200"] == 7
    assert whole["trimode_router_requests_total", "503"] == 2
    assert whole["trimode_router_retries_total", ""] == 1
    assert whole["trimode_router_request_seconds_bucket", "0.25"] == 1
    assert whole["trimode_router_request_seconds_bucket", "1.0"] == 2
    assert abs(whole["trimode_router_request_seconds_sum", ""] - 0.9) < 1e-9
    assert whole["trimode_replica_in_flight", "r1"] == 5
    assert whole["trimode_replica_ready", "r1"] == 1
    assert whole["trimode_router_retries_created", ""] == alone["trimode_router_retries_created", ""]


async def test_names_types_and_words_stay(house: Any) -> None:
    view = house.router.viewer.fleet()
    one, two = counted(1, 0.1, 1), counted(1, 0.1, 1)

    def heads(text: bytes) -> list[str]:
        return sorted(line for line in text.decode().splitlines() if line.startswith("#"))

    assert heads(one.text(view, [two.share(view)])) == heads(one.text(view))
