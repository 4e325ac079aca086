"""`python -m trimode_lab.router.chaos.actor`: a replica's process, storyteller and reporter in one.

With `--fault` it misbehaves at every request.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections.abc import Awaitable, Callable

import aiohttp
import uvloop

from trimode_api.wire import REPORT_PATH
from trimode_lab.doubles.replica.replica import Call, FakeReplica, Script, chunk
from trimode_lab.doubles.replica.script import storyteller

REPORT_SECONDS = 0.2
_MOST_EVENTS = 10


async def _reset(call: Call) -> None:
    call.reset()


async def _stall(call: Call) -> None:
    """Headers, then nothing for ever; the reports go on."""
    await call.begin()
    await call.gone.wait()


async def _garbage(call: Call) -> None:
    await call.begin()
    await call.raw(random.randbytes(300))


async def _no_http(call: Call) -> None:
    await call.raw(random.randbytes(300) + b"\r\n\r\n")
    call.close()


async def _short(call: Call) -> None:
    """Promises more than it sends."""
    await call.raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 5000\r\n\r\n{}")
    call.close()


async def _long(call: Call) -> None:
    """Sends more than it promises."""
    await call.raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}{}{}")


async def _torn(call: Call) -> None:
    """Dies within an event."""
    await call.begin()
    await call.raw(chunk(b'data: {"choices":[]}\n\n')[:15])
    call.reset()


FAULTS: dict[str, tuple[Callable[[Call], Awaitable[None]], ...]] = {
    "reset": (_reset,),
    "stall": (_stall,),
    "garbage": (_garbage, _no_http),
    "length": (_short, _long, _torn),
}


def faulty(story: Script, faults: tuple[Callable[[Call], Awaitable[None]], ...]) -> Script:
    """`story`, cut short by one of `faults` somewhere in its first events, or before."""

    async def tell(call: Call) -> None:
        after = random.randrange(_MOST_EVENTS)
        fault = random.choice(faults)
        if after and call.json.get("stream", "request" in call.json):
            telling = asyncio.ensure_future(story(call))
            await asyncio.wait([telling], timeout=after * 0.02)
            if telling.done():
                return
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
            # The head is out: what follows is in the middle of a body.
            if fault is _stall:
                await call.gone.wait()
            elif fault is _reset:
                call.reset()
            else:
                await call.raw(random.randbytes(100))
                call.close()
            return
        await fault(call)

    return tell


async def act(options: argparse.Namespace) -> None:
    """Serve and report until stdin ends."""
    script = storyteller(options.pace_ms / 1000)
    if options.fault:
        script = faulty(script, FAULTS[options.fault])
    headers = {"Authorization": f"Bearer {options.token}"}
    async with (
        FakeReplica(replica_id=options.id, script=script, max_running=options.rows) as replica,
        aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=1)) as session,
    ):
        sys.stdout.write(f"{replica.port}\n")
        sys.stdout.flush()
        reporting = asyncio.ensure_future(_report(replica, session, options.router + REPORT_PATH))
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        reporting.cancel()


async def _report(replica: FakeReplica, session: aiohttp.ClientSession, url: str) -> None:
    while True:
        running = replica.running
        report = replica.report(running=running, tokens_per_second=10.0 * running)
        replica.calls.clear()  # a long life must not show as a leak
        try:
            async with session.post(url, data=report.to_wire()) as response:
                await response.read()
        except (aiohttp.ClientError, TimeoutError):
            pass  # the router is away; it will be back
        await asyncio.sleep(REPORT_SECONDS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--id", required=True)
    parser.add_argument("--router", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--pace-ms", type=float, default=20.0)
    parser.add_argument("--fault", choices=list(FAULTS))
    uvloop.run(act(parser.parse_args()))
