"""What needs the tools' own packages says so; what serves does not need them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BLOCKED = "import sys; sys.modules['matplotlib'] = None; from trimode_cli.main import main; main(sys.argv[1:])"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BLOCKED, *arguments], capture_output=True, text=True, check=False)


def test_what_draws_names_the_extra_that_brings_matplotlib(tmp_path: Path) -> None:
    done = run("simulate", "-f", "examples/tiny.yaml", "--load", "steps", "--out", str(tmp_path))
    assert done.returncode == 2
    assert "matplotlib" in done.stderr
    assert "pip install 'trimode[tools]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_line_starts_without_matplotlib() -> None:
    done = run("crd")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("apiVersion: apiextensions.k8s.io")
