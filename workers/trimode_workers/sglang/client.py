"""The shell's side of an SGLang server: what `EngineClient` is for the native engine.

How the server is watched is `watch`'s; one that is lost is replaced with its replica, and its streams go on elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable

import aiohttp

from trimode_api.modes import Mode, OperatingPoint
from trimode_api.wire import TOKEN_VARIABLE
from trimode_workers.engine.messages import Configure, Finish, Started, Stats, Submit, TokenEvent
from trimode_workers.process.pending import EngineFailed, OnEvent, PendingRequests
from trimode_workers.replica.settings import EngineOptions
from trimode_workers.sglang.command import tiers
from trimode_workers.sglang.http import BadChunk, Chunks, SglangHttp, refused
from trimode_workers.sglang.observe import Figures, Observer
from trimode_workers.sglang.options import SGLangOptions
from trimode_workers.sglang.server import Server
from trimode_workers.sglang.watch import until_lost, until_ready

_log = logging.getLogger(__name__)


class SGLangClient(PendingRequests):
    """One server. All methods are for the loop it was started in; they mean what `EngineClient`'s do."""

    def __init__(
        self,
        server: Server,
        engine: EngineOptions,
        options: SGLangOptions,
        eos: frozenset[int],
        on_change: Callable[[], None],
    ) -> None:
        super().__init__(on_change)
        self.server = server
        self.http = SglangHttp(server.url)
        self.started: Started | None = None
        self._engine, self._options, self._eos = engine, options, eos
        rows = engine.max_running_requests
        by_batch = tiers(options.block_lengths, rows) if options.mode is Mode.SELF_SPECULATION else ()
        self._observer = Observer(
            options.points, by_batch, rows * engine.max_context_tokens, rows, began=time.monotonic()
        )
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._watch: asyncio.Task[None] | None = None
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
        client = cls(server, engine, options, eos, on_change)
        try:
            async with asyncio.timeout(options.start_timeout_s):
                await until_ready(server, client.http, client._observer)
        except TimeoutError as exc:
            await client.close()
            words = server.last_words()
            raise EngineFailed(
                f"the SGLang server was not ready within {options.start_timeout_s:g} s: {words}"
            ) from exc
        except BaseException:
            await client.close()
            raise
        client._observer.version = configure.version
        client.started = Started(
            max_context_tokens=engine.max_context_tokens,
            max_running_requests=engine.max_running_requests,
            eos_token_ids=sorted(eos),
            mask_token_id=0,
            device="sglang",
            dtype=engine.dtype,
            parameters=0,
            load_seconds=time.monotonic() - began,
            no_grammar="" if options.mode is Mode.AR else f"{options.mode} on SGLang follows no grammar",
            refused=refused(options.mode),
        )
        client._watch = asyncio.create_task(client._end_when_lost())
        return client

    @property
    def stats(self) -> Stats:
        return self._observer.stats(self.in_flight, time.monotonic())

    def submit(self, request: Submit, on_event: OnEvent) -> None:
        """Queue a request. `on_event` is called for each of its events; the last one has `finish`."""
        self._enter(request.request_id, on_event)
        task = self._tasks[request.request_id] = asyncio.create_task(self._run(request))

        def ended(_: asyncio.Task[None]) -> None:
            self._tasks.pop(request.request_id, None)
            if request.request_id in self._listeners:  # cancelled before it had begun
                self._deliver(TokenEvent(request.request_id, [], Finish.CANCELLED))

        task.add_done_callback(ended)

    def cancel(self, request_id: str) -> None:
        """The last event (`CANCELLED`) still arrives."""
        task = self._tasks.get(request_id)
        if task is not None:
            task.cancel()

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
        await self.http.close()
        await asyncio.to_thread(self.server.stop, grace_s)

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
            if request.adjustments is not None and request.emitted:
                raise BadChunk(
                    "an answer with penalties or biases cannot go on here: SGLang counts from an answer's beginning"
                )
            if not request.sampling.greedy and self._options.mode is not Mode.AR and not self._warned:
                self._warned = True
                words = "%s on SGLang ignores temperature: sampled requests are answered greedily here"
                _log.warning(words, self._options.mode)
            follow, last = Chunks(self._eos, frozenset(request.stop_ids if request.keep_stop else ())), None
            async for chunk in self.http.chunks(request):
                news = follow.feed(chunk)
                now = time.monotonic()
                self._heard = now
                if news.produced:
                    running = min(self.in_flight, self._engine.max_running_requests)
                    point = str(self._observer.chunk(running, news.produced, None if last is None else now - last))
                    last = now
                    cycles[point] = cycles.get(point, 0) + 1
                    emitted[point] = emitted.get(point, 0) + len(news.tokens)
                if news.finish is not None:
                    event = TokenEvent(request.request_id, news.tokens, news.finish, "", cycles, emitted)
                    break
                if news.tokens:
                    self._deliver(TokenEvent(request.request_id, news.tokens))
        except asyncio.CancelledError:
            event = TokenEvent(request.request_id, [], Finish.CANCELLED, "", cycles, emitted)
        except (BadChunk, ValueError) as exc:
            event = TokenEvent(request.request_id, [], Finish.ERROR, str(exc))
        except (aiohttp.ClientError, OSError) as exc:
            await self._perhaps_dead()
            event = TokenEvent(request.request_id, [], Finish.ERROR, f"the SGLang server broke off: {exc}")
        self._deliver(event)

    # watching

    async def _end_when_lost(self) -> None:
        def take(figures: Figures) -> None:
            before = self._point
            self._observer.figures = figures
            if self._point != before:
                self._on_change()

        self._end(await until_lost(self.server, self.http, lambda: bool(self.in_flight), take))

    @property
    def _point(self) -> OperatingPoint:
        return self._observer.point(min(self.in_flight, self._engine.max_running_requests))

    async def _perhaps_dead(self) -> None:
        """End where the server has exited: its broken connections show a moment before its exit code."""
        for _ in range(20):
            if ended := self.server.ended:
                self._end(ended)
                return
            await asyncio.sleep(0.05)
