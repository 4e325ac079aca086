"""What is done to the fleet while the load runs.

Each is a coroutine that disturbs for about `seconds` and leaves the fleet as it found it.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from trimode_lab.router.chaos.processes import Processes

REPLICAS = 3
SOAK = "soak"
_PERIOD_SECONDS = 2.0
_LIAR_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """`excused`: ends of requests that this scenario cannot but cause; a healthy rest could not have served them."""

    name: str
    disturb: Callable[[Processes, float], Awaitable[None]]
    excused: frozenset[str] = frozenset()
    leaving: float = 0.0


async def calm(processes: Processes, seconds: float) -> None:
    """Nothing happens."""
    await asyncio.sleep(seconds)


async def kills(processes: Processes, seconds: float) -> None:
    """kill -9 of one replica, a new one in its place, again and again."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(_PERIOD_SECONDS / 2)
        await _kill_one(processes)
        await asyncio.sleep(_PERIOD_SECONDS / 2)


async def _kill_one(processes: Processes) -> None:
    await processes.kill(processes.any())
    await processes.add()


async def hangs(processes: Processes, seconds: float) -> None:
    """SIGSTOP of one replica, long enough to be taken for dead; then it wakes up and goes on."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(_PERIOD_SECONDS / 2)
        await _hang_one(processes)
        await asyncio.sleep(_PERIOD_SECONDS / 2)


async def _hang_one(processes: Processes) -> None:
    name = processes.any()
    processes.signal(name, signal.SIGSTOP)
    await asyncio.sleep(6)
    processes.signal(name, signal.SIGCONT)
    processes.replicas[name] = processes.replicas.pop(name)  # the next one's turn


def lies(fault: str) -> Callable[[Processes, float], Awaitable[None]]:
    async def disturb(processes: Processes, seconds: float) -> None:
        (name,) = await processes.add(fault=fault)
        await asyncio.sleep(seconds)
        await processes.kill(name)

    return disturb


async def all_gone(processes: Processes, seconds: float) -> None:
    """All replicas killed at once, new ones a second later."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(_PERIOD_SECONDS)
        for name in list(processes.replicas):
            await processes.kill(name)
        await asyncio.sleep(1)
        await processes.add(REPLICAS)
        await asyncio.sleep(_PERIOD_SECONDS)


async def restarts(processes: Processes, seconds: float) -> None:
    """SIGTERM of the router; the next one takes over its ports when it has drained."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(_PERIOD_SECONDS)
        code = await processes.restart_router()
        if code:
            raise RuntimeError(f"the router left with exit code {code}: it cut streams")
        await processes.known()
        await asyncio.sleep(_PERIOD_SECONDS)


async def policies(processes: Processes, seconds: float) -> None:
    """Ten changes of the policy a second."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await processes.put_policy()
        await asyncio.sleep(0.1)


async def troubles(processes: Processes, seconds: float) -> None:
    """A kill, a hang, then a replica that misbehaves in each way; one at a time, so that the others could serve all."""
    end = time.monotonic() + seconds
    for trouble in itertools.cycle(("kill", "hang", "reset", "garbage", "length", "stall")):
        if time.monotonic() >= end:
            return
        if trouble == "kill":
            await _kill_one(processes)
        elif trouble == "hang":
            await _hang_one(processes)
        else:
            (name,) = await processes.add(fault=trouble)
            await asyncio.sleep(_LIAR_SECONDS)
            await processes.kill(name)
        await asyncio.sleep(_PERIOD_SECONDS)


async def everything(processes: Processes, seconds: float) -> None:
    """Troubles and changes of policy at once, while clients leave: for a soak."""
    await asyncio.gather(troubles(processes, seconds), policies(processes, seconds))


SCENARIOS = (
    Scenario("calm", calm),
    Scenario("kill -9", kills),
    Scenario("hang", hangs),
    Scenario("garbage", lies("garbage")),
    Scenario("reset", lies("reset")),
    Scenario("stall", lies("stall")),
    Scenario("wrong length", lies("length")),
    Scenario("all gone", all_gone, frozenset({"refused"})),
    Scenario("router SIGTERM", restarts, frozenset({"refused", "unconnected"})),
    Scenario("policies", policies),
    Scenario("clients leave", calm, frozenset({"left"}), leaving=0.5),
    Scenario(SOAK, everything, frozenset({"left"}), leaving=0.2),
)
