"""The names of the metrics, which dashboards and alerts rely on."""

from __future__ import annotations

import re
from pathlib import Path

from trimode_operator.errors import ApiFailure, NameTaken, NotMade, reason_of
from trimode_operator.metrics import Metrics

NAMES = {
    "trimode_operator_leader",
    "trimode_operator_policy_pushes",
    "trimode_operator_queue_depth",
    "trimode_operator_reconcile_errors",
    "trimode_operator_reconcile_seconds",
    "trimode_operator_resources",
    "trimode_operator_watch_age_seconds",
    "trimode_operator_writes",
}
ALERTS = Path(__file__).parents[3] / "charts" / "trimode" / "files" / "alerts.yaml"


def test_names_are_pinned() -> None:
    assert {family.name for family in Metrics().registry.collect()} == NAMES


def test_alerts_ask_for_metrics_that_exist() -> None:
    asked = set(re.findall(r"trimode_operator_\w+", ALERTS.read_text()))
    assert asked
    assert {name.removesuffix("_total") for name in asked} <= NAMES


def test_resources_are_counted_by_condition_and_forgotten_when_gone() -> None:
    metrics = Metrics()
    metrics.count_resources([{"Ready": "True"}, {"Ready": "False"}, {"Ready": "True"}])
    value = metrics.registry.get_sample_value
    assert value("trimode_operator_resources", {"condition": "Ready", "status": "True"}) == 2.0
    metrics.count_resources([{"Ready": "True"}])
    assert value("trimode_operator_resources", {"condition": "Ready", "status": "False"}) is None


def test_errors_have_reasons() -> None:
    assert reason_of(ApiFailure(403, "Forbidden", "no")) == "Forbidden"
    assert reason_of(ApiFailure(502, "", "bad gateway")) == "Http502"
    assert reason_of(NotMade([NameTaken("x"), ApiFailure(403, "Forbidden", "no")])) == "NameTaken"
    assert reason_of(TimeoutError()) == "Timeout"
    assert reason_of(KeyError("x")) == "KeyError"
