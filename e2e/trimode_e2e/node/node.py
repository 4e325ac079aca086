"""A real node that joins the harness's control plane.

Belongs here: its start and end, its images, and questions about what runs on it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from trimode_e2e.api import Api, Object
from trimode_e2e.control.plane import ControlPlane, free_ports
from trimode_e2e.control.programs import Program, run
from trimode_e2e.errors import Broken
from trimode_e2e.node import contents, machine, settings
from trimode_e2e.node.image import Entry, write_image
from trimode_e2e.node.pen import Plan
from trimode_e2e.node.runtime import Runtime

READY_TIMEOUT_S = 120.0
_FETCH = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=5).read().decode())"


@dataclass(slots=True)
class RealNode:
    """`start` brings it up, `stop` ends it and all its pods, also after a failed start."""

    plane: ControlPlane
    api: Api
    runtime: Runtime
    folder: Path
    pen: Program | None = None
    scheduler: Program | None = None

    def start(self) -> None:
        """Raises Missing where the machine cannot, Broken where a program does not come up."""
        machine.require()
        port = int(self.plane.server.rpartition(":")[2])
        places = settings.Places(self.folder)
        settings.write(places, self.runtime, self._cgroup)
        self._admit(port)
        kubeconfigs = {
            "kubelet": self.plane.kubeconfig_of(f"system:node:{settings.NAME}", ("system:nodes",)),
            "kube-proxy": self.plane.kubeconfig_of("system:kube-proxy"),
        }
        plan = Plan(
            folder=str(self.folder),
            port=port,
            bridge=settings.BRIDGE,
            address=f"{settings.ADDRESS}/{settings.SUBNET.rpartition('/')[2]}",
            cgroup=self._cgroup,
            hidden={seen: str(path) for seen, path in places.hidden.items()},
            kernel=settings.KERNEL,
            environment=self.runtime.environment(),
            programs=settings.programs(places, self.runtime, kubeconfigs),
        )
        file = self.folder / "plan.json"
        file.write_text(json.dumps(asdict(plan)))
        environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
        command = [sys.executable, "-m", "trimode_e2e.node.pen", str(file)]
        self.pen = Program.start("node", command, self.folder / "node.log", env=environment)
        self._start_scheduler()
        self.pen.wait_until(self._ready, READY_TIMEOUT_S)

    def stop(self) -> None:
        """Everything that runs on the node ends with it, without grace."""
        for program in (self.pen, self.scheduler):
            if program is not None:
                program.stop(grace_s=30)
        self.pen = self.scheduler = None
        shutil.rmtree(self.folder / "containerd-root", ignore_errors=True)  # the images; logs stay for who asks why

    def add_image(self, name: str) -> None:
        """The operator's and the router's image under that full name, and the one that holds pods together."""
        archive = self.folder / "image.tar"
        pause = [Entry("bin/busybox", self.runtime.busybox)]
        write_image(
            archive, settings.PAUSE, pause, command=["/bin/busybox", "sleep", "999999"], user="", environment={}
        )
        self._import(archive)
        entries = contents.entries(self.runtime.busybox)
        command = ["python", "-m", "trimode_operator"]
        write_image(archive, name, entries, command=command, user=contents.USER, environment=contents.ENVIRONMENT)
        self._import(archive)

    def fetch(self, url: str) -> str:
        """What a client on the node is answered. Raises Broken where there is no answer or an error."""
        network = f"--net=/proc/{self._first()}/ns/net"
        return run(["nsenter", network, sys.executable, "-I", "-c", _FETCH, url])

    def rules(self) -> str:
        """iptables rules in the node's network."""
        network = f"--net=/proc/{self._first()}/ns/net"
        return run(["nsenter", network, "iptables-save"], env=self.runtime.environment())

    def processes(self, pod: Object, program: str) -> list[psutil.Process]:
        """The pod's processes on this machine whose command line has this word."""
        uid, found = pod["metadata"]["uid"], []
        for process in psutil.process_iter():
            try:
                groups = Path(f"/proc/{process.pid}/cgroup").read_text()
                if uid in groups and program in process.cmdline():
                    found.append(process)
            except (OSError, psutil.Error):
                continue  # it ended meanwhile
        return found

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

    def _first(self) -> int:
        return int((self.folder / "first.pid").read_text())

    def _import(self, archive: Path) -> None:
        socket = settings.Places(self.folder).socket
        words = [str(self.runtime.ctr), "--address", str(socket), "--namespace", "k8s.io"]
        done = subprocess.run([*words, "images", "import", str(archive)], capture_output=True, text=True)
        archive.unlink()
        if done.returncode:
            raise Broken(f"containerd takes no image: {done.stderr.strip()}")

    def _admit(self, port: int) -> None:
        """Rights of a node, and the API server's address in the node's network."""
        self.api.apply(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": "trimode-e2e:node"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node"},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes"}],
            }
        )
        self.api.apply(
            {
                "apiVersion": "v1",
                "kind": "Endpoints",
                "metadata": {"name": "kubernetes", "namespace": "default"},
                "subsets": [{"addresses": [{"ip": settings.ADDRESS}], "ports": [{"name": "https", "port": port}]}],
            }
        )

    def _start_scheduler(self) -> None:
        kubeconfig = self.plane.kubeconfig_of("system:kube-scheduler")
        flags = {
            "kubeconfig": kubeconfig,
            "authentication-kubeconfig": kubeconfig,
            "authorization-kubeconfig": kubeconfig,
            "bind-address": "127.0.0.1",
            "secure-port": free_ports(1)[0],
            "port": 0,
            "leader-elect": "false",
        }
        words = [f"--{flag}={value}" for flag, value in flags.items()]
        program = str(self.runtime.kubernetes / "kube-scheduler")
        self.scheduler = Program.start("kube-scheduler", [program, *words], self.folder / "kube-scheduler.log")

    def _ready(self) -> bool:
        node = self.api.get("v1", "Node", settings.NAME) or {}
        conditions = node.get("status", {}).get("conditions") or []
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
