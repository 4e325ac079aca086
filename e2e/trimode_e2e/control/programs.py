"""Run programs to their end, or in the background with a log.

Belongs here: the only calls of `subprocess` of this package's control-plane half. Whatever was started is ended by
its own process id.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimode_e2e.errors import Broken

_LOG_END_LINES = 15
_POLL_S = 0.05
_NICE = -10
"""Nine times the processor time of a process at 0, as a real node reserves some for its system: on two cores an API
server beside two nodes' pods, whose share is that of sixteen processes each, got 8 % of one core. Leases ran out,
kubelets' probes came late, and containers were restarted, which took more still.
"""


def run(command: Sequence[str], cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run to the end; returns what it printed. Raises Broken with the end of its output where it fails."""
    done = subprocess.run(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise Broken(f"{command[0]} ended with {done.returncode}:\n{end_of(done.stdout)}")
    return done.stdout


@dataclass(slots=True)
class Program:
    """One background process and its log file."""

    name: str
    log: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(
        cls, name: str, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> Program:
        """Start it in a process group of its own, so that a terminal's Ctrl-C reaches only the tests."""
        with log.open("ab") as out:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, cwd=cwd, start_new_session=True
            )
        _prefer(process.pid)
        return cls(name, log, process)

    @property
    def pid(self) -> int:
        return self.process.pid

    def alive(self) -> bool:
        return self.process.poll() is None

    def log_end(self) -> str:
        return end_of(self.log.read_text(errors="replace"))

    def wait_until(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Wait for `ready`. Raises Broken when the process ends first or the time is up."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if not self.alive():
                raise Broken(f"{self.name} ended with {self.process.returncode}:\n{self.log_end()}")
            if time.monotonic() > deadline:
                raise Broken(f"{self.name} was not ready within {timeout_s:g} s:\n{self.log_end()}")
            time.sleep(_POLL_S)

    def stop(self, grace_s: float = 10.0) -> None:
        """SIGTERM, SIGKILL after `grace_s`. Safe to call twice."""
        if not self.alive():
            return
        self.process.terminate()
        try:
            self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, as a lost machine would."""
        self.process.kill()
        self.process.wait()


def end_of(text: str, lines: int = _LOG_END_LINES) -> str:
    """The last lines, indented."""
    return "\n".join("    " + line for line in text.splitlines()[-lines:])


def _prefer(pid: int) -> None:
    """Before what else is busy here, where we may. Linux weighs sessions, each an autogroup, not their processes; and
    those would hand a niceness of their own down to the pods'."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(_NICE))
