"""PyPy simulates what CPython does, to the byte: large fleets are simulated with it (docs/simulator.md).

Its Python is looked for on the path, or where TRIMODE_PYPY says, and needs the packages of `docs/simulator.md`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = os.pathsep.join(str(ROOT / root) for root in ("crds", "policy", "workers", "router", "local", "cli", "tools"))
HOW = "apt install pypy3 pypy3-venv (Debian 13), then see Speed in docs/simulator.md, and TRIMODE_PYPY=pypy/bin/python"


@pytest.fixture
def pypy() -> str:
    """Where it is; the test is skipped where it is not."""
    found = os.environ.get("TRIMODE_PYPY") or shutil.which("pypy3")
    if not found:
        pytest.skip(f"NO pypy3 on the path: {HOW}")
    ready = "import sys, pydantic, yaml, typer, rich; sys.exit(sys.version_info < (3, 11))"
    if subprocess.run([found, "-c", ready], capture_output=True).returncode:
        pytest.skip(f"{found} is older than 3.11 or lacks packages: {HOW}")
    return found


def test_both_interpreters_write_the_same(pypy: str, tmp_path: Path) -> None:
    asked = ["-f", str(ROOT / "examples/simulate-h200.yaml"), "--load", "tiers", "--duration", "20", "--no-plots"]
    asked += ["--policies", "trimode,static:S16,hysteresis"]
    for name, python in (("pypy", pypy), ("cpython", sys.executable)):
        command = [python, "-m", "trimode_cli.main", "simulate", *asked, "--out", str(tmp_path / name)]
        subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PYTHONPATH": SOURCES})
    written = [(tmp_path / name / "results.json").read_bytes() for name in ("pypy", "cpython")]
    assert written[0] == written[1]
