"""One bash for many blocks of commands, as a person's terminal is: variables and background jobs stay.

Belongs here: running blocks. A block ends with its first command that fails, so that none is overlooked.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trimode_e2e.kubectl import kubectl_program

TIMEOUT_S = 960.0
"""A little more than the longest that a block of the docs itself waits."""
ENDED, TIMED_OUT = -1, -2
"""In place of a status: the shell itself ended; the block took too long, and the shell was ended."""


@dataclass(slots=True)
class Shell:
    """A running bash whose files lie in `folder`."""

    process: subprocess.Popen[str]
    folder: Path
    count: int = 0

    @classmethod
    def start(cls, folder: Path, cwd: Path, environment: Mapping[str, str]) -> Shell:
        bound = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        process = subprocess.Popen(
            [*bound, "bash", "--noprofile", "--norc"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, text=True, cwd=cwd, env=dict(environment), start_new_session=True,
        )  # fmt: skip
        shell = cls(process, folder)
        shell._tell("trap 'return $?' ERR; set -o pipefail")  # in a file that is read by `.`, it ends that file
        return shell

    @classmethod
    def terminal(cls, folder: Path, cwd: Path, kubeconfig: Path, **programs: str) -> Shell:
        """As a user of a cluster has it, with kubectl and its plugin; `programs` are further ones, as shell scripts."""
        scripts = folder / "bin"
        scripts.mkdir()
        (scripts / "kubectl").symlink_to(kubectl_program())
        for name, text in programs.items():
            (scripts / name).write_text(f"#!/bin/sh\n{text}\n")
            (scripts / name).chmod(0o755)
        path = f"{scripts}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        return cls.start(
            folder, cwd, {"PATH": path, "HOME": str(folder), "KUBECONFIG": str(kubeconfig), "NO_PROXY": "*"}
        )

    def run(self, text: str, timeout_s: float = TIMEOUT_S) -> tuple[int, str]:
        """Status of the block's last command, and all that it printed until then, errors included."""
        self.count += 1
        block, out, status = (self.folder / f"{self.count}.{end}" for end in ("sh", "out", "status"))
        block.write_text(text)
        self._tell(f". '{block}' </dev/null >'{out}' 2>&1; echo $? >'{status}.new'; mv '{status}.new' '{status}'")
        deadline = time.monotonic() + timeout_s
        while not status.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                ended = TIMED_OUT if self.process.poll() is None else ENDED
                self.stop()
                return ended, _printed(out)
            time.sleep(0.05)
        return int(status.read_text()), _printed(out)

    def stop(self) -> None:
        """With all that it has left in the background."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        self.process.wait()

    def _tell(self, line: str) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it has ended or been stopped, which `run` reports
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()


def _printed(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""
