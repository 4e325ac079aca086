"""What is done to the fleet while the load runs.

Belongs here: the scenarios, each a coroutine that disturbs for about `seconds` and leaves the stage as it found it.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from trimode_router.chaos.stage import Stage

REPLICAS = 3
SOAK = "soak"
_PERIOD_SECONDS = 2.0
_LIAR_SECONDS = 8.0
_SOAK_PERIOD_SECONDS = 10.0
"""Between two kills of a soak: a new process each time costs more than all of its requests."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """`excused`: ends of requests that this scenario cannot but cause; a healthy rest could not have served them."""

    name: str
    disturb: Callable[[Stage, float], Awaitable[None]]
    excused: frozenset[str] = frozenset()
    leaving: float = 0.0


async def calm(stage: Stage, seconds: float) -> None:
    """Nothing happens."""
    await asyncio.sleep(seconds)


async def kills(stage: Stage, seconds: float, period_s: float = _PERIOD_SECONDS) -> None:
    """kill -9 of one replica, a new one in its place, again and again."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(period_s / 2)
        await stage.kill(stage.any())
        await stage.add()
        await asyncio.sleep(period_s / 2)


async def hangs(stage: Stage, seconds: float) -> None:
    """SIGSTOP of one replica, long enough to be taken for dead; then it wakes up and goes on."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(_PERIOD_SECONDS / 2)
        name = stage.any()
        stage.signal(name, signal.SIGSTOP)
        await asyncio.sleep(6)
        if name in stage.replicas:  # or it was killed meanwhile
            stage.signal(name, signal.SIGCONT)
            stage.replicas[name] = stage.replicas.pop(name)  # the next one's turn
        await asyncio.sleep(_PERIOD_SECONDS / 2)


def lies(fault: str) -> Callable[[Stage, float], Awaitable[None]]:
    async def disturb(stage: Stage, seconds: float) -> None:
        (name,) = await stage.add(fault=fault)
        await asyncio.sleep(seconds)
        await stage.kill(name)

    return disturb


async def all_gone(stage: Stage, seconds: float) -> None:
    """All replicas killed at once, new ones a second later."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(_PERIOD_SECONDS)
        for name in list(stage.replicas):
            await stage.kill(name)
        await asyncio.sleep(1)
        await stage.add(REPLICAS)
        await asyncio.sleep(_PERIOD_SECONDS)


async def restarts(stage: Stage, seconds: float) -> None:
    """SIGTERM of the router; the next one takes over its ports when it has drained."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(_PERIOD_SECONDS)
        code = await stage.restart_router()
        if code:
            raise RuntimeError(f"the router left with exit code {code}: it cut streams")
        await stage.known()
        await asyncio.sleep(_PERIOD_SECONDS)


async def policies(stage: Stage, seconds: float) -> None:
    """Ten changes of the policy a second."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await stage.put_policy()
        await asyncio.sleep(0.1)


async def liars(stage: Stage, seconds: float) -> None:
    """One replica that misbehaves, each time in another way."""
    end = time.monotonic() + seconds
    for fault in itertools.cycle(("reset", "garbage", "length", "stall")):
        if (left := end - time.monotonic()) <= 0:
            return
        (name,) = await stage.add(fault=fault)
        await asyncio.sleep(min(left, _LIAR_SECONDS))
        await stage.kill(name)


async def everything(stage: Stage, seconds: float) -> None:
    """Kills, hangs, a liar and changes of policy at once, while clients leave: for a soak."""
    await asyncio.gather(
        kills(stage, seconds, _SOAK_PERIOD_SECONDS),
        hangs(stage, seconds),
        liars(stage, seconds),
        policies(stage, seconds),
    )


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
