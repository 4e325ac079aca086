"""kubectl, for what a person types.

Belongs here: running it as one user.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from trimode_e2e.control.build import CLUSTER, built
from trimode_e2e.errors import Broken, Missing

TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Kubectl:
    """One kubectl as one user; `folder` holds its cache."""

    program: Path
    kubeconfig: Path
    folder: Path

    def __call__(self, *words: str, text: str = "") -> str:
        """What it prints. Raises Broken with its words where it fails."""
        done = self.attempt(*words, text=text)
        if done.returncode:
            raise Broken(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def attempt(self, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """The same without raising."""
        command = [str(self.program), f"--kubeconfig={self.kubeconfig}", f"--cache-dir={self.folder}", *words]
        environment = {**os.environ, "HOME": str(self.folder)}
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment)


def kubectl_program() -> Path:
    """The built one, or the one on the path. Raises Missing where there is neither."""
    if folder := built(CLUSTER):
        return folder / "kubectl"
    if on_path := shutil.which("kubectl"):
        return Path(on_path)
    raise Missing("kubectl is neither built nor on the path: run `make cluster-programs`")
