"""The way to Services and pods of a cluster whose node is not at hand: `kubectl port-forward`.

Belongs here: starting, finding and ending these processes.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from trimode_e2e.control.programs import Program

STARTS_TIMEOUT_S = 120.0
_FORWARDING = re.compile(r"^Forwarding from 127\.0\.0\.1:(\d+) ", re.MULTILINE)


@dataclass(slots=True)
class Forwards:
    """Each target is forwarded once, and anew where its pod has gone: kubectl ends with the pod that it chose.

    Logs lie in `folder`.
    """

    program: Path
    kubeconfig: Path
    folder: Path
    _running: dict[tuple[str, str, int], Program] = field(default_factory=dict)
    _started: int = 0

    def address(self, target: str, namespace: str, port: int) -> str:
        """`127.0.0.1:PORT` for a target such as `service/tiny-router`. Raises Broken where kubectl refuses."""
        key = (target, namespace, port)
        if key not in self._running or not self._running[key].alive():
            self._running[key] = self._start(target, namespace, port)
        found = _FORWARDING.search(self._running[key].log.read_text())
        assert found is not None
        return f"127.0.0.1:{found[1]}"

    def stop(self) -> None:
        """End all of them."""
        for program in self._running.values():
            program.stop()
        self._running.clear()

    def _start(self, target: str, namespace: str, port: int) -> Program:
        self._started += 1
        bound = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        words = [f"--kubeconfig={self.kubeconfig}", "--namespace", namespace, "port-forward", target, f":{port}"]
        log = self.folder / f"forward-{self._started}.log"
        program = Program.start(f"kubectl port-forward {target}", [*bound, str(self.program), *words], log)
        try:
            program.wait_until(lambda: _FORWARDING.search(log.read_text()) is not None, STARTS_TIMEOUT_S)
        except BaseException:
            program.stop()
            raise
        return program
