"""The shell's side of an SGLang server: what `EngineClient` is for the native engine.

Belongs here: asyncio and HTTP; requests as token ids, answers as token events. The server is lost when its process
ends, when it stops answering, or when it generates nothing while idle; the replica is then replaced, and its streams
go on elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp

from trimode_api.modes import Mode, OperatingPoint
from trimode_api.wire import TOKEN_VARIABLE
from trimode_workers.engine.messages import Configure, Finish, Started, Stats, Submit, TokenEvent
from trimode_workers.process.client import EngineFailed, OnEvent
from trimode_workers.replica.settings import EngineOptions
from trimode_workers.sglang.metrics import parse
from trimode_workers.sglang.observe import Observer
from trimode_workers.sglang.options import SGLangOptions
from trimode_workers.sglang.server import Server
from trimode_workers.sglang.stream import BadChunk, Chunks, body_of
from trimode_workers.sglang.tiers import tiers

POLL_S = 0.25
"""Time between two looks at process and metrics, in seconds."""
SILENT_POLLS = 40
"""So many looks in a row without an answer: the server is gone."""
PROBE_IDLE_S = 30.0
"""An idle server is asked to generate this often."""
PROBE_TIMEOUT_S = 60.0
FIRST_TOKENS = 48
"""Length of the generation that makes a server ready."""

_log = logging.getLogger(__name__)


class SGLangClient:
    """One server. All methods are for the loop it was started in; they mean what `EngineClient`'s do."""

    def __init__(self, server: Server, engine: EngineOptions, options: SGLangOptions, eos: frozenset[int]) -> None:
        self.server = server
        self.started: Started | None = None
        self.emitted_total = 0
        self.lost = ""
        self._engine, self._options, self._eos = engine, options, eos
        self._on_change: Callable[[], None] = lambda: None
        self._session = aiohttp.ClientSession(
            server.url,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
            read_bufsize=1 << 20,
        )
        by_batch = (
            tiers(options.block_lengths, engine.max_running_requests) if options.mode is Mode.SELF_SPECULATION else ()
        )
        rows = engine.max_running_requests
        self._observer = Observer(
            options.points, by_batch, rows * engine.max_context_tokens, rows, began=time.monotonic()
        )
        self._listeners: dict[str, OnEvent] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._watch: asyncio.Task[None] | None = None
        self._heard = time.monotonic()
        self._empty = asyncio.Event()
        self._empty.set()
        self._warned = False

    @classmethod
    async def start(
        cls, engine: EngineOptions, configure: Configure, on_change: Callable[[], None], eos: frozenset[int]
    ) -> SGLangClient:
        """Start the server and wait until it has generated. EngineFailed says why it has not."""
        options = engine.sglang
        assert options is not None
        environment = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}
        began = time.monotonic()
        try:
            server = Server.start(engine, options, environment)
        except OSError as exc:
            raise EngineFailed(f"the SGLang server cannot be started: {options.command[0]}: {exc.strerror}") from exc
        client = cls(server, engine, options, eos)
        try:
            async with asyncio.timeout(options.start_timeout_s):
                await client._await_health()
                await client._first_generation()
        except TimeoutError as exc:
            await client.close()
            words = server.last_words()
            raise EngineFailed(
                f"the SGLang server was not ready within {options.start_timeout_s:g} s: {words}"
            ) from exc
        except BaseException:
            await client.close()
            raise
        client._begin(time.monotonic() - began, configure, on_change)
        return client

    @property
    def stats(self) -> Stats:
        return self._observer.stats(self.in_flight, time.monotonic())

    @property
    def in_flight(self) -> int:
        """Requests submitted and not yet ended."""
        return len(self._listeners)

    @property
    def silent_s(self) -> float:
        """Seconds since the server last sent a token, or since it last had nothing to do."""
        return time.monotonic() - self._heard if self._listeners else 0.0

    def submit(self, request: Submit, on_event: OnEvent) -> None:
        """Queue a request. `on_event` is called for each of its events; the last one has `finish`."""
        if self.lost:
            raise EngineFailed(self.lost)
        if not self._listeners:
            self._heard = time.monotonic()
        self._listeners[request.request_id] = on_event
        self._empty.clear()
        task = self._tasks[request.request_id] = asyncio.create_task(self._run(request))
        task.add_done_callback(lambda _: self._over(request.request_id))

    def cancel(self, request_id: str) -> None:
        """The last event (`CANCELLED`) still arrives; see `forget`."""
        task = self._tasks.get(request_id)
        if task is not None:
            task.cancel()

    def forget(self, request_id: str) -> None:
        """Cancel, and hear no more of it."""
        self.cancel(request_id)
        self._listeners.pop(request_id, None)
        self._note_empty()

    async def emptied(self) -> None:
        """Wait until no request is in flight."""
        await self._empty.wait()

    def configure(self, configure: Configure) -> None:
        """Mode and block lengths are fixed when a server starts: only the version is taken over."""
        self._observer.version = configure.version

    async def close(self, grace_s: float = 5.0) -> None:
        """End the server; kills it after `grace_s` seconds. Safe to call twice."""
        if self._watch is not None:
            self._watch.cancel()
        self._end("the replica is shutting down")
        for task in tuple(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._session.close()
        await asyncio.to_thread(self.server.stop, grace_s)

    # start

    async def _await_health(self) -> None:
        while True:
            self._check_process()
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with self._session.get("/health", timeout=aiohttp.ClientTimeout(total=10)) as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(POLL_S)

    async def _first_generation(self) -> None:
        """Whether it really generates, and how many tokens come at once."""
        submit = Submit("ready", [1] * 16, FIRST_TOKENS, ignore_eos=True)
        follow, tokens, cycles, last = Chunks(frozenset()), 0, 0, None
        try:
            async for chunk in self._chunks(submit):
                produced, now = follow.feed(chunk).produced, time.monotonic()
                tokens, cycles = tokens + produced, cycles + (produced > 0)
                if produced:  # routers have something to compare from the first report on
                    self._observer.chunk(1, produced, None if last is None else now - last)
                    last = now
        except (aiohttp.ClientError, BadChunk, ValueError) as exc:
            self._check_process()
            raise EngineFailed(f"the SGLang server cannot generate: {exc}: {self.server.last_words()}") from exc
        if tokens < FIRST_TOKENS:
            raise EngineFailed(f"the SGLang server generated {tokens} of {FIRST_TOKENS} tokens that were asked for")
        _log.info("SGLang is ready: %.2f tokens per chunk in the first generation", tokens / cycles)

    def _begin(self, seconds: float, configure: Configure, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._observer.version = configure.version
        self.started = Started(
            max_context_tokens=self._engine.max_context_tokens,
            max_running_requests=self._engine.max_running_requests,
            eos_token_ids=sorted(self._eos),
            mask_token_id=0,
            device="sglang",
            dtype=self._engine.dtype,
            parameters=0,
            load_seconds=seconds,
            no_grammar="" if self._options.mode is Mode.AR else f"{self._options.mode} on SGLang follows no grammar",
        )
        self._watch = asyncio.create_task(self._follow())

    # one request

    async def _run(self, request: Submit) -> None:
        cycles: dict[str, int] = {}
        emitted: dict[str, int] = {}
        event = TokenEvent(request.request_id, [], Finish.ERROR, "the server ended the stream too early")
        try:
            if request.grammar is not None and request.emitted:
                raise BadChunk(
                    "an answer in a response_format cannot go on here: SGLang's grammars begin with an answer"
                )
            self._warn(request)
            follow, last = Chunks(self._eos), None
            async for chunk in self._chunks(request):
                news = follow.feed(chunk)
                now = time.monotonic()
                self._heard = now
                if news.produced:
                    running = min(self.in_flight, self._engine.max_running_requests)
                    point = str(self._observer.chunk(running, news.produced, None if last is None else now - last))
                    last = now
                    cycles[point] = cycles.get(point, 0) + 1
                    emitted[point] = emitted.get(point, 0) + len(news.tokens)
                self.emitted_total += len(news.tokens)
                if news.finish is not None:
                    event = TokenEvent(request.request_id, news.tokens, news.finish, "", cycles, emitted)
                    break
                if news.tokens:
                    self._tell(TokenEvent(request.request_id, news.tokens))
        except asyncio.CancelledError:
            event = TokenEvent(request.request_id, [], Finish.CANCELLED, "", cycles, emitted)
        except (BadChunk, ValueError) as exc:
            event = TokenEvent(request.request_id, [], Finish.ERROR, str(exc))
        except (aiohttp.ClientError, OSError) as exc:
            await self._perhaps_dead()
            event = TokenEvent(request.request_id, [], Finish.ERROR, f"the SGLang server broke off: {exc}")
        self._tell(event)

    def _over(self, request_id: str) -> None:
        self._tasks.pop(request_id, None)
        if request_id in self._listeners:  # cancelled before it had begun
            self._tell(TokenEvent(request_id, [], Finish.CANCELLED))

    async def _chunks(self, request: Submit) -> AsyncIterator[dict[str, Any]]:
        """The stream's chunks. Leaving it early aborts the request: the server notices the closed connection."""
        async with self._session.post("/generate", json=body_of(request)) as response:
            if response.status != 200:
                words = (await response.text())[:500]
                raise BadChunk(f"the SGLang server answered {response.status}: {words}")
            async for line in response.content:
                if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
                    yield json.loads(line[6:])

    def _tell(self, event: TokenEvent) -> None:
        request_id = event.request_id
        listener = self._listeners.pop(request_id, None) if event.finish else self._listeners.get(request_id)
        self._note_empty()
        if listener is not None:
            try:
                listener(event)
            except Exception:  # noqa: BLE001 - one request's bug must not end the others
                _log.exception("request %s failed while handling an event", request_id)

    def _warn(self, request: Submit) -> None:
        if not request.sampling.greedy and self._options.mode is not Mode.AR and not self._warned:
            self._warned = True
            _log.warning(
                "%s on SGLang ignores temperature: sampled requests are answered greedily here", self._options.mode
            )

    # watching

    async def _follow(self) -> None:
        silent, idle_since = 0, time.monotonic()
        while not self.lost:
            await asyncio.sleep(POLL_S)
            if ended := self.server.ended:
                self._end(ended)
                return
            silent = 0 if await self._look() else silent + 1
            if silent >= SILENT_POLLS:
                self._end(f"the SGLang server does not answer: {self.server.last_words()}")
                return
            now = time.monotonic()
            if self._listeners:
                idle_since = now
            elif now - idle_since >= PROBE_IDLE_S:
                idle_since = now
                if not await self._probe():
                    self._end(f"the SGLang server generates nothing: {self.server.last_words()}")
                    return

    async def _look(self) -> bool:
        """Read the server's figures; whether it has answered."""
        before = self._point
        try:
            async with self._session.get("/metrics", timeout=aiohttp.ClientTimeout(total=5)) as response:
                self._observer.figures = parse(await response.text())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return False
        if self._point != before:
            self._on_change()
        return True

    @property
    def _point(self) -> OperatingPoint:
        return self._observer.point(min(self.in_flight, self._engine.max_running_requests))

    async def _probe(self) -> bool:
        timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)
        try:
            async with self._session.get("/health_generate", timeout=timeout) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    def _check_process(self) -> None:
        if ended := self.server.ended:
            raise EngineFailed(ended)

    async def _perhaps_dead(self) -> None:
        """A broken connection is seen a moment before the exit code is there."""
        for _ in range(20):
            if ended := self.server.ended:
                self._end(ended)
                return
            await asyncio.sleep(0.05)

    def _end(self, why: str) -> None:
        """The server is of no more use: everybody who waits for it is told, once."""
        if self.lost:
            return
        self.lost = why
        listeners, self._listeners = self._listeners, {}
        self._note_empty()
        for request_id, listener in listeners.items():
            listener(TokenEvent(request_id, [], Finish.ERROR, error=why))
        self._on_change()

    def _note_empty(self) -> None:
        if not self._listeners:
            self._empty.set()
