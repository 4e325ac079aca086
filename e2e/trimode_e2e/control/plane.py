"""etcd, kube-apiserver, kube-controller-manager and kube-scheduler, in a folder of their own.

Belongs here: their command lines, the order of their start and end. Where the binaries come from is `provide`'s.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import ssl
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from trimode_e2e.control.certificates import Authority, Pair, kubeconfig, signing_key
from trimode_e2e.control.programs import Program
from trimode_e2e.errors import Missing

READY_TIMEOUT_S = 180.0
ADMINS = ("system:masters",)
CONTROLLERS = ("kube-controller-manager", "kube-scheduler")
SERVICES = "10.96.0.0/16"
"""Addresses of Services. They exist in the network namespace of the tests only."""

_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}
"""Who did what to which object, one JSON line each: the tests count writes with it."""


@dataclass(slots=True)
class ControlPlane:
    """One control plane. `start` brings it up, `stop` ends all of it, also after a failed start.

    `address` is where the API server listens: the loopback interface, or a node's address in a network of its own,
    where pods reach it as the Service `kubernetes`.
    """

    binaries: Path
    folder: Path
    address: str = "127.0.0.1"
    etcd: Path | None = None
    """Where it lies, if not among the binaries."""
    programs: dict[str, Program] = field(default_factory=dict)
    _port: int = 0
    _etcd_ports: tuple[int, int] = (0, 0)
    _authority: Authority = field(init=False, repr=False)
    _proxy_authority: Authority = field(init=False, repr=False)
    _serving: Pair = field(init=False, repr=False)
    _proxy: Pair = field(init=False, repr=False)
    _kubelet_client: Pair = field(init=False, repr=False)

    @property
    def has_controllers(self) -> bool:
        """Whether Deployments make pods and owners' ends reach their children: envtest brings no such program."""
        return all((self.binaries / name).exists() for name in CONTROLLERS)

    @property
    def server(self) -> str:
        return f"https://{self.address}:{self._port}"

    @property
    def admin(self) -> Path:
        """The kubeconfig that may do everything."""
        return self.folder / "admin.kubeconfig"

    @property
    def authority(self) -> Path:
        """The certificate that signs everybody's."""
        return self._authority.pair.certificate

    @property
    def audit_log(self) -> Path:
        return self.folder / "audit.log"

    def start(self) -> None:
        """Raises Missing where a binary is not there and Broken where one does not come up."""
        for file in (self._etcd, self.binaries / "kube-apiserver"):
            if not file.exists():
                raise Missing(f"{file.parent} has no {file.name}")
        self._port, *etcd = free_ports(3)
        self._etcd_ports = (etcd[0], etcd[1])
        self._write_files()
        self._start_etcd()
        self.start_api_server()
        if self.has_controllers:
            self._start_controllers()

    def stop(self) -> None:
        """End everything, last started first."""
        for program in reversed(self.programs.values()):
            program.stop()
        self.programs.clear()

    def start_api_server(self) -> None:
        """Also after `stop_api_server`: with the same keys, address and data."""
        program = self._launch("kube-apiserver", self._api_server_flags())
        program.wait_until(self._ready, READY_TIMEOUT_S)

    def stop_api_server(self) -> None:
        """Take the API server away; everything else stays."""
        self.programs.pop("kube-apiserver").stop()

    def kubeconfig_of(self, user: str, groups: tuple[str, ...] = ()) -> Path:
        """A kubeconfig for any user, such as `system:serviceaccount:NAMESPACE:NAME`."""
        file = self.folder / f"{user.replace(':', '_')}.kubeconfig"
        return kubeconfig(file, self.server, self._authority.pair.certificate, self._authority.client(user, groups))

    def _write_files(self) -> None:
        self._authority = Authority.create(self.folder, "ca")
        self._proxy_authority = Authority.create(self.folder, "front-proxy-ca")
        signing_key(self._token_key)
        (self.folder / "audit-policy.json").write_text(json.dumps(_AUDIT_POLICY))
        self._serving = self._authority.server("kube-apiserver", self.address)
        self._proxy = self._proxy_authority.client("front-proxy")
        self._kubelet_client = self._authority.client("kube-apiserver-kubelet-client", ADMINS)
        ca = self._authority.pair.certificate
        kubeconfig(self.admin, self.server, ca, self._authority.client("admin", ADMINS))

    @property
    def _etcd(self) -> Path:
        return self.etcd or self.binaries / "etcd"

    @property
    def _token_key(self) -> Path:
        return self.folder / "service-accounts.key"

    def _start_etcd(self) -> None:
        client, peer = (f"http://127.0.0.1:{port}" for port in self._etcd_ports)
        self._launch(
            "etcd",
            {
                "data-dir": self.folder / "etcd",
                "listen-client-urls": client,
                "advertise-client-urls": client,
                "listen-peer-urls": peer,
                "initial-advertise-peer-urls": peer,
                "initial-cluster": f"default={peer}",
                "unsafe-no-fsync": "true",
            },
        )

    def _api_server_flags(self) -> dict[str, object]:
        issuer = "https://kubernetes.default.svc"
        return {
            "etcd-servers": f"http://127.0.0.1:{self._etcd_ports[0]}",
            "bind-address": self.address,
            "advertise-address": self.address,
            # No pod reaches a loopback address: then the Service `kubernetes` has no endpoint.
            "endpoint-reconciler-type": "none" if self.address.startswith("127.") else "lease",
            "secure-port": self._port,
            "tls-cert-file": self._serving.certificate,
            "tls-private-key-file": self._serving.key,
            "client-ca-file": self._authority.pair.certificate,
            "service-account-issuer": issuer,
            "service-account-key-file": self._token_key,
            "service-account-signing-key-file": self._token_key,
            "api-audiences": issuer,
            "requestheader-client-ca-file": self._proxy_authority.pair.certificate,
            "requestheader-allowed-names": "front-proxy",
            "requestheader-username-headers": "X-Remote-User",
            "requestheader-group-headers": "X-Remote-Group",
            "requestheader-extra-headers-prefix": "X-Remote-Extra-",
            "proxy-client-cert-file": self._proxy.certificate,
            "proxy-client-key-file": self._proxy.key,
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "kubelet-client-certificate": self._kubelet_client.certificate,
            "kubelet-client-key": self._kubelet_client.key,
            "kubelet-preferred-address-types": "InternalIP",
            "allow-privileged": "true",
            "service-cluster-ip-range": SERVICES,
            "audit-policy-file": self.folder / "audit-policy.json",
            "audit-log-path": self.audit_log,
        }

    def _start_controllers(self) -> None:
        for name in CONTROLLERS:
            user = self.kubeconfig_of(f"system:{name}")
            flags: dict[str, object] = {
                "kubeconfig": user,
                "authentication-kubeconfig": user,
                "authorization-kubeconfig": user,
                "bind-address": "127.0.0.1",
                "secure-port": free_ports(1)[0],
                "leader-elect": "false",
            }
            if name == "kube-controller-manager":
                flags |= {
                    "service-account-private-key-file": self._token_key,
                    "root-ca-file": self._authority.pair.certificate,
                    "use-service-account-credentials": "true",
                }
            self._launch(name, flags)

    def _launch(self, name: str, flags: dict[str, object]) -> Program:
        words = [f"--{flag}={value}" for flag, value in flags.items()]
        file = self._etcd if name == "etcd" else self.binaries / name
        # A test run that is killed runs no end of its own: then the kernel ends what it started.
        bound = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        program = Program.start(name, [*bound, str(file), *words], self.folder / f"{name}.log")
        self.programs[name] = program
        return program

    def _ready(self) -> bool:
        context = ssl.create_default_context(cafile=str(self._authority.pair.certificate))
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with contextlib.suppress(OSError), opener.open(f"{self.server}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
        return False


def free_ports(count: int) -> tuple[int, ...]:
    """Ports of the loopback interface that nobody uses now; different ones."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return tuple(each.getsockname()[1] for each in sockets)
