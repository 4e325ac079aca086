"""A Ray of our own on the loopback interface, beside any other Ray on the machine.

Belongs here: starting and ending Ray. `ray.init` always listens on the machine's outward address, brings a monitor,
a dashboard and a log monitor that one machine does not need (190 MB, 4 s), and so the head is put together here from
Ray's own parts. They are internal to Ray: the package pins its minor version, and a test starts it.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

LOOPBACK = "127.0.0.1"
OBJECT_STORE_BYTES = 80 << 20
"""Ray's smallest is 75 MiB. Nothing of ours goes through the object store."""

LONGEST_TEMP = 24
"""Characters: a socket's path has 107, and Ray's own part of it takes 70."""

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
}


@dataclass(slots=True)
class LocalRay:
    """A running Ray; `stop` ends it and removes its folder."""

    folder: Path
    node: Any

    @property
    def address(self) -> str:
        return str(self.node.gcs_address)

    def stop(self) -> None:
        """End all of it. Safe after a failed start."""
        import ray

        ray.shutdown()
        self.node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def prepare_environment(environment: dict[str, str]) -> None:
    """What Ray's processes inherit. Must run before `ray` is imported; it reads the environment while importing.

    A token of its own keeps other users of this machine out, and other Rays' settings are not for this one.
    """
    for name in [name for name in environment if name in ("RAY_ADDRESS", "RAY_NAMESPACE", "RAY_AUTH_TOKEN_PATH")]:
        del environment[name]
    environment.update(QUIET)
    environment["RAY_AUTH_MODE"] = "token"
    environment["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def start(num_cpus: int, num_gpus: int) -> LocalRay:
    """Start Ray and connect this process to it. Call from the main thread: the parts die with the thread."""
    import ray
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    class Head(Node):
        """A head node without a dashboard."""

        def start_api_server(self, **_: Any) -> None:
            return

    # Ray turns a loopback address into the machine's outward one wherever it meets it, by this function.
    services: Any = import_module("ray._private.services")
    services.node_ip_address_from_perspective = lambda address=None: LOOPBACK
    folder = Path(tempfile.mkdtemp(prefix="trimode-ray-", dir=_short_folder()))
    parameters: Any = RayParams
    params = parameters(
        node_ip_address=LOOPBACK,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        object_store_memory=OBJECT_STORE_BYTES,
        temp_dir=str(folder),
        include_dashboard=False,
        include_log_monitor=False,
        no_monitor=True,
        dashboard_agent_listen_port=0,
    )
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    node = Head(params, head=True, shutdown_at_exit=False, spawn_reaper=True)
    running = LocalRay(folder, node)
    try:
        ray.init(
            address=node.gcs_address,
            log_to_driver=False,
            configure_logging=False,
            runtime_env={"worker_process_setup_hook": "trimode_cli.up.ray_worker.loopback_only"},
        )
    except BaseException:
        running.stop()
        raise
    return running


def _short_folder() -> str:
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
