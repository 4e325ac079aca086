"""`kubectl trimode`, with a kubectl that notes what it is asked and answers from a file."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from trimode_api.fleet import FleetView
from trimode_cli import kubectl
from trimode_local.errors import BadInput, CliError

RESOURCE: dict[str, Any] = {
    "status": {
        "url": "http://tiny-router.llm.svc:8000/v1",
        "conditions": [{"type": "Ready", "status": "True", "reason": "AsSpecified", "message": "all pools"}],
        "pools": [{"name": "flex", "replicas": 2, "ready": 1, "points": [{"point": "S8", "sharePercent": 100}]}],
        "decision": {"point": "S8", "reason": "PredictedGain", "since": "2026-11-28T12:00:00Z"},
    }
}
SCRIPT = """#!/bin/sh
printf '%s\\n' "$*" >> "{folder}/asked"
case "$*" in
*port-forward*) echo "{forward}"; exec sleep 60 ;;
*get*) cat "{folder}/answer" ;;
esac
exit {status}
"""

Play = Callable[..., Path]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Put a kubectl on the path; the folder with what it was asked."""

    def make(forward: str = "Forwarding from 127.0.0.1:4321 -> 8000", status: int = 0) -> Path:
        (tmp_path / "answer").write_text(json.dumps(RESOURCE))
        program = tmp_path / "kubectl"
        program.write_text(SCRIPT.format(folder=tmp_path, forward=forward, status=status))
        program.chmod(program.stat().st_mode | stat.S_IEXEC)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        return tmp_path

    return make


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        kubectl.main(list(words))
    return int(ended.value.code or 0)


def test_status_tells_conditions_pools_and_the_decision(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    asked = play() / "asked"
    assert run("status", "tiny", "-n", "llm", "--context", "lab") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["Ready", "True", "AsSpecified", "all", "pools"]
    assert said[1:] == [
        "pool flex: 1 of 2 replicas ready  S8 100 %",
        "decides S8 since 2026-11-28T12:00:00Z: PredictedGain",
        "http://tiny-router.llm.svc:8000/v1",
    ]
    assert asked.read_text() == "--namespace=llm --context=lab get nemotrondeployment tiny --output=json\n"


def test_a_resource_without_status_is_told_so() -> None:
    assert list(kubectl.status_lines({})) == ["no status: the operator has not seen it"]


@pytest.mark.parametrize(
    ("wanted", "change"),
    [
        ("AR", {"policy": "Manual", "mode": "AR", "blockLength": None}),
        ("auto", {"policy": "Predictive", "mode": None, "blockLength": None}),
    ],
)
def test_the_mode_is_a_merge_patch(play: Play, wanted: str, change: dict[str, Any]) -> None:
    asked = play() / "asked"
    assert run("mode", "tiny", wanted) == 0
    words = asked.read_text().strip()
    assert words.startswith("patch nemotrondeployment tiny --type=merge --patch=")
    assert json.loads(words.partition("--patch=")[2]) == {"spec": {"switching": change}}


def test_a_mode_that_is_none_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(BadInput, match="mode Diffusion: write AR, SelfSpeculation"):
        kubectl.switching("Diffusion")


def test_what_kubectl_refuses_is_passed_on(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    play(status=1)
    assert run("mode", "tiny", "AR") == 1
    assert "error: kubectl:" in capsys.readouterr().err


def test_a_port_is_forwarded_as_long_as_it_is_needed(play: Play) -> None:
    asked = play() / "asked"
    with kubectl.forwarded(RESOURCE, ["--namespace=llm"]) as url:
        assert url == "http://127.0.0.1:4321"
    assert asked.read_text() == "--namespace=llm port-forward service/tiny-router :8000\n"


def test_a_port_that_cannot_be_forwarded_is_told_in_kubectls_words(play: Play) -> None:
    play(forward="error: services is forbidden")
    with pytest.raises(CliError, match="services is forbidden"), kubectl.forwarded(RESOURCE, []):
        pass
    with pytest.raises(CliError, match="no endpoint yet"), kubectl.forwarded({}, []):
        pass


class Routers(BaseHTTPRequestHandler):
    """Answers /fleet as `body` says."""

    body = b"{}"

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/fleet" else 404)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""


@pytest.fixture
def router() -> Iterator[int]:
    """The port of a router that answers /fleet."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Routers) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def a_view(**more: Any) -> FleetView:
    replica = {
        "replicaId": "flex-1", "pool": "flex", "url": "http://r", "ready": True, "draining": False,
        "freshness": "Fresh", "cooling": False, "ageSeconds": 0.1, "inFlight": 2, "running": 2, "waiting": 1,
        "maxRunning": 8, "queuedPromptTokens": 0, "cachedTokens": 9, "capacityTokens": 99, "point": "S8",
        "decision": {"point": "S8", "reason": "Kept", "ageSeconds": 1}, "allowedPoints": ["S8"], "points": [],
        "switches": 0, "preemptions": 0, "tokensPerSecond": 123.4, "policyVersion": 7,
    }  # fmt: skip
    gone = replica | {"replicaId": "flex-22", "freshness": "Dead", "ageSeconds": 42.0}
    router = {
        "inFlight": 2, "queued": 3, "oldestWaitSeconds": 0, "finishedTotal": 5, "refusedTotal": 1, "draining": False,
    }  # fmt: skip
    switching = {"marginPercent": 5, "minDwellMilliseconds": 0, "fallback": {}}
    refusal = {"time": 1.0, "tier": "standard", "status": 429, "reason": "QueueFull", "detail": "3 wait"}
    values = {
        "name": "tiny", "model": "tiny", "time": 1.0, "policyVersion": 7, "defaultTier": "standard", "tiers": [],
        "switching": switching, "pools": [], "replicas": [replica, gone], "router": router, "decisions": [],
        "refusals": [refusal],
    }  # fmt: skip
    return FleetView.model_validate(values | more)


def test_the_fleet_is_told_as_a_router_sees_it(
    play: Play, router: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = play(forward=f"Forwarding from 127.0.0.1:{router} -> 8000") / "asked"
    monkeypatch.setattr(Routers, "body", a_view().to_wire())
    assert run("fleet", "tiny", "-n", "llm") == 0
    assert capsys.readouterr().out.splitlines() == [
        "tiny  policy 7  2 in flight  3 queued",
        "flex-1   S8      2 running, 1 waiting, 123 tokens/s  ready",
        "flex-22  S8      2 running, 1 waiting, 123 tokens/s  dead, last report 42 s ago",
        "last refusal: 429 QueueFull: 3 wait",
    ]
    assert "port-forward service/tiny-router" in asked.read_text()


def test_a_fleet_without_replicas_is_told_so() -> None:
    assert list(kubectl.fleet_lines(a_view(replicas=[], refusals=[])))[1:] == ["no replica reports"]


def test_what_is_no_fleet_is_an_error(play: Play, router: int, capsys: pytest.CaptureFixture[str]) -> None:
    play(forward=f"Forwarding from 127.0.0.1:{router} -> 8000")
    assert run("fleet", "tiny") == 1
    assert "the router does not tell of its fleet" in capsys.readouterr().err
