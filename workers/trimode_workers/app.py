"""Ray Serve: one application per pool, placement and replacement of replicas.

Belongs here: all that imports ray. Requests never pass through Serve: its proxy answers health checks only, routers
talk to each replica's own port. `TRIMODE_TOKEN` must be in the environment *before* Ray starts: workers inherit it,
so that no deployment record, log line or dashboard shows it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shlex
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from pydantic import ValidationError
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from trimode_api.errors import InvalidInput, problems_of
from trimode_api.wire import TOKEN_VARIABLE
from trimode_workers.replica.replica import Replica
from trimode_workers.replica.settings import NODE_ADDRESS, PoolArgs, PoolSettings, ReplicaSettings
from trimode_workers.replica.source import check_source, model_folder
from trimode_workers.sglang.options import COMMAND_VARIABLE

HEALTH: dict[str, Any] = {
    "health_check_period_s": 1.0,
    "health_check_timeout_s": 10.0,
    "graceful_shutdown_wait_loop_s": 0.1,
}
SCALER = "trimode_workers.replica.autoscaling:Scaler"
START_TRIES = 2
POLL_S = 0.1
STOP_MARGIN_S = 10.0
"""Serve kills a replica this much later than its own drain ends, in seconds."""


class ReplicaServer:
    """The Serve deployment class: a `Replica` in the actor's own loop."""

    async def __init__(self, settings: ReplicaSettings) -> None:  # type: ignore[misc]  # Serve awaits it
        self._replica: Replica | None = None
        hide_unreserved_gpus()
        here = await asyncio.to_thread(_here, settings)  # the model may have to be downloaded
        self._replica = await Replica.start(here, os.environ.get(TOKEN_VARIABLE, ""))

    async def __call__(self) -> str:
        return "requests go to the router, or to the replica's own port"

    async def check_health(self) -> None:
        """Raises where the engine is dead or stuck; Serve then replaces this replica."""
        assert self._replica is not None
        self._replica.check()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Load of this replica, for the pool's autoscaling policy."""
        assert self._replica is not None
        return self._replica.load()

    def __del__(self) -> Coroutine[Any, Any, None] | None:
        """Serve awaits what this returns; Python's collector, later, finds nothing left to do."""
        replica, self._replica = getattr(self, "_replica", None), None
        return None if replica is None else replica.stop()


def hide_unreserved_gpus() -> None:
    """Let this actor's engine see no GPU where the actor has reserved none.

    Ray 2.60 leaves such an actor all GPUs of its node; every replica of a pool with `gpus: 0` would take the first, in
    bfloat16, beside the pool that it belongs to.
    """
    if not ray.get_runtime_context().get_accelerator_ids().get("GPU"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@dataclass(frozen=True, slots=True)
class PoolState:
    """What Serve says of a pool: its application's status (`RUNNING`, `DEPLOYING`, `DEPLOY_FAILED` ...) in words."""

    pool: str
    status: str
    message: str
    replicas: int


def build(args: dict[str, Any]) -> Application:
    """The Serve application of one pool on a cluster: `import_path` of Serve's configuration, with `PoolArgs`.

    Bounds of their number, resources and grace are the configuration's too, as options of the deployment named like
    the pool. Raises InvalidInput or EngineFailed where no replica could ever start.
    """
    try:
        given = PoolArgs.model_validate(args)
    except ValidationError as exc:
        raise InvalidInput(problems_of(exc), "the pool's args") from exc
    check_source(given.engine.model)
    decorate: Any = serve.deployment(name=given.pool, **HEALTH)
    application: Application = decorate(ReplicaServer).bind(given.replica())
    return application


def build_app(settings: PoolSettings) -> Application:
    """The Serve application of one pool on one machine."""
    scaling: dict[str, Any] = {"num_replicas": settings.min_replicas}
    if settings.min_replicas != settings.max_replicas:
        asked = {"routers": list(settings.router_urls), "pool": settings.pool}
        policy = AutoscalingPolicy(policy_function=SCALER, policy_kwargs=asked)  # type: ignore[no-untyped-call]
        sizes = AutoscalingConfig(
            min_replicas=settings.min_replicas,
            max_replicas=settings.max_replicas,
            policy=policy,
            metrics_interval_s=1.0,
            look_back_period_s=10.0,
            upscale_delay_s=10.0,
            downscale_delay_s=300.0,
            downscale_to_zero_delay_s=settings.idle_s,
        )
        scaling = {"num_replicas": "auto", "autoscaling_config": sizes}
    decorate: Any = serve.deployment(
        name=settings.pool,
        ray_actor_options={"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus},
        graceful_shutdown_timeout_s=settings.policy.drain_timeout_seconds + STOP_MARGIN_S,
        max_constructor_retry_count=START_TRIES,
        **HEALTH,
        **scaling,
    )
    # Serve would otherwise take every deployment for a new version and replace all replicas when one is added.
    versioned = decorate(ReplicaServer).options(version=_version(settings), _internal=True)
    application: Application = versioned.bind(settings.replica())
    return application


def deploy(pools: Sequence[PoolSettings], *, prefix: str = "trimode", wait: bool = False) -> None:
    """Run the pools on the Ray that this process is connected to (`ray.init` first), one application each.

    A pool whose settings changed in what its replicas cannot take over gets an application beside the one that runs,
    until `retire`. Starts Serve without an HTTP proxy. With `wait`, returns once every replica is ready; RuntimeError
    where one cannot start. Without, follow `states`.
    """
    serve.start(proxy_location="Disabled")
    names = [_name(pool, prefix) for pool in pools]
    built = zip(pools, names, strict=True)
    targets = [serve.RunTarget(build_app(pool), name=name, route_prefix=f"/{name}") for pool, name in built]
    serve.run_many(targets, wait_for_ingress_deployment_creation=wait, wait_for_applications_running=wait)


def states(pools: Sequence[PoolSettings], *, prefix: str = "trimode") -> tuple[PoolState, ...]:
    """How far each pool is; `message` is Serve's own, with the replica's error where it could not start."""
    applications = serve.status().applications
    found: list[PoolState] = []
    for pool in pools:
        application: Any = applications.get(_name(pool, prefix))
        if application is None:
            found.append(PoolState(pool.pool, "NOT_STARTED", "", 0))
            continue
        deployment = application.deployments.get(pool.pool)
        running = 0 if deployment is None else int(deployment.replica_states.get("RUNNING", 0))
        # The deployment says why, the application only that it failed.
        words = ("" if deployment is None else deployment.message) or application.message
        found.append(PoolState(pool.pool, str(application.status.value), words, running))
    return tuple(found)


def retire(kept: Sequence[PoolSettings], *, prefix: str = "trimode") -> None:
    """Drain and end every application but those of `kept`, without waiting for it."""
    names = {_name(pool, prefix) for pool in kept}
    for name in serve.status().applications:
        if name.startswith(f"{prefix}-") and name not in names:
            serve.delete(name, _blocking=False)


def shutdown(timeout_s: float | None = None) -> None:
    """Drain and end all pools, then Serve. Blocks until the last running request is done.

    `timeout_s` bounds the wait; None leaves it to each pool's own drain timeout.
    """
    for name in serve.status().applications:
        serve.delete(name, _blocking=False)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    # Serve's own shutdown and blocking delete give up after 30 and 60 seconds.
    while serve.status().applications and (deadline is None or time.monotonic() < deadline):
        time.sleep(POLL_S)
    serve.shutdown()  # type: ignore[no-untyped-call]


def _here(settings: ReplicaSettings) -> ReplicaSettings:
    """The settings with what only the replica's own node knows: its address, and where the model's folder is."""
    host = settings.host
    if host == NODE_ADDRESS:
        host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    engine = settings.engine
    folder = model_folder(engine.model, engine.draft_adapter, code=engine.sglang is not None)
    engine = engine.model_copy(update={"model": str(folder)})
    if engine.sglang is not None and (command := os.environ.get(COMMAND_VARIABLE)):
        sglang = engine.sglang.model_copy(update={"command": tuple(shlex.split(command))})
        engine = engine.model_copy(update={"sglang": sglang})
    return settings.model_copy(update={"host": host, "engine": engine})


def _name(settings: PoolSettings, prefix: str) -> str:
    return f"{prefix}-{settings.pool}-{_version(settings)}"


def _version(settings: PoolSettings) -> str:
    """Changes with what a running replica cannot take over: not with their number, nor with the policy."""
    text = settings.replica().model_dump_json(exclude={"policy"})
    return hashlib.sha256(text.encode()).hexdigest()[:16]
