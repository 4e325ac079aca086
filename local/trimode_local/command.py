"""`trimode up`: check first, start everything, watch it, end it. `trimode apply`: hand a changed resource to that `up`.

What is started, and in which order: `runner`.
"""

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

from rich.text import Text

from trimode_api.resource import GROUP, KIND, NemotronDeployment
from trimode_local import console, control_socket, download, preflight, ray_local, reaper, startup_progress
from trimode_local.console import Terminal, own_terminal
from trimode_local.control_socket import Control, Order, send, socket_path
from trimode_local.entry import Entry
from trimode_local.errors import BadInput, CliError, Stopped
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
        # First: a second `up` of the same name is refused before it has started anything.
        control = Control(socket_path(deployment.metadata.name, os.environ), inbox)
        closing.callback(control.close)
        base = Path(ray_local.short_folder())
        for old in base.glob("trimode-up-*-*"):  # of processes that were killed: nothing else removes them
            pid = old.name.split("-")[2]
            if pid.isdigit() and old.stat().st_uid == os.getuid() and not Path("/proc", pid).exists():
                shutil.rmtree(old, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f"trimode-up-{os.getpid()}-", dir=base))
        closing.callback(shutil.rmtree, folder, ignore_errors=True)
        terminal = closing.enter_context(own_terminal(folder / "up.log"))
        # Before anything imports Ray, which reads its environment while it is imported.
        ray_local.adopt_environment()
        reaper.become_reaper()
        stack = Stack(deployment, model, entry, folder, os.environ, signals.stopping, signals.hurry)
        # In whatever state it is; a failure in it must not keep the rest from being ended.
        closing.callback(reaper.sweep, 0.0)
        closing.callback(stack.stop)
        try:
            _run(stack, terminal, signals)
        finally:
            if signals.stopping():
                words = "stopping: running requests are finished first; Ctrl-C again does not wait"
                terminal.err.print(words, soft_wrap=True)


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


def _run(stack: Stack, terminal: Terminal, signals: Signals) -> None:
    """Start the stack; then show it, rebalance it and carry out orders until asked to stop."""
    try:
        with startup_progress.shown(stack.steps, terminal.err) as steps:
            stack.start(steps)
    except Stopped:
        return
    _ready(stack, terminal)
    live = LiveLine(terminal.err)
    try:
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
    finally:
        live.close()


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


def apply(file: str) -> None:
    """Send the resource in `file` to the `up` that serves it; prints what kubectl would, and what changed.

    Raises TrimodeError: a wrong file is refused here and never reaches a running fleet.
    """
    deployment = load(file)
    plan(deployment)
    with download.shown(console.err) as told:  # here, so that the fleet goes on while a new model is downloaded
        preflight.model_folder(deployment, told)
    name = deployment.metadata.name
    resource = deployment.model_dump(mode="json", by_alias=True, exclude_none=True)
    answer = send(socket_path(name, os.environ), {"order": "apply", "resource": resource})
    if "error" in answer:
        raise (BadInput if answer.get("status") == 2 else CliError)(f"{file}: {answer['error']}")
    changes = answer["changes"]
    console.out.print(f"{KIND.lower()}.{GROUP}/{name} {'configured' if changes else 'unchanged'}", soft_wrap=True)
    for change in changes:
        console.err.print(Text(f"  {change}"), soft_wrap=True)
    for action in answer["actions"]:
        console.err.print(Text(f"  {action}", style="dim"), soft_wrap=True)
