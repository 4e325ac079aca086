"""What must hold before anything is started: a free port, a model that is there, enough of the machine.

Belongs here: checks that only look. A check that fails says what to do.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from trimode_api.resource import EngineType, NemotronDeployment
from trimode_api.spec import Router
from trimode_local.entry import Entry
from trimode_local.errors import BadInput
from trimode_local.plan import PoolPlan

Progress = Callable[[str, int, int], None]


def model_folder(deployment: NemotronDeployment, progress: Progress | None = None) -> Path:
    """The folder behind `spec.model.uri`, with the files of a model in it; `hf://` is downloaded first.

    `progress(file, bytes there, bytes in all)` is told of a download. Raises BadInput.
    """
    from trimode_workers.sources import Hub, ModelSource, SourceError, fetch, silent

    model, hub = deployment.spec.model, Hub.from_environment(os.environ)
    other = deployment.spec.engine.type is not EngineType.NATIVE
    try:
        source = ModelSource.parse(model.uri, model.revision)
        folder = fetch(source, hub, model.draft_adapter, progress or silent, code=other)
    except SourceError as exc:
        raise BadInput(f"spec.model.uri: {exc}") from exc
    missing = [name for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]
    if not any(folder.glob("*.safetensors")):
        missing.append("*.safetensors")
    if missing:
        raise BadInput(
            f"spec.model.uri: {model.uri!r}: {folder} holds no {', no '.join(missing)}",
            "A model is a Hugging Face folder: config.json, tokenizer.json and safetensors files.",
        )
    return folder


def check_port(host: str, port: int) -> None:
    """Raises BadInput where `host:port` cannot be listened on. Port 0 is any free one."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as exc:
        raise BadInput(f"--host {host}: {exc.strerror or exc}") from exc
    with socket.socket(family, kind, protocol) as probe:
        # As the router will listen: without it the connections that an earlier `up` has just closed make the port look
        # taken for a minute.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen()
        except OSError as exc:
            raise BadInput(
                f"cannot listen on {host}:{port}: {exc.strerror or exc}", f"Choose another one: --port {port + 1}"
            ) from exc


def check_machine(pools: Sequence[PoolPlan], gpus: int, cores: int, memory_bytes: int) -> tuple[str, ...]:
    """Warnings about what the machine is short of; BadInput where a replica could never be placed."""
    wanted = max(sum(pool.gpus * pool.replicas for pool in pools), *(pool.gpus for pool in pools), 0)
    if wanted > gpus:
        raise BadInput(
            f"the pools ask for {wanted} GPUs, this machine has {gpus}",
            "Set resources.gpus of the pools (spec.pools[].resources.gpus), or use a machine that has them.",
        )
    warnings = []
    asked = sum(pool.cores * pool.replicas for pool in pools)
    if asked > cores:
        warnings.append(f"the pools ask for {asked:g} cores, this machine has {cores}: expect less speed")
    memory = sum(pool.memory_bytes * pool.replicas for pool in pools)
    if memory > memory_bytes:
        warnings.append(f"the pools ask for {memory >> 20} MiB of memory, this machine has {memory_bytes >> 20}")
    return tuple(warnings)


def without_secrets(router: Router, entry: Entry) -> tuple[str, ...]:
    """Warnings about what the resource takes from Secrets, which one machine does not have, and no option gives."""
    warnings = []
    if router.auth is not None and not entry.keys:
        who = "whoever is on this machine" if entry.on_loopback else "ANYONE ON THE NETWORK"
        warnings.append(
            f"spec.router.auth: Secret {router.auth.secret_name!r} is on a cluster; without --keys FILE (its keys.json)"
            f" {who} may ask"
        )
    if router.tls is not None and not entry.certificate:
        warnings.append(
            f"spec.router.tls: Secret {router.tls.secret_name!r} is on a cluster; without --tls-certificate FILE and "
            "--tls-key FILE it is plain HTTP"
        )
    return tuple(warnings)


def machine_gpus() -> int:
    """NVIDIA GPUs that this process may see."""
    # By device files: to ask torch would take its import, some three seconds before the first check.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    present = len([p for p in Path("/dev").glob("nvidia[0-9]*") if p.name[6:].isdigit()])
    return present if visible is None else min(present, len([v for v in visible.split(",") if v.strip()]))


def machine_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def machine_memory() -> int:
    """Memory of the machine, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def tiny_folder() -> Path:
    """Where the packaged model lies."""
    import trimode_workers.tiny

    return Path(trimode_workers.tiny.__path__[0])
