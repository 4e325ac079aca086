"""Several routers on one port: the kernel shares connections out among them (SO_REUSEPORT).

The parent of such processes. They share nothing: replicas report to each (`internalUrls` in the line that the parent
prints), and policies go to each. Queues and counters are of each process; the one that answers `/metrics` asks
the others, whose addresses it has from the parent. Budgets are of all of them together (`access.budget`).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path

from trimode_api.wire import TOKEN_VARIABLE, RouterConfig
from trimode_router.edge.peers import introduce

REPLICA_KEY_VARIABLE = "TRIMODE_ROUTER_REPLICA_KEY"
"""Set for the children only; see `ProcessOptions.replica_key`."""
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


async def run(config: RouterConfig, token: str, replica_key: str | None) -> int:
    """Start `config.processes` routers, pass signals on, end with them: the highest exit code of any.

    When one ends by itself the others are told to: what supervises this process starts all of them again.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with tempfile.TemporaryDirectory() as folder, socket.socket(family) as kept:
        # Bound, so that port 0 becomes one port for all children; not listening, so that it gets no connections.
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        kept.bind((config.host, config.port))
        port, children = kept.getsockname()[1], []
        for number in range(config.processes):
            # Each has an internal port of its own: any, or one after the other.
            internal = config.internal_port and config.internal_port + number
            own = config.model_copy(update={"processes": 1, "port": port, "internal_port": internal})
            children.append(await _start(own, token, replica_key, Path(folder, f"{number}.json")))
        end = _Ending(children)
        # What each prints once it listens; empty where it has ended instead.
        words = [await child.stdout.readline() for child in children if child.stdout is not None]
        lines = [json.loads(line) for line in words if line]
        urls = [line["internalUrl"] for line in lines]
        if len(urls) < len(children) or not await introduce(urls, token):
            end()
        else:
            first = lines[0]
            bound = {"event": "listening", "address": first["address"], "url": first["url"]}
            announced = {**bound, "internalUrl": urls[0], "internalUrls": urls}
            print(json.dumps(announced), flush=True)  # noqa: T201 - the line a parent process waits for
        ends = [asyncio.ensure_future(child.wait()) for child in children]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        end()
        codes = await asyncio.gather(*ends)
    # A child that a signal ended has a negative code.
    return max(abs(code) for code in codes)


async def _start(config: RouterConfig, token: str, replica_key: str | None, file: Path) -> asyncio.subprocess.Process:
    file.write_bytes(config.to_wire())  # noqa: ASYNC240 - nothing else runs yet
    environment = os.environ | {TOKEN_VARIABLE: token}
    if replica_key is not None:
        environment[REPLICA_KEY_VARIABLE] = replica_key
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "trimode_router", "--config", str(file), "--shared"),
        stdout=asyncio.subprocess.PIPE,
        env=environment,
        # SIGTERM from the kernel should the parent be killed, or the port would stay taken.
        preexec_fn=lambda: _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0),
    )


class _Ending:
    """Tells children to end, once: a second signal could meet one that no longer handles it."""

    def __init__(self, children: list[asyncio.subprocess.Process]) -> None:
        self._children = children
        self._told = False
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self)

    def __call__(self) -> None:
        if self._told:
            return
        self._told = True
        for child in self._children:
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.terminate()
