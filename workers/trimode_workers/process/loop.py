"""The engine's main loop: take commands, run a cycle, send one message. No torch, no HTTP."""

from __future__ import annotations

import logging
from typing import Protocol

import msgspec

from trimode_workers.engine.messages import (
    Cancel,
    Command,
    Configure,
    Cycle,
    Finish,
    Stats,
    Stop,
    Submit,
    TokenEvent,
)
from trimode_workers.errors import RequestRefused
from trimode_workers.process.framing import EnginePipe, PipeClosed

_log = logging.getLogger(__name__)


class EnginePort(Protocol):
    """What the loop needs of an engine. `step` is called only when not `idle`."""

    @property
    def idle(self) -> bool: ...

    def submit(self, request: Submit) -> None: ...

    def cancel(self, request_id: str) -> None: ...

    def configure(self, configure: Configure) -> None: ...

    def step(self) -> Cycle: ...

    def stats(self) -> Stats: ...


def run(engine: EnginePort, pipe: EnginePipe, refusal: type[Exception]) -> None:
    """Serve until `Stop` or until the shell is gone. `refusal` is what `engine.submit` raises on a bad request."""
    # The shell learns the first state without having to ask.
    pipe.send(_quiet(engine, []))
    try:
        while True:
            commands = pipe.receive(block=engine.idle)
            refused: list[TokenEvent] = []
            if not _obey(engine, commands, refusal, refused):
                return
            if engine.idle:
                pipe.send(_quiet(engine, refused))
                continue
            cycle = engine.step()
            if refused:
                cycle = msgspec.structs.replace(cycle, events=[*refused, *cycle.events])
            if cycle.stats is None and engine.idle:
                # Otherwise the last report of an idle engine would say that it is busy.
                cycle = msgspec.structs.replace(cycle, stats=engine.stats())
            pipe.send(cycle)
    except PipeClosed:
        return


def _obey(engine: EnginePort, commands: list[Command], refusal: type[Exception], refused: list[TokenEvent]) -> bool:
    """Apply commands in their order; False when told to stop. Adds an event per refused request."""
    for command in commands:
        if isinstance(command, Submit):
            try:
                engine.submit(command)
            except refusal as exc:
                code, field = (exc.code, exc.field) if isinstance(exc, RequestRefused) else ("", None)
                refused.append(TokenEvent(command.request_id, [], Finish.ERROR, str(exc), code=code, field=field))
        elif isinstance(command, Cancel):
            engine.cancel(command.request_id)
        elif isinstance(command, Configure):
            try:
                engine.configure(command)
            except ValueError:
                # A contradicting policy must not end what is being served under the old one.
                _log.exception("configuration %d is refused; the old one stays", command.version)
        else:
            assert isinstance(command, Stop)
            return False
    return True


def _quiet(engine: EnginePort, refused: list[TokenEvent]) -> Cycle:
    """No cycle was run: nothing to do. Says how things stand."""
    stats = engine.stats()
    return Cycle(events=refused, point=stats.point, seconds=0.0, stats=stats)
