"""`python -m trimode_workers.replica.pre_stop`: what a pod does before it is ended, so that no request is cut.

It asks the routers to drain the replicas at this pod's address and waits until their requests are done. On Ray's head,
whose end ends every worker, it waits for those that drain anywhere. Reads the fleet's token from the environment; exit
code 0 in any case: a pod that cannot be drained ends all the same.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
from pydantic import ValidationError

from trimode_api.fleet import FleetView, ReplicaState
from trimode_api.wire import DRAIN_PATH, FLEET_PATH, TOKEN_VARIABLE
from trimode_workers.replica.addresses import Routers

REQUEST_TIMEOUT_S = 3.0
POLL_S = 0.5
SETTLE_S = 2.0
"""A worker is done when nothing has run for this long: an order to drain, or a request, may be on its way."""
HEAD_SETTLE_S = 6.0
"""The head waits longer: workers that go together with it may not have begun to drain."""

_log = logging.getLogger(__name__)
Choose = Callable[[ReplicaState], bool]


@dataclass(frozen=True, slots=True)
class Plan:
    """`chosen`: the replicas to wait for. `order`: whether to have them drained. Times in seconds."""

    chosen: Choose
    order: bool
    timeout_s: float
    settle_s: float


def worker(address: str, timeout_s: float) -> Plan:
    """Of a worker pod at `address`."""
    return Plan(lambda replica: urlsplit(replica.url).hostname == address, True, timeout_s, SETTLE_S)


def head(timeout_s: float) -> Plan:
    """Of Ray's head."""
    return Plan(lambda replica: replica.draining, False, timeout_s, HEAD_SETTLE_S)


@dataclass(frozen=True, slots=True)
class RouterView:
    """What a router says: requests at the chosen replicas, and how long a drain may take (seconds)."""

    running: int
    drain_timeout_s: float


async def leave(routers: Routers, token: str, plan: Plan) -> bool:
    """Drain and wait, for as long as the fleet's policy gives a drain; whether all was done in time."""
    # A router that does not answer is left out: it may be gone for good, and this pod must not wait for it until the
    # kubelet kills the replica with its requests.
    began = time.monotonic()
    limit_s = plan.timeout_s
    idle_since: float | None = None
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}, timeout=timeout) as http:
        while (now := time.monotonic()) - began < limit_s:
            await routers.look_up()
            answers = await asyncio.gather(*(_ask(http, url, plan) for url in routers.urls))
            views = [answer for answer in answers if answer is not None]
            if views:
                limit_s = min(plan.timeout_s, max(answer.drain_timeout_s for answer in views))
            if any(answer.running for answer in views):
                idle_since = None
            elif idle_since is None:
                idle_since = now
            elif now - idle_since >= plan.settle_s:
                return True
            await asyncio.sleep(min(POLL_S, plan.settle_s))
    return False


def in_flight(replicas: Iterable[ReplicaState]) -> int:
    """Requests of a router's view: its own, or all that the replica reports."""
    return sum(max(replica.in_flight, replica.running + replica.waiting) for replica in replicas)


async def _ask(http: aiohttp.ClientSession, router: str, plan: Plan) -> RouterView | None:
    """What this router knows of the chosen replicas, after ordering their drain; None where it does not answer."""
    try:
        async with http.get(router + FLEET_PATH) as answer:
            view = FleetView.from_wire(await answer.read())
        chosen = [replica for replica in view.replicas if plan.chosen(replica)]
        for replica in chosen:
            if plan.order and not replica.draining:
                body = json.dumps({"replicaId": replica.replica_id, "drain": True})
                async with http.post(router + DRAIN_PATH, data=body):
                    pass
    except (aiohttp.ClientError, TimeoutError, OSError, ValidationError) as exc:
        _log.warning("router %s: %s", router, exc or type(exc).__name__)
        return None
    return RouterView(in_flight(chosen), view.drain_timeout_seconds)


def own_address(routers: Routers) -> str:
    """The address that routers see this pod at; empty where there are none."""
    for url in routers.urls:
        parts = urlsplit(url)
        assert parts.hostname is not None
        family = socket.AF_INET6 if ":" in parts.hostname else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((parts.hostname, parts.port or 80))  # sends nothing
            return str(probe.getsockname()[0])
    return ""


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line, parsed."""
    parser = argparse.ArgumentParser(description="Drain this pod's replicas and wait.")
    parser.add_argument("--routers", required=True, help="URL of the routers' internal port")
    parser.add_argument("--timeout-s", required=True, type=float, help="longest wait, in seconds")
    parser.add_argument("--head", action="store_true", help="this pod is Ray's head")
    return parser.parse_args(argv)


def main() -> int:
    args = arguments(sys.argv[1:])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s leave %(levelname)s %(message)s")

    async def run() -> None:
        routers, limit_s = Routers([args.routers]), args.timeout_s
        await routers.look_up()
        plan = head(limit_s) if args.head else worker(own_address(routers), limit_s)
        done = await leave(routers, os.environ.get(TOKEN_VARIABLE, ""), plan)
        _log.info("left" if done else f"requests still ran after {limit_s:g} s")

    asyncio.run(run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
