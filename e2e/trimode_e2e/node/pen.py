"""The process that holds a node: `python -m trimode_e2e.node.pen PLAN`, as root.

Its child is the first process of new namespaces (processes, mounts, names) and starts the node's programs there. So
one signal ends them all, with every shim, container and mount of theirs. This process stays outside, takes the
cgroups away at the end, and ends with the process that started it. The network is the one it was started in.

Belongs here: namespaces and what is done inside them before the programs start.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimode_e2e.node import machine

_NEW_MOUNTS, _NEW_NAMES, _NEW_IPC, _NEW_PROCESSES = 0x00020000, 0x04000000, 0x08000000, 0x20000000
_DIE_WITH_PARENT = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Read from a JSON file. `hidden`: what the node sees in place of folders of this machine."""

    folder: str
    cgroup: str
    hidden: dict[str, str]
    kernel: dict[str, str]
    environment: dict[str, str]
    before: list[list[str]]
    programs: list[dict[str, Any]]


def main(plan: Plan) -> int:
    """Returns when told to end, or when one of the node's programs ends by itself: then 1."""
    _die_with_parent(signal.SIGTERM)
    signal.signal(signal.SIGTERM, _told)
    machine.make_cgroups(plan.cgroup)
    _check(_LIBC.unshare(_NEW_PROCESSES), "unshare")  # of children only: this one stays where it is
    first = os.fork()
    if first == 0:
        _first_process(plan)
    (Path(plan.folder) / "first.pid").write_text(str(first))
    try:
        os.waitpid(first, 0)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(first, signal.SIGKILL)
            os.waitpid(first, 0)  # which waits for everything in the namespaces
        machine.remove_cgroups(plan.cgroup)


def _told(*_: object) -> None:
    raise KeyboardInterrupt


def _first_process(plan: Plan) -> None:
    """Never returns."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _die_with_parent(signal.SIGKILL)
        _check(_LIBC.unshare(_NEW_MOUNTS | _NEW_NAMES | _NEW_IPC), "unshare")
        _arrange_mounts(plan)
        for words in plan.before:
            _call(*words, environment=plan.environment)
        _run(plan)
    except BaseException as exc:  # noqa: BLE001 - nothing above may run in this process
        sys.stderr.write(f"node: {type(exc).__name__}: {exc}\n")
    finally:
        sys.stderr.flush()
        os._exit(1)


def _arrange_mounts(plan: Plan) -> None:
    _call("mount", "--make-rprivate", "/")
    _call("mount", "-t", "proc", "proc", "/proc")
    _call("mount", "-t", "tmpfs", "tmpfs", "/run")
    for seen, source in plan.hidden.items():
        _call("mount", "--bind", source, seen)
    values = Path(plan.folder) / "kernel"
    for name, value in plan.kernel.items():
        file = values / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(value + "\n")
        _call("mount", "--bind", str(file), f"/proc/sys/{name}")
    # Nothing of it reaches the machine, but what a container mounts may reach the node, as on any other node.
    _call("mount", "--make-rshared", "/")


def _run(plan: Plan) -> None:
    """Start the programs; return when one of them has ended. Orphans of theirs are reaped, as init does."""
    started = {}
    for program in plan.programs:
        _await(program["after"])
        log = Path(plan.folder) / f"{program['name']}.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                program["command"], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=plan.environment
            )
        started[process.pid] = program["name"]
    while (ended := os.wait())[0] not in started:
        pass
    name = started[ended[0]]
    log = Path(plan.folder) / f"{name}.log"
    end = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
    sys.stderr.write(f"{name} ended with {os.waitstatus_to_exitcode(ended[1])}:\n{end}\n")


def _await(path: str | None) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while path is not None and not Path(path).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} is not there after {_PATIENCE_S:g} s")
        time.sleep(0.05)


def _die_with_parent(number: signal.Signals) -> None:
    _check(_LIBC.prctl(_DIE_WITH_PARENT, int(number)), "prctl")


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _call(*words: str, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")


if __name__ == "__main__":
    raise SystemExit(main(Plan(**json.loads(Path(sys.argv[1]).read_text()))))
