"""Configuration files and command lines of a node's programs.

Belongs here: pure text and data, nothing that runs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimode_e2e.node.network import ADDRESS
from trimode_e2e.node.runtime import Runtime

NAME = "node"
PODS = "10.88.1.0/24"
DOMAIN = "cluster.local"
PAUSE = "docker.io/local/pause:1"
POLICY_QUEUE = 98

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
class Users:
    """Kubeconfigs of the node's programs, and the certificate by which kubelet knows the API server."""

    kubelet: Path
    proxy: Path
    admin: Path
    authority: Path


@dataclass(frozen=True, slots=True)
class Places:
    """Where a node keeps what, below `folder`."""

    folder: Path

    @property
    def socket(self) -> Path:
        return self.folder / "containerd.sock"

    @property
    def images(self) -> Path:
        """containerd's root."""
        return self.folder / "containerd-root"

    @property
    def networks(self) -> Path:
        return self.folder / "cni"

    @property
    def hidden(self) -> dict[str, Path]:
        """Folders of the machine that the node must not write to, and what it sees there."""
        return {f"/var/{name}": self.folder / name for name in ("lib", "log")}


def write(places: Places, runtime: Runtime, users: Users, cgroup: str) -> None:
    """All files that the programs read."""
    for folder in (places.networks, *places.hidden.values()):
        folder.mkdir()
    (places.folder / "containerd.toml").write_text(_containerd(places, runtime))
    (places.folder / "kubelet.json").write_text(json.dumps(_kubelet(places, users, cgroup)))
    (places.folder / "Corefile").write_text(_corefile(users))
    (places.networks / "10-pods.conflist").write_text(json.dumps(_network(places)))
    (places.folder / "resolv.conf").write_text("")  # nothing beyond the cluster


def before(runtime: Runtime) -> list[list[str]]:
    """Commands that come before the programs.

    kube-network-policies has new connections decided in user space and installs that by nftables' `queue`, which some
    kernels lack (the program goes on without). The same by iptables, which every kernel of a node has.
    """
    rule = ["-m", "conntrack", "--ctstate", "NEW", "-j", "NFQUEUE", "--queue-num", str(POLICY_QUEUE), "--queue-bypass"]
    return [["iptables", "-w", "-t", "mangle", "-A", "FORWARD", *rule]]


def programs(places: Places, runtime: Runtime, users: Users) -> list[dict[str, Any]]:
    """Name, command line, and the file that must be there before it is started."""
    folder = places.folder
    flagged: dict[str, dict[str, Any]] = {
        "containerd": {"config": folder / "containerd.toml"},
        "coredns": {"conf": folder / "Corefile"},
        "kubelet": {
            "config": folder / "kubelet.json",
            "kubeconfig": users.kubelet,
            "root-dir": folder / "kubelet",
            "cert-dir": folder / "kubelet-pki",
            "hostname-override": NAME,
            "node-ip": ADDRESS,
        },
        "kube-proxy": {
            "kubeconfig": users.proxy,
            "proxy-mode": "iptables",
            "hostname-override": NAME,
            "masquerade-all": "true",
            "bind-address": ADDRESS,
            "conntrack-max-per-core": 0,
            "conntrack-tcp-timeout-established": 0,
            "conntrack-tcp-timeout-close-wait": 0,
        },
    }
    return [
        {
            "name": name,
            "command": [str(runtime.programs / name), *(f"--{flag}={value}" for flag, value in flags.items())],
            "after": str(places.socket) if name == "kubelet" else None,
        }
        for name, flags in flagged.items()
    ]


def _containerd(places: Places, runtime: Runtime) -> str:
    return f"""version = 3
root = "{places.images}"
state = "{places.folder}/containerd-state"
[grpc]
  address = "{places.socket}"
# Layers are linked into its content before the image that names them is known: collected in between, the image was
# refused for a layer that is not found.
[plugins."io.containerd.gc.v1.scheduler"]
  startup_delay = "10m"
  mutation_threshold = 100000
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{PAUSE}"
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["{runtime.network_plugins}"]
  conf_dir = "{places.networks}"
[plugins."io.containerd.cri.v1.runtime".containerd]
  default_runtime_name = "runc"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  SystemdCgroup = false
  BinaryName = "{runtime.runc}"
"""


def _kubelet(places: Places, users: Users, cgroup: str) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": ADDRESS,
        "containerRuntimeEndpoint": f"unix://{places.socket}",
        "clusterDNS": [ADDRESS],
        "clusterDomain": DOMAIN,
        "readOnlyPort": 0,
        "healthzPort": 0,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": str(users.authority)},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "resolvConf": str(places.folder / "resolv.conf"),
        "volumePluginDir": str(places.folder / "volume-plugins"),
        # A machine whose disk is rather full is fit for tests all the same.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "serializeImagePulls": False,
    }


def _corefile(users: Users) -> str:
    """The cluster's DNS, on the node as NodeLocal DNSCache is."""
    return f"""{DOMAIN}:53 in-addr.arpa:53 {{
    bind {ADDRESS}
    errors
    cache 5
    kubernetes {DOMAIN} in-addr.arpa {{
        kubeconfig {users.admin}
        ttl 5
    }}
}}
"""


def _network(places: Places) -> dict[str, Any]:
    # Each pod on a route of its own: what goes from pod to pod is forwarded, and so passes the packet filters.
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": PODS}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": str(places.folder / "addresses"),
    }
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "ptp", "ipam": addresses}]}
