"""What the live line says, and when a log line is worth it."""

import io
from typing import Any

from rich.console import Console

from trimode_api.fleet import FleetView
from trimode_local.status_line import QUIET_S, LiveLine, Summary, as_text, summary_of


def fleet(*points: str, running: int = 3, queued: int = 1) -> FleetView:
    replicas = [replica(number, point) for number, point in enumerate(points)]
    return FleetView.model_validate(
        {
            "name": "tiny",
            "model": "tiny",
            "time": 0.0,
            "policyVersion": 4,
            "defaultTier": "standard",
            "tiers": [],
            "switching": {"marginPercent": 5, "minDwellMilliseconds": 200, "fallback": {"flex": "AR"}},
            "pools": [
                {
                    "name": "flex",
                    "points": ["AR", "S8"],
                    "replicas": len(points),
                    "ready": len(points),
                    "running": running,
                    "waiting": 2,
                    "tokensPerSecond": 1234.6,
                    "shares": {},
                }
            ],
            "replicas": replicas,
            "router": {
                "inFlight": 0,
                "queued": queued,
                "oldestWaitSeconds": 0,
                "finishedTotal": 0,
                "refusedTotal": 0,
                "draining": False,
            },
            "decisions": [],
            "refusals": [],
        }
    )


def replica(number: int, point: str, freshness: str = "Fresh") -> dict[str, Any]:
    return {
        "replicaId": f"r{number}",
        "pool": "flex",
        "url": "http://127.0.0.1:1",
        "ready": True,
        "draining": False,
        "freshness": freshness,
        "cooling": False,
        "ageSeconds": 0.1,
        "inFlight": 0,
        "running": 1,
        "waiting": 0,
        "maxRunning": 8,
        "queuedPromptTokens": 0,
        "cachedTokens": 0,
        "capacityTokens": 100,
        "point": point,
        "decision": {"point": point, "reason": f"Because{point}", "ageSeconds": 1},
        "allowedPoints": ["AR", "S8"],
        "points": [],
        "switches": 2,
        "preemptions": 0,
        "tokensPerSecond": 10,
        "policyVersion": 4,
    }


def seen(**changed: Any) -> Summary:
    values: dict[str, Any] = {
        "ready": 1,
        "replicas": 1,
        "running": 0,
        "queued": 0,
        "point": "AR",
        "reason": "Idle",
        "tokens_per_second": 0.0,
        "switches": 0,
        "policy_version": 1,
    }
    return Summary(**{**values, **changed})


def test_a_glance_adds_up_the_fleet() -> None:
    assert summary_of(fleet("S8", "AR", "S8")) == Summary(3, 3, 3, 3, "S8", "BecauseS8", 1234.6, 6, 4)


def test_a_glance_at_nothing() -> None:
    assert summary_of(fleet(running=0, queued=0)).point == "-"


def test_the_line_reads_well() -> None:
    text = as_text(
        seen(running=64, queued=2, point="S16", reason="PredictedGain", tokens_per_second=8120.4, switches=1)
    )
    assert text.plain.split() == [
        "●",
        "64",
        "running",
        "2",
        "queued",
        "S16",
        "PredictedGain",
        "8120",
        "tok/s",
        "1",
        "switch",
    ]


def test_the_line_says_who_is_missing() -> None:
    assert "1 of 2 replicas ready" in as_text(seen(ready=1, replicas=2)).plain


def test_elsewhere_than_on_a_terminal_only_news_is_a_line() -> None:
    stream = io.StringIO()
    live = LiveLine(Console(file=stream, width=200))

    def lines_after(summary_of: Summary, now: float) -> int:
        live.show(summary_of, now)
        return stream.getvalue().count("\n")

    assert lines_after(seen(), 0) == 1
    assert lines_after(seen(), 1) == 1
    assert lines_after(seen(), 1000) == 1  # idle: silence
    assert lines_after(seen(running=1), 1001) == 2
    assert lines_after(seen(running=5), 1002) == 2  # more load alone is no news
    assert lines_after(seen(running=5, point="S16", reason="Probe"), 1003) == 2  # a probe is none either
    assert lines_after(seen(running=5, point="S8"), 1003) == 3
    assert lines_after(seen(running=5, point="S8"), 1003 + QUIET_S) == 4
    live.close()


def test_on_a_terminal_the_line_is_drawn_in_place() -> None:
    stream = io.StringIO()
    live = LiveLine(Console(file=stream, force_terminal=True, width=100, color_system=None))
    live.show(seen(point="S32"), 0)
    live.say("applied")
    live.close()
    assert "S32" in stream.getvalue()
    assert "applied" in stream.getvalue()
