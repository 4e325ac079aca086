"""Wire messages: pinned names, and tolerance of newer senders."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from trimode_api.errors import ApiError, error_body
from trimode_api.wire import Command, DecisionReport, ReplicaReport, ReportAnswer

REPORT = ReplicaReport(
    replica_id="r1", pool="flex", url="http://127.0.0.1:9000", model="tiny", sequence=1, ready=True,
    running=2, waiting=0, max_running=64, queued_prompt_tokens=0, cached_tokens=10, capacity_tokens=1000,
    max_context_tokens=1024, point="S8", decision=DecisionReport(point="S8", reason="PredictedGain", age_seconds=1.5),
    switches=1, tokens_per_second=900.0, policy_version=3,
)  # fmt: skip


def test_round_trip_in_camel_case() -> None:
    data = json.loads(REPORT.to_wire())
    assert data["replicaId"] == "r1"
    assert data["decision"]["ageSeconds"] == 1.5
    assert ReplicaReport.from_wire(REPORT.to_wire()) == REPORT


def test_a_newer_sender_may_say_more() -> None:
    assert ReplicaReport.from_wire(json.dumps(json.loads(REPORT.to_wire()) | {"novelty": 1})) == REPORT


@pytest.mark.parametrize("change", [{"point": "S9"}, {"running": -1}, {"sequence": None}, {"replicaId": ""}])
def test_a_wrong_report_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ReplicaReport.from_wire(json.dumps(json.loads(REPORT.to_wire()) | change))


def test_an_empty_answer_asks_nothing() -> None:
    assert ReportAnswer.from_wire(b"{}") == ReportAnswer(policy=None, command=Command.NONE)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (401, "authentication_error"), (404, "not_found_error"),
     (429, "rate_limit_error"), (500, "server_error"), (503, "server_error")],
)  # fmt: skip
def test_error_types_follow_the_status(status: int, kind: str) -> None:
    assert error_body(status, "no") == {"error": {"message": "no", "type": kind, "param": None, "code": None}}


def test_api_error_carries_its_body() -> None:
    error = ApiError(429, "busy", code="queue_full", retry_after_s=2)
    assert error.body()["error"]["code"] == "queue_full"
    assert error.retry_after_s == 2
