"""The life of an engine's process: its arguments, its end with its parent, its first and last message. No torch."""

from __future__ import annotations

import argparse
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence

import msgspec

from trimode_workers.engine.messages import Configure, Failed, Started
from trimode_workers.process.framing import EnginePipe, PipeClosed
from trimode_workers.process.loop import EnginePort, run
from trimode_workers.replica.settings import EngineOptions

_PR_SET_PDEATHSIG = 1

Build = Callable[[EngineOptions, Configure], tuple[EnginePort, Started]]


def engine_argv(module: str, options: EngineOptions, configure: Configure) -> list[str]:
    """The command line of an engine process; the client adds `--fd`."""
    return [
        sys.executable,
        "-m",
        module,
        "--options",
        options.model_dump_json(),
        "--configure",
        msgspec.json.encode(configure).decode(),
    ]


def main(build: Build, expected: tuple[type[Exception], ...], refusal: type[Exception], argv: Sequence[str]) -> int:
    """Build an engine and serve it on the pipe. `expected` errors are reported by their message, without a trace."""
    parser = argparse.ArgumentParser(description="The engine's process; started by a replica, not by hand.")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--options", type=EngineOptions.model_validate_json, required=True)
    parser.add_argument("--configure", type=lambda text: msgspec.json.decode(text, type=Configure), required=True)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s engine %(levelname)s %(message)s")
    die_with_parent()
    # Ctrl-C reaches the whole foreground group: the shell decides when the engine ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = EnginePipe(socket.socket(fileno=args.fd))
    try:
        try:
            engine, started = build(args.options, args.configure)
        except expected as exc:
            pipe.send(Failed(_one_line(str(exc))))
            return 1
        # What was loaded lives as long as the process: without this every full collection would walk all of it, in
        # mid-cycle.
        gc.collect()
        gc.freeze()
        pipe.send(started)
        run(engine, pipe, refusal)
    except PipeClosed:
        return 0
    except Exception as exc:  # the last chance to tell the shell why every request fails
        pipe.send(Failed(_one_line(f"{type(exc).__name__}: {exc}")))
        raise
    return 0


def die_with_parent() -> None:
    """Also while the engine is in a long cycle: the end of the pipe is only seen between cycles."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _one_line(text: str) -> str:
    return " ".join(text.split()) or "unknown error"
