"""One pod as a thread with a process: started, probed, restarted, ended with its grace.

Belongs here: the life of a pod and what its status says.
"""

from __future__ import annotations

import contextlib
import datetime
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from trimode_e2e.control.programs import Program
from trimode_e2e.kubelet.materials import Launch, Lookup, NotYet, prepare, renew

POLL_S = 0.1
RESTART_PAUSE_S = 1.0
RENEW_S = 1.0
"""How often Secrets are looked at while the pod runs; a kubelet takes up to a minute."""
RETELL_S = 5.0
"""The node controller calls pods unready while it misses the node; afterwards only the node can say otherwise."""

SetStatus = Callable[[dict[str, Any]], None]


class Pod:
    """Runs until `delete` or `kill`; tells every new status. `gone` is called when nothing of it is left."""

    def __init__(
        self,
        pod: dict[str, Any],
        folder: Path,
        address: str,
        look_up: Lookup,
        set_status: SetStatus,
        gone: Callable[[], None],
    ) -> None:
        self.address = address
        self.program: Program | None = None
        self._pod = pod
        self._folder = folder
        self._look_up = look_up
        self._set_status = set_status
        self._gone = gone
        self._ending = threading.Event()
        self._hurry = threading.Event()
        self._said: tuple[object, ...] = ()
        self._said_at = 0.0
        self._ready = False
        self._restarts = 0
        self._probed_at = 0.0
        self._failures = 0
        self._thread = threading.Thread(target=self._live, name=f"pod {self.name}", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        return str(self._pod["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self._pod["metadata"]["namespace"])

    @property
    def labels(self) -> dict[str, str]:
        return dict(self._pod["metadata"].get("labels", {}))

    @property
    def ready(self) -> bool:
        return self._ready

    @property
    def log(self) -> Path:
        return self._folder / "log"

    def delete(self) -> None:
        """End it as the API server asks: preStop, SIGTERM, grace."""
        self._ending.set()

    def kill(self) -> None:
        """End it at once, and wait for that."""
        self._hurry.set()
        self._ending.set()
        self._thread.join(20)

    def _live(self) -> None:
        try:
            launch = self._prepared()
            while launch is not None and not self._ending.is_set():
                self._run(launch)
            self._end()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._gone()

    def _prepared(self) -> Launch | None:
        """Waits for what the pod refers to, as a kubelet does."""
        while not self._ending.is_set():
            try:
                return prepare(self._pod, self._folder, self.address, self._look_up)
            except NotYet as exc:
                self._tell("Pending", waiting=("CreateContainerConfigError", str(exc)))
            except ValueError as exc:
                self._tell("Pending", waiting=("CreateContainerError", f"this node cannot run it: {exc}"))
            self._ending.wait(POLL_S)
        return None

    def _run(self, launch: Launch) -> None:
        """One process, until it ends or the pod shall."""
        self.program = Program.start(self.name, launch.command, self.log, env=launch.environment, cwd=self._folder)
        renewed = time.monotonic()
        while self.program.alive() and not self._ending.wait(POLL_S):
            if time.monotonic() - renewed > RENEW_S:
                renewed = time.monotonic()
                with contextlib.suppress(Exception):  # the server may be away
                    renew(self._pod, self._folder, self._look_up)
            self._probe()
            self._tell("Running")
        if not self._ending.is_set():
            self._restarts += 1
            self._ready = False
            self._tell("Running", waiting=("CrashLoopBackOff", self.program.log_end()[-500:]))
            self._ending.wait(RESTART_PAUSE_S)

    def _end(self) -> None:
        self._ready = False
        program = self.program
        if program is None or not program.alive():
            return
        deadline = time.monotonic() + float(self._pod["spec"].get("terminationGracePeriodSeconds", 30))
        if not self._hurry.is_set():
            self._before_stop(deadline)
        program.process.terminate()
        while program.alive() and time.monotonic() < deadline and not self._hurry.is_set():
            time.sleep(POLL_S)
        if self._hurry.is_set():
            program.stop(grace_s=2)
        elif program.alive():
            program.kill()

    def _before_stop(self, deadline: float) -> None:
        """The container's preStop command. The pod is still reached meanwhile, as it would be."""
        command = self._container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
        if not command:
            return
        hook = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while hook.poll() is None and time.monotonic() < deadline and not self._hurry.is_set():
            time.sleep(POLL_S)
        if hook.poll() is None:
            hook.kill()
            hook.wait()

    def _probe(self) -> None:
        """The readiness probe, when it is due."""
        probe = self._container.get("readinessProbe", {})
        now = time.monotonic()
        if not probe:
            self._ready = True
            return
        if now - self._probed_at < probe.get("periodSeconds", 10) and (self._ready or self._failures == 0):
            return
        self._probed_at = now
        if self._answers(probe["httpGet"], probe.get("timeoutSeconds", 1)):
            self._ready, self._failures = True, 0
            return
        self._failures += 1
        # Before it was ready the first time, a probe is repeated at once, so that tests need not wait for its period.
        if self._failures >= probe.get("failureThreshold", 3):
            self._ready = False

    def _answers(self, get: dict[str, Any], timeout_s: float) -> bool:
        ports = {port.get("name"): port["containerPort"] for port in self._container.get("ports", [])}
        scheme, port = get.get("scheme", "HTTP").lower(), ports.get(get["port"], get["port"])
        url = f"{scheme}://{self.address}:{port}{get.get('path', '/')}"
        with contextlib.suppress(httpx.HTTPError):
            return 200 <= httpx.get(url, timeout=timeout_s, trust_env=False, verify=False).status_code < 400
        return False

    @property
    def _container(self) -> dict[str, Any]:
        container: dict[str, Any] = self._pod["spec"]["containers"][0]
        return container

    def _tell(self, phase: str, waiting: tuple[str, str] | None = None) -> None:
        said = (phase, waiting, self._ready, self._restarts)
        if said == self._said and time.monotonic() - self._said_at < RETELL_S:
            return
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        running = waiting is None and phase == "Running"
        state = (
            {"running": {"startedAt": now}}
            if waiting is None
            else {"waiting": dict(zip(("reason", "message"), waiting, strict=True))}
        )
        true = {"Initialized": True, "Ready": self._ready, "ContainersReady": self._ready, "PodScheduled": True}
        self._set_status(
            {
                "phase": phase,
                "podIP": self.address,
                "podIPs": [{"ip": self.address}],
                "hostIP": "127.0.0.1",
                "startTime": now,
                "conditions": [
                    {"type": name, "status": str(value), "lastTransitionTime": now} for name, value in true.items()
                ],
                "containerStatuses": [
                    {
                        "name": self._container["name"],
                        "image": self._container["image"],
                        "imageID": "",
                        "ready": self._ready,
                        "started": running,
                        "restartCount": self._restarts,
                        "state": state,
                        "lastState": {},
                    }
                ],
            }
        )
        self._said, self._said_at = said, time.monotonic()
