"""`trimode up`: check first, start everything, watch it, end it. What is started, and in which order: `runner`."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType

from rich.console import Console
from rich.text import Text

from trimode_api.resource import NemotronDeployment
from trimode_local import console, control_socket, download, preflight, ray_local, reaper, startup_progress
from trimode_local.console import Terminal, own_terminal
from trimode_local.control_socket import Control, Order, socket_path
from trimode_local.entry import Entry
from trimode_local.errors import Stopped
from trimode_local.plan import plan
from trimode_local.resource_file import load
from trimode_local.runner import Stack
from trimode_local.status_line import LiveLine, summary_of

WATCH_S = 0.5
"""Time between two reads of the fleet's state, in seconds."""


@dataclass(slots=True)
class Signals:
    """How often the user asked to stop: once drains, twice does not wait. Wakes the reader of `inbox`."""

    inbox: SimpleQueue[Order | None]
    count: int = 0

    def stopping(self) -> bool:
        return self.count > 0

    def hurry(self) -> bool:
        return self.count > 1

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self.inbox.put(None)


def up(file: str, entry: Entry) -> None:
    """Serve the resource in `file` until SIGINT or SIGTERM. Raises TrimodeError."""
    deployment = load(file)
    model = _check_first(deployment, entry)
    inbox: SimpleQueue[Order | None] = SimpleQueue()
    signals = Signals(inbox)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signals)
    with ExitStack() as closing:
        control = Control(socket_path(deployment.metadata.name, os.environ), inbox)
        closing.callback(control.close)
        folder = _own_folder(Path(ray_local.short_folder()))
        closing.callback(shutil.rmtree, folder, ignore_errors=True)
        terminal = closing.enter_context(own_terminal(folder / "up.log"))
        ray_local.adopt_environment()
        reaper.become_reaper()
        stack = Stack(deployment, model, entry, folder, os.environ, signals.stopping, signals.hurry)
        closing.callback(_end, stack, terminal.err, signals)
        _run(stack, terminal, signals)


def _check_first(deployment: NemotronDeployment, entry: Entry) -> Path:
    """Every check that needs nothing started; returns the model's folder."""
    pools = plan(deployment)
    entry.check()
    with download.shown(console.err) as told:
        model = preflight.model_folder(deployment, told)
    warnings = preflight.check_machine(
        pools, preflight.machine_gpus(), preflight.machine_cores(), preflight.machine_memory()
    )
    for warning in (*warnings, *preflight.without_secrets(deployment.spec.router, entry)):
        console.err.print(Text.assemble(("warning: ", "yellow"), warning), soft_wrap=True)
    preflight.check_port(entry.host, entry.port)
    return model


def _own_folder(base: Path) -> Path:
    """A new folder for this process; those of processes that were killed are removed."""
    for old in base.glob("trimode-up-*-*"):
        pid = old.name.split("-")[2]
        if pid.isdigit() and old.stat().st_uid == os.getuid() and not Path("/proc", pid).exists():
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"trimode-up-{os.getpid()}-", dir=base))


def _run(stack: Stack, terminal: Terminal, signals: Signals) -> None:
    try:
        with startup_progress.shown(stack.steps, terminal.err) as steps:
            stack.start(steps)
    except Stopped:
        return
    _ready(stack, terminal)
    live = LiveLine(terminal.err)
    try:
        _watch(stack, live, signals)
    finally:
        live.close()


def _watch(stack: Stack, live: LiveLine, signals: Signals) -> None:
    """Show the fleet, rebalance it and carry out orders until asked to stop."""
    while not signals.stopping():
        try:
            order = signals.inbox.get(timeout=WATCH_S)
        except Empty:
            order = None
        if order is not None:
            live.say(control_socket.take(order, stack))
        fleet = stack.fleet()
        if fleet is not None:
            if words := stack.rebalance(fleet, time.monotonic()):
                live.say(words)
            live.show(summary_of(fleet), time.monotonic())


def _ready(stack: Stack, terminal: Terminal) -> None:
    assert stack.router is not None
    url = stack.router.url
    name = stack.deployment.served_name
    body = f'{{"model": "{name}", "messages": [{{"role": "user", "content": "Who are you?"}}], "stream": true}}'
    key = ' -H "Authorization: Bearer $OPENAI_API_KEY"' if stack.entry.keys else ""
    terminal.out.print(f"ready: {name} at {url}/v1", soft_wrap=True)
    terminal.err.print(
        Text.assemble(
            ("try:   ", "dim"),
            f"curl -N {url}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'\n",
            ("       ", "dim"),
            f"trimode chat --url {url}      trimode apply -f FILE      Ctrl-C ends it\n",
        ),
        soft_wrap=True,
    )


def _end(stack: Stack, shown: Console, signals: Signals) -> None:
    """Stop the stack, in whatever state it is; a failure in it must not keep the rest from being ended."""
    if signals.stopping():
        shown.print("stopping: running requests are finished first; Ctrl-C again does not wait", soft_wrap=True)
    try:
        stack.stop()
    finally:
        reaper.sweep(0.0)
