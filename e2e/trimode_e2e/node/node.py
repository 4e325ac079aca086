"""A real node that joins the harness's control plane.

Belongs here: its start and end, its images, and questions about what runs on it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from trimode_e2e.api import Api, Object
from trimode_e2e.control.plane import ControlPlane
from trimode_e2e.control.programs import Program, run
from trimode_e2e.image.layout import Image, load
from trimode_e2e.node import machine, settings
from trimode_e2e.node.pen import Plan
from trimode_e2e.node.runtime import Runtime

READY_TIMEOUT_S = 120.0


@dataclass(slots=True)
class RealNode:
    """`start` brings it up, `stop` ends it and all its pods, also after a failed start."""

    plane: ControlPlane
    api: Api
    runtime: Runtime
    folder: Path
    pen: Program | None = None

    def start(self) -> None:
        """Raises Missing where the machine cannot, Broken where a program does not come up."""
        machine.require()
        places = settings.Places(self.folder)
        users = settings.Users(
            kubelet=self.plane.kubeconfig_of(f"system:node:{settings.NAME}", ("system:nodes",)),
            proxy=self.plane.kubeconfig_of("system:kube-proxy"),
            admin=self.plane.admin,
            authority=self.plane.authority,
        )
        settings.write(places, self.runtime, users, self._cgroup)
        plan = Plan(
            folder=str(self.folder),
            cgroup=self._cgroup,
            hidden={seen: str(path) for seen, path in places.hidden.items()},
            kernel=settings.KERNEL,
            environment=self.runtime.environment(),
            before=settings.before(self.runtime),
            programs=settings.programs(places, self.runtime, users),
        )
        file = self.folder / "plan.json"
        file.write_text(json.dumps(asdict(plan)))
        environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
        command = [sys.executable, "-m", "trimode_e2e.node.pen", str(file)]
        self.pen = Program.start("node", command, self.folder / "node.log", env=environment)
        self.pen.wait_until(self.ready, READY_TIMEOUT_S)

    def stop(self) -> None:
        """Everything that runs on the node ends with it, without grace."""
        if self.pen is not None:
            self.pen.stop(grace_s=30)
        self.pen = None
        shutil.rmtree(settings.Places(self.folder).images, ignore_errors=True)  # the images; logs stay for who asks why

    def add_image(self, image: Image) -> None:
        """Pods find it under its name. Raises Broken where containerd refuses it."""
        places = settings.Places(self.folder)
        ctr = [str(self.runtime.programs / "ctr"), "--address", str(places.socket), "--namespace", "k8s.io"]
        load(image, ctr, places.images)

    def name_image(self, name: str, other: str) -> None:
        """Give an image of the node another full name, too, as if it had been pulled from there."""
        ctr = [str(self.runtime.programs / "ctr"), "--address", str(settings.Places(self.folder).socket)]
        run([*ctr, "--namespace", "k8s.io", "images", "tag", "--force", name, other], self.folder, dict(os.environ))

    def ready(self) -> bool:
        """Whether the API server has it as Ready."""
        node = self.api.get("v1", "Node", settings.NAME) or {}
        conditions = node.get("status", {}).get("conditions") or []
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    def pause(self, program: str) -> None:
        """Stop one of the node's programs where it is, as a machine that hangs would."""
        for process in self._named(program):
            process.send_signal(signal.SIGSTOP)

    def go_on(self, program: str) -> None:
        """Let it run again."""
        for process in self._named(program):
            process.send_signal(signal.SIGCONT)

    def processes(self, pod: Object, program: str = "") -> list[psutil.Process]:
        """The pod's processes on this machine whose command line has this word."""
        uid, found = pod["metadata"]["uid"], []
        for process in psutil.process_iter():
            try:
                groups = Path(f"/proc/{process.pid}/cgroup").read_text()
                if uid in groups and (not program or program in process.cmdline()):
                    found.append(process)
            except (OSError, psutil.Error):
                continue  # it ended meanwhile
        return found

    def peak_memory(self, pod: Object, container: str) -> int:
        """The most memory that a running container has taken so far, in bytes, page cache included."""
        return int((self.memory_group(pod, container) / "memory.max_usage_in_bytes").read_text())

    def memory_group(self, pod: Object, container: str) -> Path:
        """The folder of a running container's memory cgroup."""
        (status,) = (each for each in pod["status"]["containerStatuses"] if each["name"] == container)
        name = status["containerID"].rpartition("/")[2]
        (folder,) = Path("/sys/fs/cgroup/memory", self._cgroup).glob(f"**/{name}")
        return folder

    def log(self, pod: Object) -> str:
        """What the pod's containers have printed, earlier attempts included."""
        folder = self.folder / "log" / "pods"
        files = sorted(folder.glob(f"*_{pod['metadata']['uid']}/*/*.log"))
        return "\n".join(file.read_text(errors="replace") for file in files)

    def remains(self) -> list[str]:
        """What is left on the machine after `stop`: processes, mounts, cgroups. In words; nothing should be."""
        mine = str(self.folder)
        found = [f"mount: {line}" for line in Path("/proc/mounts").read_text().splitlines() if mine in line]
        found += [f"cgroup: {path}" for path in machine.cgroups(self._cgroup)]
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if any(mine in word for word in process.cmdline()):
                    found.append(f"process: {process.pid} {' '.join(process.cmdline())}")
        return found

    @property
    def _cgroup(self) -> str:
        return f"trimode-{os.getpid()}"

    def _named(self, program: str) -> list[psutil.Process]:
        wanted = str(self.runtime.programs / program)
        return [each for each in psutil.process_iter(["cmdline"]) if (each.info["cmdline"] or [""])[0] == wanted]
