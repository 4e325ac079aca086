"""Configuration files and command lines of a node's programs.

Belongs here: pure text and data, nothing that runs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimode_e2e.node.runtime import Runtime

NAME = "node"
BRIDGE = "trimode0"
ADDRESS, SUBNET = "10.88.0.1", "10.88.0.0/24"
"""Of the node and of its pods, seen only inside the node's own network."""

PAUSE = "docker.io/local/pause:1"

KERNEL = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
"""What kubelet wants of the kernel and would set. The node sees files with these values instead, the machine keeps
its own."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where a node keeps what, below `folder`."""

    folder: Path

    @property
    def socket(self) -> Path:
        return self.folder / "containerd.sock"

    @property
    def containerd(self) -> Path:
        return self.folder / "containerd.toml"

    @property
    def kubelet(self) -> Path:
        return self.folder / "kubelet.json"

    @property
    def networks(self) -> Path:
        return self.folder / "cni"

    @property
    def names(self) -> Path:
        return self.folder / "resolv.conf"

    @property
    def hidden(self) -> dict[str, Path]:
        """Folders of the machine that the node must not write to, and what it sees there."""
        return {f"/var/{name}": self.folder / name for name in ("lib", "log")}


def write(places: Places, runtime: Runtime, cgroup: str) -> None:
    """All files that the programs read."""
    for folder in (places.networks, *places.hidden.values()):
        folder.mkdir()
    places.containerd.write_text(_containerd(places, runtime))
    places.kubelet.write_text(json.dumps(_kubelet(places, cgroup)))
    (places.networks / "10-bridge.conflist").write_text(json.dumps(_network(places)))
    places.names.write_text("nameserver 127.0.0.1\n")  # there is no cluster DNS, and no other


def programs(places: Places, runtime: Runtime, kubeconfigs: dict[str, Path]) -> list[dict[str, Any]]:
    """Name, command line, and the file that must be there before it is started."""
    kubelet = {
        "config": places.kubelet,
        "kubeconfig": kubeconfigs["kubelet"],
        "container-runtime": "remote",
        "container-runtime-endpoint": f"unix://{places.socket}",
        "root-dir": places.folder / "kubelet",
        "cert-dir": places.folder / "kubelet-pki",
        "hostname-override": NAME,
        "node-ip": ADDRESS,
    }
    proxy = {
        "kubeconfig": kubeconfigs["kube-proxy"],
        "proxy-mode": "iptables",
        "hostname-override": NAME,
        "masquerade-all": "true",
        "bind-address": ADDRESS,
        "conntrack-max-per-core": 0,
        "conntrack-tcp-timeout-established": 0,
        "conntrack-tcp-timeout-close-wait": 0,
    }
    flagged = {"kubelet": kubelet, "kube-proxy": proxy}
    commands = {"containerd": [str(runtime.containerd), "--config", str(places.containerd)]} | {
        name: [str(runtime.kubernetes / name), *(f"--{flag}={value}" for flag, value in flags.items())]
        for name, flags in flagged.items()
    }
    waits = {"kubelet": str(places.socket)}
    return [{"name": name, "command": command, "after": waits.get(name)} for name, command in commands.items()]


def _containerd(places: Places, runtime: Runtime) -> str:
    return f"""version = 2
root = "{places.folder}/containerd-root"
state = "{places.folder}/containerd-state"
[grpc]
  address = "{places.socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{runtime.network_plugins}"
    conf_dir = "{places.networks}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
      BinaryName = "{runtime.runc}"
"""


def _kubelet(places: Places, cgroup: str) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": ADDRESS,
        "readOnlyPort": 0,
        "healthzPort": 0,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}",
        "failSwapOn": False,
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "resolvConf": str(places.names),
        "volumePluginDir": str(places.folder / "volume-plugins"),
        # A machine whose disk is rather full is fit for tests all the same.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
    }


def _network(places: Places) -> dict[str, Any]:
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": SUBNET}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": str(places.folder / "addresses"),
    }
    bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "hairpinMode": True, "ipam": addresses}
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}
