"""The operator as a local process against the cluster under test.

Belongs here: starting, killing and asking it. It gets a kubeconfig of its own user, so that what it may do is tested.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from trimode_e2e.clients import TRUST
from trimode_e2e.control.plane import free_ports
from trimode_e2e.control.programs import Program

START_TIMEOUT_S = 180.0
HOME = "trimode-system"
"""The operator's own namespace, with the Lease."""
LEASE = "trimode"


@dataclass(slots=True)
class Operator:
    """A running operator."""

    program: Program
    health: str
    metrics_url: str

    @classmethod
    def start(cls, kubeconfig: Path, folder: Path, name: str = "operator", path: str = "/readyz") -> Operator:
        """Start it and wait until its health port says yes to `path`. Raises Broken with the end of its log.

        It is ready once its watches have told everything; it works before that.
        """
        metrics, health = free_ports(2)
        command = [
            *(sys.executable, "-m", "trimode_operator", "--host", "127.0.0.1"),
            *("--metrics-port", str(metrics), "--health-port", str(health), "--lease", LEASE),
        ]
        environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "POD_NAME": name,
            "POD_NAMESPACE": HOME,
        }
        program = Program.start(name, command, folder / f"{name}.log", env=environment)
        found = cls(program, f"http://127.0.0.1:{health}", f"http://127.0.0.1:{metrics}/metrics")
        try:
            program.wait_until(lambda: found.answers(path), START_TIMEOUT_S)
        except BaseException:
            program.kill()
            raise
        return found

    def answers(self, path: str) -> bool:
        """Whether its health port says yes."""
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(self.health + path, timeout=2, trust_env=False, verify=TRUST).status_code == 200
        return False

    def metrics(self) -> dict[str, float]:
        """Samples by name with labels."""
        text = httpx.get(self.metrics_url, timeout=5, trust_env=False, verify=TRUST).text
        lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    @property
    def visits(self) -> float:
        """How often it has looked at a resource so far."""
        found = self.metrics().items()
        return sum(value for name, value in found if name.startswith("trimode_operator_reconcile_seconds_count"))

    @property
    def rss_mib(self) -> float:
        """Resident memory in MiB."""
        return float(psutil.Process(self.program.pid).memory_info().rss) / (1 << 20)

    @property
    def cpu_s(self) -> float:
        """Processor seconds so far."""
        times = psutil.Process(self.program.pid).cpu_times()
        return float(times.user + times.system)

    def log(self) -> list[dict[str, Any]]:
        """Its log lines, as far as they are JSON."""
        found = []
        for line in self.program.log.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def stop(self) -> None:
        self.program.stop(grace_s=20)

    def kill(self) -> None:
        """As if its machine were lost."""
        self.program.kill()


def wait_for_leader(operators: tuple[Operator, ...], timeout_s: float = 120.0) -> Operator:
    """The one that leads."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for operator in operators:
            with contextlib.suppress(httpx.HTTPError):
                if operator.metrics().get("trimode_operator_leader") == 1.0:
                    return operator
        time.sleep(0.1)
    raise AssertionError(f"nobody leads within {timeout_s:g} s")
