"""Helm's library, asked from outside: a job as JSON in each line of stdin, its answer in a line of stdout.

Runs under a Python (3.12 or newer) that has `helm-sdkpy`, which embeds Helm's own Go library. The library has no
`helm template`: what it renders, it installs. So `render` installs into an API server of this process that knows
discovery and remembers objects, and nothing more; with a kubeconfig, `install` and `uninstall` act on a real one.

Belongs here: that translation. Nothing of trimode is imported, since this runs outside the project's environment.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import helm_sdkpy  # type: ignore[import-not-found]

# Group versions that every cluster has and that charts may name: (plural, kind, namespaced).
BUILT_IN: dict[str, list[tuple[str, str, bool]]] = {
    "v1": [
        ("configmaps", "ConfigMap", True),
        ("endpoints", "Endpoints", True),
        ("events", "Event", True),
        ("namespaces", "Namespace", False),
        ("pods", "Pod", True),
        ("secrets", "Secret", True),
        ("serviceaccounts", "ServiceAccount", True),
        ("services", "Service", True),
    ],
    "apps/v1": [("deployments", "Deployment", True)],
    "coordination.k8s.io/v1": [("leases", "Lease", True)],
    "apiextensions.k8s.io/v1": [("customresourcedefinitions", "CustomResourceDefinition", False)],
    "networking.k8s.io/v1": [("networkpolicies", "NetworkPolicy", True)],
    "rbac.authorization.k8s.io/v1": [
        ("clusterroles", "ClusterRole", False),
        ("clusterrolebindings", "ClusterRoleBinding", False),
        ("roles", "Role", True),
        ("rolebindings", "RoleBinding", True),
    ],
}
# Those that a cluster may lack: a job names the ones its cluster has.
OPTIONAL: dict[str, list[tuple[str, str, bool]]] = {
    "policy/v1": [("poddisruptionbudgets", "PodDisruptionBudget", True)],
    "monitoring.coreos.com/v1": [
        ("servicemonitors", "ServiceMonitor", True),
        ("prometheusrules", "PrometheusRule", True),
    ],
}


class Cluster(ThreadingHTTPServer):
    """Discovery and a store of objects by path, on the loopback interface."""

    daemon_threads = True

    def __init__(self, optional: list[str], version: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.kinds = BUILT_IN | {group: OPTIONAL[group] for group in optional}
        self.version = version
        self.objects: dict[str, Any] = {}

    @property
    def kubeconfig(self) -> str:
        server = f"http://127.0.0.1:{self.server_address[1]}"
        return (
            "apiVersion: v1\nkind: Config\ncurrent-context: x\n"
            f"clusters: [{{name: c, cluster: {{server: '{server}'}}}}]\n"
            "users: [{name: u, user: {}}]\ncontexts: [{name: x, context: {cluster: c, user: u}}]\n"
        )

    def discovery(self, path: str) -> Any:
        """The answer of a discovery path, or None."""
        groups: dict[str, list[str]] = {}
        for name in self.kinds:
            group, _, version = name.rpartition("/")
            groups.setdefault(group, []).append(version)
        if path == "/version":
            major, minor, _ = self.version.split(".")
            return {"major": major, "minor": minor, "gitVersion": f"v{self.version}"}
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            return {
                "kind": "APIGroupList",
                "apiVersion": "v1",
                "groups": [_group(g, v) for g, v in groups.items() if g],
            }
        name = path.removeprefix("/apis/").removeprefix("/api/")
        if name in self.kinds:
            resources = [
                {"name": plural, "singularName": "", "kind": kind, "namespaced": spaced, "verbs": ["create", "get"]}
                for plural, kind, spaced in self.kinds[name]
            ]
            return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": resources}
        return None


def _group(name: str, versions: list[str]) -> dict[str, Any]:
    known = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": known, "preferredVersion": known[0]}


class _Handler(BaseHTTPRequestHandler):
    server: Cluster
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: who talks to it is in this very process."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        found = self.server.discovery(path) or self.server.objects.get(path)
        if found is None and path.endswith("/secrets"):
            found = {"kind": "SecretList", "apiVersion": "v1", "metadata": {}, "items": []}
        self._answer(200, found) if found is not None else self._missing(path)

    def do_POST(self) -> None:
        self._store(self.path.partition("?")[0], 201)

    def do_PUT(self) -> None:
        self._store(self.path.partition("?")[0].rpartition("/")[0], 200)

    def _store(self, folder: str, status: int) -> None:
        item = json.loads(self.rfile.read(int(self.headers["content-length"])))
        item["metadata"] |= {"uid": f"u{len(self.server.objects)}", "resourceVersion": "1"}
        if item["kind"] == "CustomResourceDefinition":
            item["status"] = {"conditions": [{"type": "Established", "status": "True"}]}
        self.server.objects[f"{folder}/{item['metadata']['name']}"] = item
        self._answer(status, item)

    def _missing(self, path: str) -> None:
        self._answer(
            404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        )

    def _answer(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


async def render(job: dict[str, Any]) -> dict[str, Any]:
    """The manifest and the notes of an installation into a cluster that has the job's `optional` APIs."""
    cluster = Cluster(job["optional"], job["version"])
    threading.Thread(target=cluster.serve_forever, daemon=True).start()
    try:
        return await install(job | {"kubeconfig": cluster.kubeconfig})
    finally:
        cluster.shutdown()


async def install(job: dict[str, Any]) -> dict[str, Any]:
    """Installs without waiting for pods; makes the namespace where the job's cluster is a real one."""
    config = helm_sdkpy.Configuration(namespace=job["namespace"], kubeconfig=job["kubeconfig"])
    await helm_sdkpy.Install(config).run(
        job["release"],
        job["chart"],
        values=job["values"],
        create_namespace=job["do"] == "install",
        wait=False,
        timeout=60,
    )
    return dict(await helm_sdkpy.Status(config).run(job["release"]))


async def upgrade(job: dict[str, Any]) -> dict[str, Any]:
    """Upgrades to exactly these values, without waiting for pods."""
    config = helm_sdkpy.Configuration(namespace=job["namespace"], kubeconfig=job["kubeconfig"])
    await helm_sdkpy.Upgrade(config).run(
        job["release"], job["chart"], values=job["values"], reset_values=True, wait=False, timeout=60
    )
    return dict(await helm_sdkpy.Status(config).run(job["release"]))


async def uninstall(job: dict[str, Any]) -> dict[str, Any]:
    """Uninstalls, and returns when everything is gone."""
    config = helm_sdkpy.Configuration(namespace=job["namespace"], kubeconfig=job["kubeconfig"])
    return dict(await helm_sdkpy.Uninstall(config).run(job["release"], wait=True, timeout=60))


async def lint(job: dict[str, Any]) -> dict[str, Any]:
    """Helm's findings on a chart with its default values."""
    config = helm_sdkpy.Configuration()
    return dict(await helm_sdkpy.Lint(config).run(job["chart"]))


JOBS = {
    "render": render,
    "lint": lint,
    "install": install,
    "upgrade": upgrade,
    "uninstall": uninstall,
}


def answer(line: str) -> dict[str, Any]:
    """{"result": ...} or {"error": text}: what Helm refuses is an answer too."""
    job = json.loads(line)
    try:
        return {"result": asyncio.run(JOBS[job["do"]](job))}
    except helm_sdkpy.HelmError as error:
        return {"error": str(error)}


def main() -> None:
    # Helm logs to stdout here and there, so answers go to the file that stdout was.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            answers.write(json.dumps(answer(line)) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
