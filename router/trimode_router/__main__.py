"""`python -m trimode_router --config FILE`: command line, environment, signals and exit codes of the process."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import msgspec
import structlog
import uvloop
from pydantic import ValidationError

from trimode_api.errors import problems_of
from trimode_api.wire import TOKEN_VARIABLE, RouterConfig
from trimode_router.edge import processes
from trimode_router.edge.server import LOOPBACK, ProcessOptions, Router
from trimode_router.telemetry.environment import telemetry_of


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 stopped on request, 1 streams were cut by the drain's end, 2 could not start."""
    parser = argparse.ArgumentParser(prog="python -m trimode_router", description="The trimode router.")
    parser.add_argument("--config", required=True, type=Path, help="JSON file with a RouterConfig")
    parser.add_argument("--shared", action="store_true", help="other processes listen on the public port, too")
    options = parser.parse_args(arguments)
    file: Path = options.config
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not token:
        return _fail(f"the environment variable {TOKEN_VARIABLE} must hold the fleet's token")
    try:
        config = RouterConfig.from_wire(file.read_bytes())
    except OSError as error:
        return _fail(f"--config {file}: {error.strerror}")
    except ValidationError as error:
        problems = "; ".join(str(problem) for problem in problems_of(error))
        return _fail(f"--config {file}: {problems}")
    return serve(config, token, os.environ.get(processes.REPLICA_KEY_VARIABLE), shared=options.shared)


def serve(config: RouterConfig, token: str, replica_key: str | None = None, *, shared: bool = False) -> int:
    """Run a router until SIGTERM or SIGINT; see `ProcessOptions` for `replica_key`, `main` for the exit code."""
    if config.processes > 1:
        try:
            return asyncio.run(processes.run(config, token, replica_key))
        except OSError as error:
            return _fail(f"cannot listen on {config.host}:{config.port}: {error.strerror or error}")
    # One JSON object a line, from level info on, in UTC, straight to stderr.
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=lambda value, **_: msgspec.json.encode(value)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(20),
        logger_factory=structlog.BytesLoggerFactory(file=sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
    return uvloop.run(_run(config, token, replica_key, shared))


async def _run(config: RouterConfig, token: str, replica_key: str | None, shared: bool) -> int:
    log = structlog.get_logger("router")
    loop = asyncio.get_running_loop()
    about = {"service.name": "trimode-router", "service.instance.id": f"{socket.gethostname()}-{os.getpid()}"}
    options = ProcessOptions(replica_key, shared, telemetry_of(os.environ, about))
    router = Router(config, token, options, now=loop.time, wall=time.time)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await router.start()
    except OSError as error:
        public = f"{config.host}:{config.port}"
        internal = f"{config.internal_host}:{config.internal_port}"
        return _fail(f"cannot listen on {public} (public) and {internal} (internal): {error.strerror or error}")
    bound = {"address": router.address, "internalAddress": router.internal_address}
    listening = {"event": "listening", **bound, "url": router.url, "internalUrl": router.internal_url}
    print(json.dumps(listening), flush=True)  # noqa: T201 - the line a parent process waits for
    log.info("listening", address=router.address, internal_address=router.internal_address, model=config.model)
    if not router.access.on:
        reach = "this machine" if config.host in LOOPBACK else "THE NETWORK"
        log.warning("no keys", detail=f"keysFile is not set: all that reach this router may use it, from {reach}")
    await stop.wait()
    log.info("draining", timeout_s=router.fleet.rules.policy.drain_timeout_seconds)
    finished = await router.stop(router.fleet.rules.policy.drain_timeout_seconds)
    log.info("stopped", finished=finished)
    return 0 if finished else 1


def _fail(message: str) -> int:
    print(f"trimode router: {message}", file=sys.stderr)  # noqa: T201 - before logs are configured
    return 2


if __name__ == "__main__":
    sys.exit(main())
