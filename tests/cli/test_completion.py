"""Completion: of the plugin as kubectl asks for it, and of `trimode`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from trimode_cli.completion import main, proposals, resources


def names(options: Sequence[str]) -> list[str]:
    return ["tiny", "nemo"] if options == ["-n", "llm"] else ["other"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([""], ["status", "fleet", "mode", "chat"]),
        (["s"], ["status"]),
        ([], ["status", "fleet", "mode", "chat"]),
        (["fleet", ""], ["other"]),
        (["-n", "llm", "fleet", "t"], ["tiny"]),
        (["fleet", "-n", "llm", "n"], ["nemo"]),
        (["mode", "tiny", "A"], ["AR"]),
        (["mode", "tiny", "a"], ["auto"]),
        (["status", "tiny", ""], []),
        (["unknown", ""], []),
        (["status", "--n"], ["--namespace"]),
    ],
)
def test_what_may_stand_at_the_end(words: list[str], found: list[str]) -> None:
    assert proposals(words, names) == found


def a_kubectl(folder: Path, script: str) -> None:
    program = folder / "kubectl"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_names_come_from_kubectl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a_kubectl(tmp_path, f'echo "$*" > {tmp_path}/asked; echo nemotrondeployment.trimode.dev/tiny')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(sys, "argv", ["kubectl_complete-trimode", "--context=lab", "chat", ""])
    main()
    assert capsys.readouterr().out.splitlines() == ["tiny", ":4"]
    assert (tmp_path / "asked").read_text().startswith("--context=lab get nemotrondeployments ")


@pytest.mark.parametrize("script", ["exit 1", "echo no; exit 3"])
def test_without_an_answer_there_are_no_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    a_kubectl(tmp_path, script)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert resources([]) == []
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert resources([]) == []


def test_trimode_completes_its_commands() -> None:
    asked = {"_TRIMODE_COMPLETE": "complete_bash", "COMP_WORDS": "trimode simu", "COMP_CWORD": "1"}
    command = [sys.executable, "-c", "from trimode_cli.main import main; main()"]
    done = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["simulate"]
