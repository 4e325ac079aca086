"""The handle on one Ray cluster's process.

Belongs here: starting it, talking to it, ending it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import yaml

from trimode_cli.up.ray_local import short_folder
from trimode_e2e.control.programs import end_of
from trimode_e2e.errors import Broken
from trimode_e2e.kuberay.shape import Group
from trimode_e2e.kuberay.status import ClusterState

STOP_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 120.0
_PACKAGE_ROOT = Path(__file__).parents[2]
_ENGINE = "trimode_workers.process"


class Cluster:
    """One Ray cluster; making it waits until Ray is up. Raises Broken where it does not come up."""

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = Path(tempfile.mkstemp(prefix="trimode-ray-", suffix=".log")[1])
        self._folder = tempfile.mkdtemp(prefix="r", dir=short_folder())
        self._lock = threading.Lock()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trimode_e2e.kuberay.ray_process", self._folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **environment, "PYTHONPATH": str(_PACKAGE_ROOT)},
                start_new_session=True,
            )
        self.config = ""
        self.shape: dict[str, Any] = {}
        self.known_groups: tuple[Group, ...] = ()
        self.applications: tuple[str, ...] = ()
        self._answer()

    def groups(self, groups: tuple[Group, ...], environments: Mapping[str, dict[str, str]]) -> None:
        """New groups, and new bounds of those there are."""
        given = {group.name: asdict(group) | {"environment": environments[group.name]} for group in groups}
        for values in given.values():
            del values["name"]
        self._order("groups", given)
        self.known_groups = groups

    def deploy(self, config: str) -> None:
        """Submit a `serveConfigV2`. Raises Broken with Serve's words where it refuses."""
        self._order("deploy", config)
        self.config = config
        self.applications = tuple(app["name"] for app in yaml.safe_load(config)["applications"])

    def state(self) -> ClusterState:
        told = self._order("state")
        return ClusterState(
            self.name, told["applications"], told["endpoints"], told["workers"], wanted=self.applications
        )

    def kill_worker(self, group: str) -> None:
        """A worker pod of the group is lost."""
        self._order("kill_worker", group)

    def engines(self) -> frozenset[int]:
        """Process ids of the engines that run in it: the same ids, the same engines."""
        found = set()
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if _ENGINE in process.cmdline():
                    found.add(process.pid)
        return frozenset(found)

    def stop(self) -> None:
        """End it with all that it started."""
        try:
            below = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            below = []
        with contextlib.suppress(OSError, ValueError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdout.close()
        for process in below:
            with contextlib.suppress(psutil.Error):
                process.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
        self.log.unlink(missing_ok=True)

    def _order(self, word: str, *arguments: Any) -> Any:
        with self._lock:
            assert self._process.stdin is not None
            try:
                print(json.dumps({"do": word, "with": arguments}), file=self._process.stdin, flush=True)
            except OSError as exc:
                raise Broken(f"Ray cluster {self.name} has ended:\n{self._log_end()}") from exc
            return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        # An answer is one line, so nothing of it can be left in the buffer that is not looked at here.
        if not select.select([self._process.stdout], [], [], ANSWER_TIMEOUT_S)[0]:
            raise Broken(f"Ray cluster {self.name} has not answered for {ANSWER_TIMEOUT_S:g} s:\n{self._log_end()}")
        line = self._process.stdout.readline()
        if not line:
            raise Broken(f"Ray cluster {self.name} has ended:\n{self._log_end()}")
        answer = json.loads(line)
        if "error" in answer:
            raise Broken(f"Ray cluster {self.name}: {answer['error']}")
        return answer["ok"]

    def _log_end(self) -> str:
        return end_of(self.log.read_text(errors="replace"), 30)
