"""`python -m trimode_e2e.kuberay.ray_process FOLDER`: one Ray cluster, told what to be by JSON lines on stdin.

Belongs here: Ray itself. The head is `trimode up`'s own, each worker pod is a node manager of its own, and Serve gets
the RayService's configuration as it stands, through the controller call that the dashboard's REST interface makes.
One proxy, on the head, answers health checks: on one machine the others would want the same port.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from trimode_cli.up import ray_local

_GONE_LINES = ("stop", "")


@dataclass(slots=True)
class Group:
    """A worker group and the nodes that play its pods."""

    least: int
    most: int
    cpus: float
    gpus: float
    resources: dict[str, float]
    environment: dict[str, str]
    nodes: list[Any] = field(default_factory=list)


class RayCluster:
    """The cluster. Methods are the orders that come in."""

    def __init__(self, folder: Path) -> None:
        self._local = ray_local.start(folder, num_cpus=0, num_gpus=0, go_on=lambda: None)
        self._folder = folder
        self._groups: dict[str, Group] = {}
        self._applications: list[dict[str, Any]] = []
        self._health = ""

    def groups(self, wanted: dict[str, dict[str, Any]]) -> None:
        """New groups and new bounds."""
        for name, given in wanted.items():
            if name in self._groups:
                self._groups[name].least, self._groups[name].most = given["least"], given["most"]
            else:
                self._groups[name] = Group(**given)

    def deploy(self, config: str) -> None:
        """Submit `serveConfigV2`. Raises whatever Serve's own schema says."""
        from ray import serve
        from ray.serve.config import ProxyLocation
        from ray.serve.context import _get_global_client
        from ray.serve.schema import ServeDeploySchema

        parsed = yaml.safe_load(config)
        schema = ServeDeploySchema.model_validate(parsed)
        if not self._health:
            from trimode_e2e.control.plane import free_ports

            (port,) = free_ports(1)
            serve.start(proxy_location=ProxyLocation.HeadOnly, http_options={"host": ray_local.LOOPBACK, "port": port})
            self._health = f"http://{ray_local.LOOPBACK}:{port}/-/healthz"
        client: Any = _get_global_client()
        client.deploy_apps(schema)
        self._applications = parsed["applications"]

    def state(self) -> dict[str, Any]:
        """What Serve says, in the RayService's form; nodes are added and removed as the autoscaler would."""
        from ray import serve

        applications = serve.status().applications if self._health else {}
        replicas = {
            name: sum(_wanted(deployment) for deployment in app.deployments.values())
            for name, app in applications.items()
        }
        self._scale(replicas)
        serving = sum(
            _count(deployment, "RUNNING") for app in applications.values() for deployment in app.deployments.values()
        )
        return {
            "applications": {name: _application(app) for name, app in applications.items()},
            "workers": sum(len(group.nodes) for group in self._groups.values()),
            "endpoints": serving if self._healthy() else 0,
        }

    def kill_worker(self, group: str) -> None:
        """A worker pod is lost."""
        self._groups[group].nodes.pop(0).kill_all_processes(check_alive=False, allow_graceful=False, wait=True)

    def stop(self) -> None:
        for group in self._groups.values():
            for node in group.nodes:
                node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
        self._local.stop()

    def _healthy(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with contextlib.suppress(OSError, urllib.error.URLError), opener.open(self._health, timeout=2) as answer:
            return bool(answer.status == 200)
        return False

    def _scale(self, replicas: dict[str, int]) -> None:
        """One node per replica that asks for a group's own resource, within the group's bounds."""
        for group in self._groups.values():
            asking = sum(replicas.get(app["name"], 0) for app in self._applications if _asks(app, group.resources))
            wanted = max(group.least, min(asking, group.most))
            while len(group.nodes) < wanted:
                group.nodes.append(self._start_node(group))
            for node in self._idle(group)[: max(0, len(group.nodes) - wanted)]:
                group.nodes.remove(node)
                node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)

    def _idle(self, group: Group) -> list[Any]:
        """Nodes with nothing of ours on them."""
        free = import_module("ray._private.state").available_resources_per_node()

        def idle(node: Any) -> bool:
            left = free.get(node.node_id, {})
            return all(left.get(name, 0) >= amount for name, amount in group.resources.items())

        return [node for node in group.nodes if idle(node)]

    def _start_node(self, group: Group) -> Any:
        from ray._private.node import Node
        from ray._private.parameter import RayParams

        raylet: Any = import_module("ray._raylet")

        class Worker(Node):
            """A node without agents."""

            def start_ray_processes(self) -> None:
                session = self.get_session_dir_path()  # type: ignore[no-untyped-call]
                for name in ray_local._PORTS:
                    raylet.persist_port(session, self.node_id, name, ray_local._NOT_IN_USE)
                super().start_ray_processes()  # type: ignore[no-untyped-call]

        parameters: Any = RayParams
        params = parameters(
            gcs_address=self._local.address,
            node_ip_address=ray_local.LOOPBACK,
            num_cpus=group.cpus,
            num_gpus=group.gpus,
            resources=group.resources,
            object_store_memory=ray_local.OBJECT_STORE_BYTES,
            temp_dir=str(self._folder),
            include_log_monitor=False,
            node_manager_port=0,
            min_worker_port=0,
            max_worker_port=0,
            dashboard_agent_listen_port=0,
            runtime_env_agent_port=ray_local._UNUSED_PORT,
            env_vars=group.environment,
        )
        return Worker(params, head=False, shutdown_at_exit=False, spawn_reaper=True)


def _wanted(deployment: Any) -> int:
    return sum(_count(deployment, name) for name in ("STARTING", "RUNNING", "UPDATING", "RECOVERING"))


def _count(deployment: Any, state: str) -> int:
    """Replicas in a state of Serve's."""
    return int(deployment.replica_states.get(state, 0))


def _asks(application: dict[str, Any], resources: dict[str, float]) -> bool:
    asked: dict[str, Any] = {}
    for deployment in application.get("deployments", []):
        asked |= deployment.get("ray_actor_options", {}).get("resources", {})
    return bool(asked.keys() & resources.keys())


def _application(app: Any) -> dict[str, Any]:
    return {
        "status": str(app.status.value),
        "message": app.message,
        "serveDeploymentStatuses": {
            name: {"status": str(deployment.status.value), "message": deployment.message}
            for name, deployment in app.deployments.items()
        },
    }


def main() -> int:
    """Answers each order with a JSON line: `{"ok": VALUE}` or `{"error": WORDS}`."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints goes to the log
    ray_local.adopt_environment()
    try:
        cluster = RayCluster(Path(sys.argv[1]))
    except Exception as exc:  # noqa: BLE001 - told to whoever started this process
        print(json.dumps({"error": str(exc)}), file=answers, flush=True)
        return 1
    print(json.dumps({"ok": None}), file=answers, flush=True)
    try:
        for line in iter(sys.stdin.readline, ""):
            order = json.loads(line)
            if order["do"] in _GONE_LINES:
                break
            try:
                value = getattr(cluster, order["do"])(*order.get("with", []))
            except Exception as exc:  # noqa: BLE001 - an order's failure is its answer
                print(json.dumps({"error": f"{type(exc).__name__}: {exc}"}), file=answers, flush=True)
            else:
                print(json.dumps({"ok": value}), file=answers, flush=True)
    finally:
        cluster.stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
