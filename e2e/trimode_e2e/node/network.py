"""A network of the tests' own, which the test process itself enters.

A new network namespace has no way out: whatever a test, a pod or a Service sends stays on this machine, whatever its
addresses are, and with the last process in it end its interfaces, routes and packet filters.

Belongs here: namespaces, interfaces, routes. Linux only, root only.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

from trimode_e2e.errors import Broken

INTERFACE, ADDRESS, PREFIX = "node0", "10.88.0.1", 24
"""Of the one node, on which control plane and tests run beside kubelet."""

_NEW_NETWORK = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


def enter() -> None:
    """Leave this machine's network for a new one, with loopback and the node's address. Once; there is no way back.

    Only the calling thread and those that it starts later move, so this comes first. Raises Broken where the kernel
    refuses.
    """
    if _LIBC.unshare(_NEW_NETWORK):
        raise Broken(f"no network namespace: {os.strerror(ctypes.get_errno())}")
    for words in (
        ("link", "set", "lo", "up"),
        ("link", "add", INTERFACE, "type", "bridge"),
        ("address", "add", f"{ADDRESS}/{PREFIX}", "dev", INTERFACE),
        ("link", "set", INTERFACE, "up"),
        # Addresses of Services belong to no interface: without any route a process of the node cannot even begin to
        # connect, and kube-proxy's rules never see the packet.
        ("route", "add", "default", "dev", INTERFACE),
    ):
        _ip(*words)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def add_address(address: str) -> None:
    """Of this node, too, in such a network."""
    _ip("address", "add", f"{address}/32", "dev", INTERFACE)


def entered() -> bool:
    """Whether this process is in such a network."""
    return Path(f"/sys/class/net/{INTERFACE}").exists() or INTERFACE in Path("/proc/self/net/dev").read_text()


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise Broken(f"ip {' '.join(words)}: {done.stderr.strip()}")
