"""The programs of a cluster, compiled once from pinned Go modules into the user's cache.

Belongs here: which program comes from which module, and the steps of the build. Versions are pinned by `go.mod` and
`go.sum` of the modules below `e2e/`, and nowhere else.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trimode_e2e.control.programs import run
from trimode_e2e.errors import Missing

CACHE = "TRIMODE_CLUSTER_CACHE"
E2E = Path(__file__).parents[2]
_FLAGS = ("-trimpath", "-tags", "providerless,selinux_off,no_btrfs,no_zfs,no_devmapper")
"""Without cloud providers and without what needs C libraries."""
_K8S = "k8s.io/kubernetes/cmd/"
_CONTAINERD = "github.com/containerd/containerd/v2/cmd/"

Say = Callable[[str], None]
"""Told of progress, one line at a time."""


@dataclass(frozen=True, slots=True)
class GoModule:
    """A folder below `e2e/` with a `go.mod`, and the main packages built from it by the names of their programs."""

    folder: str
    programs: dict[str, str]
    stamped: str = ""
    """Kubernetes' module, whose version its programs tell; they do not know it by themselves."""

    @property
    def path(self) -> Path:
        return E2E / self.folder

    def version(self, module: str) -> str:
        """The pinned version of a module, such as `v1.37.2`. Raises Missing where it is not pinned."""
        found = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", (self.path / "go.mod").read_text(), re.M)
        if found is None:
            raise Missing(f"{self.path / 'go.mod'} does not pin {module}")
        return found[1]

    def revision(self) -> str:
        """Changes whenever the same call would give other binaries."""
        digest = hashlib.sha256(repr((_FLAGS, sorted(self.programs.items()), self.stamped)).encode())
        for file in (self.path / "go.mod", self.path / "go.sum", *sorted(self.path.rglob("*.go"))):
            digest.update(file.read_bytes())
        return digest.hexdigest()[:12]


CLUSTER = GoModule(
    "cluster",
    {
        "etcd": "go.etcd.io/etcd/server/v3",
        **{
            name: f"{_K8S}{name}"
            for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
        },
        "kubectl": f"{_K8S}kubectl",
        **{name: f"{_CONTAINERD}{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")},
        "helm": "helm.sh/helm/v4/cmd/helm",
        "coredns": "./coredns",
        "kube-network-policies": "sigs.k8s.io/kube-network-policies/cmd",
    },
    "k8s.io/kubernetes",
)
"""The newest Kubernetes that the docs promise, with all that a node needs."""

OLDER = GoModule(
    "older",
    {"kuberay-operator": "github.com/ray-project/kuberay/ray-operator", "kube-apiserver": f"{_K8S}kube-apiserver"},
    "k8s.io/kubernetes",
)
"""KubeRay's operator, and the API server of the oldest Kubernetes that the docs promise: KubeRay is written against
that one's libraries and does not compile with the newest."""

GATEWAY = GoModule("gateway", {})
"""Definitions for gateways, of which nothing is compiled."""

KEDA = GoModule("keda", {})
"""KEDA's definitions; its operator, which brings the clouds' libraries, is not compiled."""

ENVOY_GATEWAY = GoModule("envoy-gateway", {"envoy-gateway": "github.com/envoyproxy/gateway/cmd/envoy-gateway"})
"""A controller of Gateway API, compiled only to record what it does: no test needs it."""

COLLECTOR = GoModule("otel-collector", {"otel-collector": "."})
"""OpenTelemetry's collector, compiled only to record what it understands."""

PICKER = GoModule("endpoint-picker", {"epp": "sigs.k8s.io/gateway-api-inference-extension/cmd/epp"})
"""The Inference Extension's endpoint picker, compiled only to record what it does."""

KUEUE = GoModule("kueue", {"kueue": "sigs.k8s.io/kueue/cmd/kueue"})
"""Kueue's controller, compiled only to record what it does."""


ALL = (CLUSTER, OLDER)


def cache_folder() -> Path:
    """TRIMODE_CLUSTER_CACHE, else below XDG_CACHE_HOME, else below ~/.cache."""
    if chosen := os.environ.get(CACHE):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "trimode" / "cluster"


def built(module: GoModule) -> Path | None:
    """The folder with the finished programs, if all of them are there."""
    folder = cache_folder() / f"{module.folder}-{module.revision()}"
    return folder if all((folder / name).exists() for name in module.programs) else None


def build(module: GoModule, say: Say) -> Path:
    """The folder with the programs, compiled first where they are missing. Raises Missing and Broken.

    One build at a time: a second one waits for the first and takes its result.
    """
    folder = cache_folder() / f"{module.folder}-{module.revision()}"
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "lock", say):
        for name, package in module.programs.items():
            if not (folder / name).exists():
                begun = time.monotonic()
                _compile(module, package, folder / name)
                say(f"built {name} from {package} in {time.monotonic() - begun:.0f} s")
    return folder


def module_folder(module: GoModule, name: str) -> Path:
    """Where the source of a pinned module lies, fetched first where it is not there yet."""
    run([_go(), "mod", "download", name], module.path, _environment())
    return Path(run([_go(), "list", "-m", "-f", "{{.Dir}}", name], module.path, _environment()).strip())


def _compile(module: GoModule, package: str, out: Path) -> None:
    stamps = ["-s", "-w"]
    if package.startswith(module.stamped or "-"):
        version = module.version(module.stamped)
        _, major, minor, *_ = re.split(r"[v.]", version)
        known = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "archive"}
        stamps += [f"-X k8s.io/component-base/version.{key}={value}" for key, value in known.items()]
    # Moved to its place in one step, so that a half-written program is never found.
    partial = out.with_suffix(".partial")
    command = [_go(), "build", *_FLAGS, "-ldflags", " ".join(stamps), "-o", str(partial), package]
    run(command, module.path, _environment())
    partial.rename(out)


def _go() -> str:
    found = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if found is None:
        raise Missing("the programs of a cluster are compiled by Go, which is not on the path: see https://go.dev/dl")
    return found


def _environment() -> dict[str, str]:
    # GOTOOLCHAIN: the go.mod names the toolchain, and an older go fetches it. GOFLAGS: the pins are not to change.
    return {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "auto", "GOFLAGS": "-mod=readonly"}


@contextmanager
def _locked(path: Path, say: Say) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another build ({path})")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
