"""A Ray of our own on the loopback interface, beside any other Ray on the machine.

Belongs here: starting and ending Ray. `ray.init` always listens on the machine's outward address, brings a monitor,
a dashboard and a log monitor that one machine does not need (190 MB, 4 s), and so the head is put together here from
Ray's own parts. They are internal to Ray: the package pins its minor version, and a test starts it.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from trimode_local.errors import CliError, StartFailed

LOOPBACK = "127.0.0.1"
OBJECT_STORE_BYTES = 80 << 20
"""Ray's smallest is 75 MiB. Nothing of ours goes through the object store."""

START_TIMEOUT_S = 180.0
LONGEST_TEMP = 24
"""Characters: a socket's path has 107, and Ray's own part of it takes 70."""

_AGENTS = ("--dashboard_agent_command=", "--runtime_env_agent_command=")
_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
_UNUSED_PORT = 1024
_NOT_IN_USE = -1
"""What an agent writes into a port's file where it does not serve it."""

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_gcs_server_request_timeout_seconds": "15",
    # Ray's own 15 would have every other process of the machine go before the engines.
    "RAY_worker_niceness": "0",
    "RAY_preload_python_modules": "trimode_local.ray_worker",
}


@dataclass(slots=True)
class LocalRay:
    """A running Ray; `stop` ends it."""

    node: Any

    @property
    def address(self) -> str:
        return str(self.node.gcs_address)

    def stop(self) -> None:
        """End all of it. Safe after a failed start."""
        import ray

        ray.shutdown()
        self.node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)


def prepare_environment(environment: dict[str, str]) -> None:
    """What Ray's processes inherit. Must run before `ray` is imported; it reads the environment while importing.

    A token of its own keeps other users of this machine out, and other Rays' settings are not for this one.
    """
    for name in [name for name in environment if name in ("RAY_ADDRESS", "RAY_NAMESPACE", "RAY_AUTH_TOKEN_PATH")]:
        del environment[name]
    environment.update(QUIET)
    environment["RAY_AUTH_MODE"] = "token"
    environment["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def start(folder: Path, num_cpus: int, num_gpus: int, go_on: Callable[[], None]) -> LocalRay:
    """Start Ray and connect this process to it; its files go below `folder`, see `short_folder`.

    Call from the main thread: the parts die with the thread. `go_on` is asked while waiting and may raise. Raises
    StartFailed; parts may be left running then.
    """
    import ray
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    class Head(Node):
        """A head node without a dashboard, given time."""

        def start_ray_processes(self) -> None:
            session = self.get_session_dir_path()  # type: ignore[no-untyped-call]
            for name in _PORTS:
                raylet.persist_port(session, self.node_id, name, _NOT_IN_USE)
            # Ray itself gives a node 30 s to appear, which a busy machine with slow disks exceeds.
            services.get_node = _patient(services.get_node, self.remaining_processes_alive, go_on)
            super().start_ray_processes()  # type: ignore[no-untyped-call]

        def start_raylet(self, *arguments: Any, **options: Any) -> None:
            services.start_ray_process = _without_agents(services.start_ray_process)
            super().start_raylet(*arguments, **options)

        def start_api_server(self, **_: Any) -> None:
            return

    raylet: Any = import_module("ray._raylet")
    services: Any = import_module("ray._private.services")
    # Ray turns a loopback address into the machine's outward one wherever it meets it, by this function.
    services.node_ip_address_from_perspective = lambda address=None: LOOPBACK
    parameters: Any = RayParams
    params = parameters(
        node_ip_address=LOOPBACK,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        object_store_memory=OBJECT_STORE_BYTES,
        temp_dir=str(folder),
        # Dashboard, monitor and log monitor cost 190 MB and 4 s of start-up.
        include_dashboard=False,
        include_log_monitor=False,
        no_monitor=True,
        dashboard_agent_listen_port=0,
        runtime_env_agent_port=_UNUSED_PORT,
    )
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        node = Head(params, head=True, shutdown_at_exit=False, spawn_reaper=True)
        with _own_signals():
            ray.init(address=node.gcs_address, log_to_driver=False, configure_logging=False)
    except CliError:
        raise
    except Exception as exc:  # Ray raises bare Exception here
        raise StartFailed(f"Ray did not start: {exc}", "Is the machine very busy? Try again.") from exc
    return LocalRay(node)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Put the handlers back that Ray replaces: its own end the process on the spot."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _without_agents(start: Callable[..., Any]) -> Callable[..., Any]:
    """Ray's starter of processes, with a stand-in for the two agents of its node manager.

    They carry metrics, jobs and runtime environments, of which there are none, for 150 MB, and the node manager
    aborts where they take more than 15 s to start. `cat` ends when the node manager does, as they would.
    """

    def instead(word: str) -> str:
        agent = next((flag for flag in _AGENTS if word.startswith(flag)), None)
        return word if agent is None else agent + "cat"

    def start_without(command: list[str], *arguments: Any, **options: Any) -> Any:
        return start([instead(word) for word in command], *arguments, **options)

    return start_without


def _patient(get_node: Callable[..., Any], alive: Callable[[], bool], go_on: Callable[[], None]) -> Callable[..., Any]:
    """`get_node` that waits for the node as long as its processes live; Ray itself gives it 30 s."""
    deadline = time.monotonic() + START_TIMEOUT_S

    def wait(*arguments: Any) -> Any:
        while True:
            try:
                return get_node(*arguments)
            except RuntimeError as exc:
                go_on()
                if not alive():
                    raise StartFailed("Ray did not start: one of its processes ended") from exc
                if time.monotonic() > deadline:
                    raise StartFailed(f"Ray did not start within {START_TIMEOUT_S:g} s") from exc
                time.sleep(0.1)

    return wait


def short_folder() -> str:
    """Where temporary files go, unless its name is too long for the Unix sockets that Ray puts below it."""
    folder = tempfile.gettempdir()
    return folder if len(folder) <= LONGEST_TEMP else "/tmp"


def adopt_environment() -> None:
    """Prepare this process's own environment."""
    values = dict(os.environ)
    prepare_environment(values)
    for name in set(os.environ) - set(values):
        del os.environ[name]
    os.environ.update(values)
