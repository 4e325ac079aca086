"""The pipe to the engine's process: framing, start, failure, death, cancellation, end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode_lab.doubles import engine as fake_engine
from trimode_workers.engine.messages import (
    Cancel,
    Command,
    Configure,
    Cycle,
    Finish,
    Started,
    Stats,
    Stop,
    Submit,
    TokenEvent,
)
from trimode_workers.process.client import EngineClient
from trimode_workers.process.framing import EnginePipe, Framer, PipeClosed, encode
from trimode_workers.process.loop import run
from trimode_workers.process.pending import EngineFailed
from trimode_workers.process.spawn import engine_argv
from trimode_workers.replica.settings import EngineOptions

CONFIGURE = Configure(points=["AR", "S8"], fallback="AR", version=3)
Eventually = Callable[..., Awaitable[None]]
StartEngine = Callable[..., Awaitable[EngineClient]]


@given(st.lists(st.text(max_size=20), max_size=8), st.lists(st.integers(1, 30), min_size=1, max_size=8))
def test_messages_survive_any_cut_of_the_stream(ids: list[str], sizes: list[int]) -> None:
    decoder: Any = msgspec.msgpack.Decoder(Command)
    framer: Framer[Command] = Framer(decoder)
    messages: list[Command] = [Cancel(each) for each in ids]
    stream = b"".join(map(encode, messages))
    received: list[Command] = []
    while stream:
        for size in sizes:
            received += framer.feed(stream[:size])
            stream = stream[size:]
    assert received == messages


def test_a_senseless_frame_is_refused() -> None:
    decoder: Any = msgspec.msgpack.Decoder(Command)
    with pytest.raises(ValueError, match="at most"):
        Framer(decoder).feed(b"\xff\xff\xff\xff")


class TestEnginePipe:
    """The engine's end."""

    def test_what_has_arrived_is_taken_without_waiting(self) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            pipe = EnginePipe(theirs)
            assert pipe.receive(block=False) == []
            ours.sendall(encode(Cancel("a")) + encode(Cancel("b")))
            assert pipe.receive(block=True) == [Cancel("a"), Cancel("b")]

    def test_the_end_of_the_shell_is_an_exception(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            pipe = EnginePipe(theirs)
            ours.close()
            with pytest.raises(PipeClosed):
                pipe.receive(block=False)


class Contradicted(fake_engine.FakeEngine):
    """Refuses every new configuration, as the real engine refuses a contradicting one."""

    def configure(self, configure: Configure) -> None:
        raise ValueError("fixed is D8@0.5, allowed is one of the points")


def test_a_contradicting_configuration_does_not_end_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(encode(CONFIGURE) + encode(Stop()))
        engine = Contradicted(2, CONFIGURE, 0.0, clock=lambda: 0.0)
        run(engine, EnginePipe(theirs), fake_engine.FakeRefused)
    assert "the old one stays" in caplog.text


@pytest.fixture
def options(fake_model: Path) -> EngineOptions:
    return EngineOptions(model=str(fake_model), max_running_requests=2, max_context_tokens=64)


@pytest.fixture
async def start(options: EngineOptions) -> AsyncIterator[StartEngine]:
    engines: list[EngineClient] = []

    async def start(**more: Any) -> EngineClient:
        argv = engine_argv(fake_engine.__name__, options.model_copy(update=more), CONFIGURE)
        engines.append(await EngineClient.start(argv))
        return engines[-1]

    yield start
    for engine in engines:
        await engine.close()


class Heard:
    """The events of one request."""

    def __init__(self) -> None:
        self.events: list[TokenEvent] = []
        self.ended = asyncio.Event()

    def __call__(self, event: TokenEvent) -> None:
        self.events.append(event)
        if event.finish:
            self.ended.set()

    @property
    def tokens(self) -> list[int]:
        return [token for event in self.events for token in event.tokens]


class TestClient:
    async def test_a_request_runs_to_its_end(self, start: StartEngine, eventually: Eventually) -> None:
        engine = await start()
        assert isinstance(engine.started, Started)
        assert engine.started.max_context_tokens == 64
        heard = Heard()
        engine.submit(Submit("a", [5, 6, 7], 4, pin="S8"), heard)
        await heard.ended.wait()
        assert heard.tokens == [5, 6, 7, 5]
        assert heard.events[-1].finish is Finish.LENGTH
        assert heard.events[-1].cycles == {"S8": 2}
        assert (engine.in_flight, engine.emitted_total) == (0, 4)
        await engine.emptied()
        await eventually(lambda: isinstance(engine.stats, Stats) and engine.stats.running == 0)

    async def test_a_refusal_is_the_only_event(self, start: StartEngine) -> None:
        engine = await start()
        heard = Heard()
        engine.submit(Submit("a", [5], 4, pin="S64"), heard)
        await heard.ended.wait()
        (event,) = heard.events
        assert (event.finish, event.code, event.field) == (Finish.ERROR, "mode_not_allowed", "trimode.mode")
        assert "S64" in event.error

    async def test_a_cancelled_request_makes_room_for_the_next(self, start: StartEngine) -> None:
        engine = await start(max_running_requests=1)
        hanging, waiting = Heard(), Heard()
        engine.submit(Submit("a", [fake_engine.HANG], 4), hanging)
        engine.submit(Submit("b", [5], 2), waiting)
        engine.cancel("a")
        await waiting.ended.wait()
        assert waiting.tokens == [5, 5]
        assert [event.finish for event in hanging.events] == [Finish.CANCELLED]

    async def test_a_configuration_reaches_an_idle_engine(self, start: StartEngine, eventually: Eventually) -> None:
        engine = await start()
        await eventually(lambda: engine.stats is not None)
        assert engine.stats is not None
        assert engine.stats.policy_version == 3
        engine.configure(Configure(points=["AR", "S8"], fallback="AR", fixed="S8", version=4))
        await eventually(lambda: engine.stats is not None and engine.stats.policy_version == 4, within_s=2)
        assert (engine.stats.point, engine.stats.switches_total) == ("S8", 1)

    async def test_a_listener_that_fails_does_not_stop_the_others(
        self, start: StartEngine, caplog: pytest.LogCaptureFixture
    ) -> None:
        engine = await start()
        heard = Heard()

        def broken(event: TokenEvent) -> None:
            raise RuntimeError("a bug")

        engine.submit(Submit("a", [5], 3), broken)
        engine.submit(Submit("b", [5], 3), heard)
        await heard.ended.wait()
        assert heard.tokens == [5, 5, 5]
        assert "a bug" in caplog.text


class TestDeath:
    async def test_a_model_that_is_not_there(self, start: StartEngine) -> None:
        with pytest.raises(EngineFailed, match=r"^model: '/nowhere' is not a folder with fake\.json$"):
            await start(model="/nowhere")

    async def test_a_program_that_ends_at_once(self) -> None:
        with pytest.raises(EngineFailed, match="the engine process ended"):
            await EngineClient.start(["/bin/false"])

    async def test_everybody_who_waits_is_told(self, start: StartEngine) -> None:
        engine = await start()
        heard = [Heard(), Heard()]
        for index, each in enumerate(heard):
            engine.submit(Submit(str(index), [fake_engine.HANG], 4), each)
        engine.process.kill()
        await asyncio.gather(*(each.ended.wait() for each in heard))
        assert {event.error for each in heard for event in each.events} == {"the engine process ended by signal 9"}
        with pytest.raises(EngineFailed, match="signal 9"):
            engine.submit(Submit("late", [5], 1), Heard())

    async def test_silence_is_counted_only_while_there_is_work(self, start: StartEngine) -> None:
        engine = await start()
        assert engine.silent_s == 0.0
        os.kill(engine.process.pid, signal.SIGSTOP)
        engine.submit(Submit("a", [5], 1), Heard())
        await asyncio.sleep(0)
        assert engine.silent_s > 0.0
        os.kill(engine.process.pid, signal.SIGCONT)

    async def test_the_process_ends_with_its_pipe(self, start: StartEngine) -> None:
        engine = await start()
        assert engine._transport is not None
        engine._transport.abort()
        assert await asyncio.to_thread(engine.process.wait, 10) == 0

    async def test_close_ends_a_stuck_process_too(self, start: StartEngine) -> None:
        engine = await start()
        os.kill(engine.process.pid, signal.SIGSTOP)
        await engine.close(grace_s=0.1)
        assert not psutil.pid_exists(engine.process.pid)


def test_a_cycle_is_one_small_message() -> None:
    """Sixty-four streams, one token each: what the engine writes per cycle."""
    events = [TokenEvent(f"{number:024x}", [1234]) for number in range(64)]
    assert len(encode(Cycle(events=events, point="AR", seconds=0.001))) < 64 * 100
