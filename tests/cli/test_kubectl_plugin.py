"""`kubectl trimode`, with a kubectl that notes what it is asked and answers from a file."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
