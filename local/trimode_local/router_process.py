"""The router as a child process: started, asked, told, ended. Several where they share the port: their parent then.

Belongs here: everything that `up` does with the router.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx

from trimode_api.fleet import FleetView
from trimode_api.wire import FLEET_PATH, POLICY_PATH, TOKEN_VARIABLE, PolicyConfig, RouterConfig
from trimode_local.errors import StartFailed
from trimode_local.reaper import die_with_parent

LISTEN_TIMEOUT_S = 60.0
REQUEST_TIMEOUT_S = 5.0
_POLL_S = 0.1


@dataclass(slots=True)
class RouterProcess:
    """A running router; `url` is the public one. `clients`: one for the internal port of each process."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    clients: tuple[httpx.Client, ...]

    @classmethod
    def start(cls, config: RouterConfig, token: str, folder: Path) -> Self:
        """Start it and wait until it listens. Raises StartFailed with its last words."""
        file, log = folder / "router.json", folder / "router.log"
        file.write_bytes(config.to_wire())
        with log.open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "trimode_router", "--config", str(file)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, TOKEN_VARIABLE: token},
                # Ctrl-C reaches the whole foreground group: without a group of its own the router would begin to drain
                # before `up` does.
                process_group=0,
                preexec_fn=die_with_parent,
            )
        try:
            listening = json.loads(_first_line(process))
        except (ValueError, TimeoutError) as exc:
            process.kill()
            process.wait()
            raise StartFailed(f"the router did not start: {_last_words(log) or exc}") from exc
        urls = listening.get("internalUrls") or [listening["internalUrl"]]
        clients = tuple(
            httpx.Client(
                base_url=url,
                headers={"Authorization": f"Bearer {token}"},
                timeout=REQUEST_TIMEOUT_S,
                trust_env=False,
            )
            for url in urls
        )
        return cls(process, listening["url"], log, clients)

    @property
    def internal_urls(self) -> tuple[str, ...]:
        """Where replicas report to: all of them."""
        return tuple(str(client.base_url).rstrip("/") for client in self.clients)

    def fleet(self) -> FleetView | None:
        """The fleet as the routers see it; None where none answers."""
        views = []
        for client in self.clients:
            try:
                answer = client.get(FLEET_PATH)
                answer.raise_for_status()
            except httpx.HTTPError:
                continue
            views.append(FleetView.from_wire(answer.content))
        if not views:
            return None
        # Several are shown as one: the first one's view with the counters of all, and the least of policies and pools
        # that any of them knows, so that what waits for a policy waits for all.
        first = min(views, key=lambda view: (view.policy_version, sum(pool.ready for pool in view.pools)))
        totals = ("in_flight", "queued", "finished_total", "refused_total")
        sums = {name: sum(getattr(view.router, name) for view in views) for name in totals}
        return first.model_copy(update={"router": first.router.model_copy(update=sums)})

    def put_policy(self, policy: PolicyConfig) -> None:
        """Hand the routers a new policy. Raises StartFailed where one refuses."""
        for client in self.clients:
            try:
                answer = client.put(POLICY_PATH, content=policy.to_wire())
                answer.raise_for_status()
            except httpx.HTTPStatusError as exc:
                raise StartFailed(f"the router refused the policy: {exc.response.text}") from exc
            except httpx.HTTPError as exc:
                raise StartFailed(f"the router did not take the policy: {exc}") from exc

    def check(self) -> None:
        """Raises StartFailed where the process has ended."""
        if (status := self.process.poll()) is not None:
            raise StartFailed(f"the router ended with status {status}: {_last_words(self.log)}")

    def drain(self, hurry: Callable[[], bool]) -> None:
        """End it: running requests are finished first, unless `hurry` says otherwise."""
        for client in self.clients:
            client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        while self.process.poll() is None and not hurry():
            time.sleep(_POLL_S)
        self.process.kill()
        self.process.wait()


def _first_line(process: subprocess.Popen[bytes]) -> bytes:
    """The first line of its stdout; empty where it ended before. Raises TimeoutError."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(LISTEN_TIMEOUT_S):
            raise TimeoutError(f"it did not listen within {LISTEN_TIMEOUT_S:g} s")
    return process.stdout.readline()


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("trimode router: ") if lines else ""
