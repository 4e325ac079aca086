"""What one machine starts for a resource, and what it does when the resource changes.

Pure: `plan(resource)` and `diff(old, new)`. Processes are in `runner`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trimode_api.errors import InvalidInput, Problem
from trimode_api.modes import Mode
from trimode_api.pool_args import start_problems
from trimode_api.resource import EngineType, NemotronDeployment
from trimode_api.values import cores, size_bytes
from trimode_policy.sharing import Split
from trimode_policy.sharing_inputs import current_split


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """One pool: how many replicas at first and at most, and what each is given (cores, GPUs, bytes).

    `idle_s`: seconds without a request after which a pool of none at first has none again.
    """

    name: str
    replicas: int
    most: int
    cores: float
    gpus: int
    memory_bytes: int
    idle_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Change:
    """One field that differs: `spec.switching.policy`, before and after (None: absent)."""

    path: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.path}: {_short(self.old)} -> {_short(self.new)}"


@dataclass(frozen=True, slots=True)
class Update:
    """What turns the old resource into the new one, least disturbing first.

    `policy`: push the policy (reaches engines in flight). `scale`: pools whose number of replicas changes. `roll`:
    pools whose replicas are replaced. `remove`: pools that go. A pool to be rolled is not scaled as well.
    """

    changes: tuple[Change, ...] = ()
    policy: bool = False
    scale: tuple[str, ...] = ()
    roll: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


def plan(deployment: NemotronDeployment, targets: Mapping[str, int] | None = None) -> tuple[PoolPlan, ...]:
    """The pools that one machine starts, each with its fewest replicas; no pool while suspended.

    Pools that share replicas have as many as `targets` says, by default those of the start. Raises InvalidInput where
    one machine cannot run the resource (yet).
    """
    spec, uri, problems = deployment.spec, deployment.spec.model.uri, []
    if uri.startswith("pvc://"):
        problems.append(Problem("spec.model.uri", f"{uri!r}: a cluster mounts claims; here write file:///PATH"))
    if uri.startswith("oci://"):
        problems.append(Problem("spec.model.uri", f"{uri!r}: a cluster mounts images; here write file:///PATH"))
    problems += start_problems(spec)
    if problems:
        raise InvalidInput(problems, f"{deployment.metadata.name} on one machine")
    if spec.suspend:
        return ()
    shared = current_split(spec, Split()).targets if targets is None else targets
    return tuple(
        PoolPlan(
            name=pool.name,
            replicas=shared.get(pool.name, pool.replicas.min),
            most=shared.get(pool.name, pool.replicas.max),
            cores=cores(pool.resources.cpu),
            gpus=pool.resources.gpus,
            memory_bytes=size_bytes(pool.resources.memory),
            idle_s=float(pool.replicas.idle_seconds),
        )
        for pool in spec.pools
    )


def router_processes(deployment: NemotronDeployment, cores: int) -> int:
    """Routers that share the port: `spec.router.replicas`, but no more than there are cores, as each takes one."""
    return max(1, min(deployment.spec.router.replicas, cores))


def diff(old: NemotronDeployment, new: NemotronDeployment) -> Update:
    """What has to be done for `new` where `old` runs. Raises InvalidInput for what cannot change while it runs."""
    if old.metadata.name != new.metadata.name:
        raise InvalidInput(
            [Problem("metadata.name", f"is {new.metadata.name!r}, but {old.metadata.name!r} runs")], "the change"
        )
    before = {pool.name: pool for pool in plan(old)}
    after = {pool.name: pool for pool in plan(new)}
    changes = tuple(_changes(_dump(old), _dump(new), "spec"))
    if old.served_name != new.served_name:
        raise InvalidInput(
            [Problem("spec.model.servedName", f"cannot change while it runs (now {old.served_name!r}); stop it first")],
            "the change",
        )
    kept = [name for name in after if name in before]
    everywhere = any(change.path.startswith(("spec.engine", "spec.model")) for change in changes)
    rolled = tuple(
        name
        for name in after
        if name not in before
        or everywhere
        or _given(before[name]) != _given(after[name])
        or _fixed(old, name) != _fixed(new, name)
    )
    return Update(
        changes=changes,
        policy=any(_of_policy(change) for change in changes),
        scale=tuple(n for n in kept if n not in rolled and _size(before[n]) != _size(after[n])),
        roll=rolled,
        remove=tuple(name for name in before if name not in after),
    )


def _of_policy(change: Change) -> bool:
    """Whether routers have to know: of all fields but those of the model, the engine and what replicas are given."""
    path = change.path
    if path.endswith(".replicas.min") and 0 in (change.old, change.new):
        return True  # a pool begins or ceases to sleep
    if path.startswith(
        (
            "spec.model",
            "spec.engine",
            "spec.router",
            "spec.suspend",
            "spec.rebalancing",
            "spec.replicas",
            "spec.upgrade",
        )
    ):
        return False
    return not (path.startswith("spec.pools[") and any(part in path for part in (".replicas", ".resources", ".pod")))


def _fixed(deployment: NemotronDeployment, name: str) -> Any:
    """What the pool's engines cannot take over while they run: nothing, but for SGLang's mode."""
    spec = deployment.spec
    if spec.engine.type is EngineType.NATIVE:
        return None
    pool = next(pool for pool in spec.pools if pool.name == name)
    return pool.modes, pool.block_lengths, spec.diffusion if Mode.DIFFUSION in pool.modes else None


def _given(pool: PoolPlan) -> tuple[float, int, int]:
    return pool.cores, pool.gpus, pool.memory_bytes


def _size(pool: PoolPlan) -> tuple[int, int, float]:
    return pool.replicas, pool.most, pool.idle_s


def _dump(deployment: NemotronDeployment) -> dict[str, Any]:
    return deployment.spec.model_dump(mode="json", by_alias=True, exclude_none=True)


def _changes(old: Any, new: Any, path: str) -> list[Change]:
    """Differences between two plain values; lists of named things are compared by name."""
    old_items, new_items = _named(old), _named(new)
    if old_items is None or new_items is None:
        return [] if old == new else [Change(path, old, new)]
    form = path + ("[{}]" if isinstance(new, list) else ".{}")
    found: list[Change] = []
    for key in dict.fromkeys((*old_items, *new_items)):
        found += _changes(old_items.get(key), new_items.get(key), form.format(key))
    return found


def _named(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and value and all(isinstance(item, dict) and "name" in item for item in value):
        return {item["name"]: item for item in value}
    return None


def _short(value: Any) -> str:
    text = "absent" if value is None else value if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
