"""All that `trimode up` runs for one resource: router, Ray, pools; started in order, changed, and ended."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimode_api.fleet import FleetView
from trimode_api.policy_of import policy_of
from trimode_api.resource import NemotronDeployment
from trimode_api.wire import TOKEN_VARIABLE, RouterConfig
from trimode_local import preflight, ray_local, reaper
from trimode_local.entry import Entry
from trimode_local.errors import StartFailed, Stopped
from trimode_local.plan import Update, diff, plan, router_processes
from trimode_local.pools import Balance, cause, pool_settings
from trimode_local.router_process import RouterProcess
from trimode_local.startup_progress import Checklist

START_TIMEOUT_S = 600.0
"""A replica that loads billions of weights from a slow disk is given this long."""
POLL_S = 0.25
RAY_CORES = 10_000
"""What Ray is told: cores are a hint on one machine, never a reason not to place a replica."""
FAILED = ("DEPLOY_FAILED", "UNHEALTHY")
SWEEP_GRACE_S = 3.0
ASLEEP = "asleep: a request wakes it"
IN_FORCE_TIMEOUT_S = 5.0


@dataclass(slots=True)
class Stack:
    """One machine's fleet. `stopping` tells whether to give up, `hurry` whether to end without draining."""

    deployment: NemotronDeployment
    model: Path
    entry: Entry
    folder: Path
    environment: MutableMapping[str, str]
    stopping: Callable[[], bool]
    hurry: Callable[[], bool]
    version: int = 1
    router: RouterProcess | None = None
    ray: ray_local.LocalRay | None = None
    balance: Balance = field(default_factory=Balance)
    _token: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    @property
    def steps(self) -> tuple[str, ...]:
        return ("router", "Ray", *(_step(pool.name) for pool in plan(self.deployment)))

    def start(self, list_: Checklist) -> None:
        """Bring everything up. Raises StartFailed or Stopped; the caller then calls `stop`."""
        try:
            # The router first: what replicas are started with holds the address that they report to.
            list_.working("router")
            config = RouterConfig(
                name=self.deployment.metadata.name,
                model=self.deployment.served_name,
                processes=router_processes(self.deployment, preflight.machine_cores()),
                policy=policy_of(self.deployment, self.version),
                **(self.deployment.spec.router.edge() | self.entry.fields()),
            )
            self.router = RouterProcess.start(config, self._token, self.folder)
            several = f", {config.processes} processes" if config.processes > 1 else ""
            list_.done("router", self.router.url + several)
            self._check_stopped()
            list_.working("Ray", "starting on the loopback interface")
            self.environment[TOKEN_VARIABLE] = self._token
            # All of them: pools grow, sleep and change while Ray runs, and this number cannot.
            gpus = preflight.machine_gpus()
            self.ray = ray_local.start(self.folder / "r", RAY_CORES, gpus, self._check_stopped)
            list_.done("Ray")
            self._check_stopped()
            self._start_pools(list_)
        except BaseException:
            list_.failed()
            raise

    def fleet(self) -> FleetView | None:
        """The fleet as the router sees it. Raises StartFailed where the router has ended."""
        assert self.router is not None
        self.router.check()
        return self.router.fleet()

    def rebalance(self, fleet: FleetView, now: float) -> str:
        """Move replicas that pools share, where that is worth it; what to say of it, empty for nothing."""
        from trimode_workers import app

        before = self.balance.targets(self.deployment.spec)
        words = self.balance.step(self.deployment.spec, fleet, now)
        after = self.balance.targets(self.deployment.spec)
        if changed := [pool for pool in self._pools() if before.get(pool.pool) != after.get(pool.pool)]:
            app.deploy(changed)
        return words

    def apply(self, new: NemotronDeployment, model: Path) -> Update:
        """Make the running fleet what `new` says; returns what was done once new replicas are ready.

        New replicas come beside the old ones, which go once the new are ready; where pools take all GPUs the old ones
        go first. Raises InvalidInput, or StartFailed where a pool cannot start: then what ran before goes on.
        """
        from trimode_workers import app

        assert self.router is not None
        update = diff(self.deployment, new)
        if not update.changes:
            return update
        before = self.deployment, self.model
        self._adopt(new, model)
        try:
            shared = tuple(self.balance.targets(self.deployment.spec))
            touched = [pool for pool in self._pools() if pool.pool in update.scale + update.roll + shared]
            rolled = [pool for pool in touched if pool.pool in update.roll]
            if any(pool.num_gpus for pool in rolled):
                app.retire(self._pools())
            if touched:
                app.deploy(touched)
            self._await_pools(app, rolled)
            app.retire(self._pools())
        except (StartFailed, Stopped):
            self._adopt(*before)
            if pools := self._pools():
                app.deploy(pools)  # changes nothing but for pools that had to give way
            app.retire(self._pools())
            raise
        if update.policy:
            self._await_policy(self.version)
        return update

    def _adopt(self, deployment: NemotronDeployment, model: Path) -> None:
        assert self.router is not None
        self.version += 1
        self.deployment, self.model = deployment, model
        self.router.put_policy(policy_of(deployment, self.version))

    def _await_pools(self, app: Any, pools: list[Any]) -> None:
        """Until Serve calls the pools running: their replicas are ready and report."""
        deadline = time.monotonic() + START_TIMEOUT_S
        waiting = list(pools)
        while waiting:
            self._check_stopped()
            for state in app.states(waiting):
                if state.status in FAILED:
                    raise StartFailed(
                        f"pool {state.pool!r} did not start, what ran before goes on: {cause(state.message)}"
                    )
                if state.status == "RUNNING":
                    waiting = [pool for pool in waiting if pool.pool != state.pool]
            if waiting and time.monotonic() > deadline:
                raise StartFailed(f"pool {waiting[0].pool!r}: not ready within {START_TIMEOUT_S:g} s")
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End everything that was started, in whatever state it is: requests first, then processes."""
        if self.router is not None:
            self.router.drain(self.hurry)
        if self.ray is not None:
            from trimode_workers import app

            # In a thread, since a hurried user does not wait for Serve to end its replicas.
            limit = float(self.deployment.spec.drain.timeout_seconds) + SWEEP_GRACE_S
            ending = threading.Thread(target=app.shutdown, args=(limit,), daemon=True)
            ending.start()
            while ending.is_alive() and not self.hurry():
                ending.join(POLL_S)
            self.ray.stop()
        reaper.sweep(SWEEP_GRACE_S)

    def _start_pools(self, list_: Checklist) -> None:
        from trimode_workers import app

        pools = self._pools()
        for pool in pools:
            list_.working(_step(pool.pool), "placing replicas")
        app.deploy(pools)
        deadline = time.monotonic() + START_TIMEOUT_S
        waiting = {pool.name: pool.replicas for pool in plan(self.deployment)}
        while waiting:
            self._check_stopped()
            if time.monotonic() > deadline:
                raise StartFailed(f"pool {next(iter(waiting))!r}: not ready within {START_TIMEOUT_S:g} s")
            fleet = self.fleet()
            ready = {pool.name: pool.ready for pool in fleet.pools} if fleet is not None else {}
            for name, wanted in tuple(waiting.items()):
                if ready.get(name, 0) >= wanted:
                    list_.done(_step(name), f"{wanted} replica{'' if wanted == 1 else 's'}" if wanted else ASLEEP)
                    del waiting[name]
            for state in app.states(pools) if waiting else ():
                if state.pool not in waiting:
                    continue
                if state.status in FAILED:
                    raise StartFailed(f"pool {state.pool!r} did not start: {cause(state.message)}")
                loaded = f"{ready.get(state.pool, 0)} of {waiting[state.pool]} ready"
                list_.working(_step(state.pool), f"loading weights ({loaded})")
            time.sleep(POLL_S)

    def _pools(self) -> list[Any]:
        assert self.router is not None
        targets = self.balance.targets(self.deployment.spec)
        return pool_settings(self.deployment, self.model, self.version, self.router.internal_urls, targets)

    def _await_policy(self, version: int) -> None:
        """Until every live replica runs the policy; late ones get it with their next report all the same."""
        deadline = time.monotonic() + IN_FORCE_TIMEOUT_S
        while time.monotonic() < deadline:
            fleet = self.fleet()
            live = [r for r in fleet.replicas if r.freshness == "Fresh"] if fleet is not None else []
            if fleet is not None and all(replica.policy_version >= version for replica in live):
                return
            time.sleep(POLL_S / 5)

    def _check_stopped(self) -> None:
        if self.stopping():
            raise Stopped


def _step(pool: str) -> str:
    return f"pool {pool}"
