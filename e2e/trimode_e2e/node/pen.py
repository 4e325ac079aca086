"""The process that holds a node: `python -m trimode_e2e.node.pen PLAN`, as root.

Its child is the first process of new namespaces (processes, mounts, network, names) and starts the node's programs
there. So one signal ends them all, with every shim, mount, bridge and iptables rule of theirs. This process stays
outside: it hands connections from the node's network to the API server on this machine's loopback interface, takes
the cgroups away at the end, and ends with the process that started it.

Belongs here: namespaces and what is done inside them before the programs start.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimode_e2e.node import machine

_NEW_MOUNTS, _NEW_NAMES, _NEW_IPC, _NEW_PROCESSES, _NEW_NETWORK = (
    *(0x00020000, 0x04000000, 0x08000000),
    *(0x20000000, 0x40000000),
)
_DIE_WITH_PARENT = 1
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1
_LIBC = ctypes.CDLL(None, use_errno=True)
_CHUNK = 1 << 16
_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Read from a JSON file. `port` is the API server's on this machine, and in the node's network as well."""

    folder: str
    port: int
    bridge: str
    address: str
    cgroup: str
    hidden: dict[str, str]
    kernel: dict[str, str]
    environment: dict[str, str]
    programs: list[dict[str, Any]]


def main(plan: Plan) -> int:
    """Returns when told to end, or when one of the node's programs ends by itself: then 1."""
    _die_with_parent(signal.SIGTERM)
    machine.make_cgroups(plan.cgroup)
    ours, theirs = socket.socketpair()
    _check(_LIBC.unshare(_NEW_PROCESSES), "unshare")  # of children only: this one stays where it is
    first = os.fork()
    if first == 0:
        ours.close()
        _first_process(plan, theirs)
    theirs.close()
    try:
        _, passed, _, _ = socket.recv_fds(ours, 1, 1)  # no threads: the kernel refuses them after that unshare
        return asyncio.run(_outside(plan, socket.socket(fileno=passed[0]), first)) if passed else 1
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(first, signal.SIGKILL)
            os.waitpid(first, 0)  # which waits for everything in the namespaces
        machine.remove_cgroups(plan.cgroup)


async def _outside(plan: Plan, listening: socket.socket, first: int) -> int:
    """Relay until the first process ends or SIGTERM comes."""
    loop = asyncio.get_running_loop()
    told, ended = asyncio.Event(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, told.set)
    loop.add_reader(os.pidfd_open(first), ended.set)
    (Path(plan.folder) / "first.pid").write_text(str(first))
    server = await asyncio.start_server(_relay_to(plan.port), sock=listening)
    async with server:
        waits = [asyncio.ensure_future(event.wait()) for event in (told, ended)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    return 0 if told.is_set() else 1


def _relay_to(port: int) -> Any:
    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # the API server is away, or one side has gone
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(_pump(reader, there_writer), _pump(there_reader, writer))
        writer.close()

    return relay


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


def _first_process(plan: Plan, theirs: socket.socket) -> None:
    """Never returns."""
    try:
        _die_with_parent(signal.SIGKILL)
        _check(_LIBC.unshare(_NEW_MOUNTS | _NEW_NAMES | _NEW_IPC | _NEW_NETWORK), "unshare")
        _arrange_mounts(plan)
        listening = _arrange_network(plan)
        socket.send_fds(theirs, [b"+"], [listening.fileno()])
        listening.close()
        theirs.close()
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


def _arrange_network(plan: Plan) -> socket.socket:
    """Loopback, the pods' bridge with the node's address, and the way to the API server."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
    _call("ip", "link", "add", plan.bridge, "type", "bridge")
    _call("ip", "address", "add", plan.address, "dev", plan.bridge)
    _call("ip", "link", "set", plan.bridge, "up")
    # Addresses of Services belong to nobody: without any route the node itself could not even begin to reach them.
    _call("ip", "route", "add", "default", "dev", plan.bridge)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    listening = socket.create_server(("0.0.0.0", plan.port))
    listening.setblocking(False)
    return listening


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


def _call(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")


if __name__ == "__main__":
    raise SystemExit(main(Plan(**json.loads(Path(sys.argv[1]).read_text()))))
