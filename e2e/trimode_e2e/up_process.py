"""`trimode up` as a process of its own, for tests of what a user starts.

Belongs here: starting it, waiting for what it does, ending it, and seeing that nothing of it is left.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

PATIENCE_S = 240.0
"""For machines that do other things as well."""
POLL_S = 0.1
END_S, PARTS_END_S = 60.0, 30.0


@dataclass
class Served:
    """A running command that is ready; `url` without `/v1`, `errors` what it writes to its standard error."""

    process: subprocess.Popen[str]
    url: str
    environment: Mapping[str, str]
    errors: Path


@contextmanager
def serving(file: Path, name: str, environment: Mapping[str, str]) -> Iterator[Served]:
    """`trimode up` with a resource that serves `name`, from ready until SIGTERM. AssertionError where it does not get
    ready, or where a process of it survives."""
    errors = file.with_name("err")
    with errors.open("w") as told:
        process = subprocess.Popen(
            [sys.executable, "-m", "trimode_cli.main", "up", "-f", str(file), "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=told,
            text=True,
            env=environment,
        )
    try:
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert ready.startswith(f"ready: {name} at http://127.0.0.1:"), errors.read_text()
        yield Served(process, ready.split()[-1].removesuffix("/v1"), environment, errors)
    finally:
        parts = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _, alive = psutil.wait_procs(parts, timeout=PARTS_END_S)
        assert process.stdout is not None
        process.stdout.close()
        assert not alive, alive


def until(condition: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Ask until it is so. AssertionError naming what did not come."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s for {what}"
        time.sleep(POLL_S)
