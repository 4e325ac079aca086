"""kubectl, for the tests of what a person types.

Belongs here: finding it, running it. Where the machine has none, Debian's is fetched once beside the control plane.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from trimode_e2e.control.build import SUITE, cache_folder
from trimode_e2e.control.debian import Debian, unpack
from trimode_e2e.control.provide import ENVTEST
from trimode_e2e.errors import Broken

PACKAGE = "kubernetes-client"
TIMEOUT_S = 60.0


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


def find() -> Path:
    """The machine's kubectl, envtest's, or Debian's. Raises Missing where none of them can be had."""
    assets = os.environ.get(ENVTEST)
    if assets and (Path(assets) / "kubectl").exists():
        return Path(assets) / "kubectl"
    if at_hand := shutil.which("kubectl"):
        return Path(at_hand)
    root = cache_folder() / PACKAGE
    program = root / "usr/bin/kubectl"
    if program.exists():
        return program
    debian = Debian(SUITE, root / "apt")
    debian.prepare()
    unpack(debian.download(root / "debs", PACKAGE), root)
    if not program.exists():
        raise Broken(f"Debian's {PACKAGE} has no kubectl")
    return program
