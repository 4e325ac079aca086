"""Faults of a control plane of ours and of what runs on its node: each is a `with` block.

At its end everything is as it was, but for what the fault has killed.

Belongs here: how a fault is made. What has to survive it is the tests' matter.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from trimode_e2e import kuberay
from trimode_e2e.api import Object
from trimode_e2e.control.plane import ControlPlane
from trimode_e2e.errors import Broken
from trimode_e2e.kubectl import Kubectl
from trimode_e2e.node.node import RealNode

ETCD_STOPS_S, ETCD_GOES_ON_S = 1.5, 0.5
"""Shorter than any client's timeout: all is slow, and nothing fails at once."""
_HOG = """
import sys
with open(sys.argv[1], "w") as group:
    group.write("0")
kept = []
while True:
    kept.append(b"x" * (32 << 20))
"""


@contextmanager
def cut_off(node: RealNode, pod: Object) -> Iterator[None]:
    """The API server hears nothing of this pod, neither by new connections nor by old ones; nobody is told."""
    service = node.api.get("v1", "Service", "kubernetes", "default")
    assert service is not None
    # Before kube-proxy's rules give the packet another destination.
    rule = ["PREROUTING", "-s", pod["status"]["podIP"], "-d", service["spec"]["clusterIP"], "-j", "DROP"]
    _iptables(node, "-I", *rule)
    try:
        yield
    finally:
        _iptables(node, "-D", *rule)


@contextmanager
def api_server_away(plane: ControlPlane) -> Iterator[None]:
    """Stopped; started again at the end, which returns once it is ready."""
    plane.stop_api_server()
    try:
        yield
    finally:
        plane.start_api_server()


@contextmanager
def slow_etcd(plane: ControlPlane) -> Iterator[None]:
    """etcd stands still again and again, as on a disk that cannot keep up."""
    process, ending = plane.programs["etcd"].process, threading.Event()

    def stutter() -> None:
        while not ending.wait(ETCD_GOES_ON_S):
            process.send_signal(signal.SIGSTOP)
            ending.wait(ETCD_STOPS_S)
            process.send_signal(signal.SIGCONT)

    thread = threading.Thread(target=stutter, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


@contextmanager
def kuberay_away(kubectl: Kubectl) -> Iterator[None]:
    """Its Deployment without pods; its definitions and objects stay. Scaled up again at the end, not awaited."""
    place = ("-n", kuberay.NAMESPACE)
    kubectl("scale", f"deployment/{kuberay.NAME}", "--replicas=0", *place)
    try:
        kubectl("wait", "pod", "--all", "--for=delete", "--timeout=60s", *place)
        yield
    finally:
        kubectl("scale", f"deployment/{kuberay.NAME}", "--replicas=1", *place)


@contextmanager
def paused(node: RealNode, program: str) -> Iterator[None]:
    """One of the node's programs stands still, as on a machine that hangs."""
    node.pause(program)
    try:
        yield
    finally:
        node.go_on(program)


@contextmanager
def no_memory_left(node: RealNode, pod: Object, container: str) -> Iterator[None]:
    """Something takes all memory of a container, up to its limit, and the kernel kills its processes for it: those
    of pods before others, because kubelet marks them so (oom_score_adj above 900)."""
    command = [sys.executable, "-c", _HOG, str(node.memory_group(pod, container) / "cgroup.procs")]
    hog = subprocess.Popen(command)
    try:
        yield
    finally:
        hog.kill()
        hog.wait()


@contextmanager
def drained(kubectl: Kubectl, name: str, selector: str, patience_s: int) -> Iterator[str]:
    """`kubectl drain` of pods with these labels, as far as budgets let it within that time; its words where it ends
    without having drained all. The node takes pods again at the end."""
    words = ("--ignore-daemonsets", "--delete-emptydir-data", f"--pod-selector={selector}", f"--timeout={patience_s}s")
    try:
        yield kubectl.attempt("drain", name, *words).stderr
    finally:
        kubectl("uncordon", name)


def _iptables(node: RealNode, *words: str) -> None:
    command = ["iptables", "-w", "-t", "mangle", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=node.runtime.environment())
    if done.returncode:
        raise Broken(f"{' '.join(command)}: {done.stderr.strip()}")
