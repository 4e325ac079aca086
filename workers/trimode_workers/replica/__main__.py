"""`python -m trimode_workers.replica --settings FILE`: one replica without Ray, for tests and debugging.

Prints one JSON line with id and URL when ready.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path

import uvloop
from pydantic import ValidationError

from trimode_api.errors import InvalidInput, problems_of
from trimode_api.wire import TOKEN_VARIABLE
from trimode_workers.errors import TokenizerError
from trimode_workers.process.pending import EngineFailed
from trimode_workers.replica.replica import ENGINE_MODULE, Replica, engine_process
from trimode_workers.replica.settings import ReplicaSettings


async def serve(settings: ReplicaSettings, token: str, engine_module: str) -> None:
    """Run until SIGINT or SIGTERM, then drain. A second signal ends the wait."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    replica = await Replica.start(settings, token, engine_process(engine_module))
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    sys.stdout.write(json.dumps({"id": replica.replica_id, "url": replica.url}) + "\n")
    sys.stdout.flush()
    await stop.wait()
    stop.clear()
    draining = asyncio.create_task(replica.stop())
    hurry = asyncio.create_task(stop.wait())
    await asyncio.wait({draining, hurry}, return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    if not draining.done():
        draining.cancel()
        await replica.engine.close(grace_s=1.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=Path, required=True, help="JSON file with ReplicaSettings")
    parser.add_argument("--engine", default=ENGINE_MODULE, help="module of the engine's process")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        settings = ReplicaSettings.model_validate_json(args.settings.read_bytes())
        uvloop.run(serve(settings, os.environ.get(TOKEN_VARIABLE, ""), args.engine))
    except ValidationError as exc:
        sys.stderr.write(f"{InvalidInput(problems_of(exc), str(args.settings))}\n")
        return 2
    except (EngineFailed, TokenizerError, OSError) as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
