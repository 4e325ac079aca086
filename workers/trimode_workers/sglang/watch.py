"""From a server's start to its end: when it is ready, and how its loss is noticed.

A server is lost when its process ends, when it stops answering, or when it generates nothing while idle.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import aiohttp

from trimode_workers.engine.messages import Submit
from trimode_workers.process.pending import EngineFailed
from trimode_workers.sglang.http import BadChunk, Chunks, SglangHttp
from trimode_workers.sglang.observe import Figures, Observer
from trimode_workers.sglang.server import Server

POLL_S = 0.25
"""Time between two looks at process and metrics, in seconds."""
SILENT_POLLS = 40
"""Polls in a row without an answer after which the server counts as gone."""
PROBE_IDLE_S = 30.0
"""Seconds after which an idle server is asked to generate."""
FIRST_TOKENS = 48
"""Length of the generation that makes a server ready."""

_log = logging.getLogger(__name__)


async def until_ready(server: Server, http: SglangHttp, observer: Observer) -> None:
    """Until it has generated, and shown how many tokens come at once. EngineFailed says why it does not."""
    while True:
        _check(server)
        if await http.healthy():
            break
        await asyncio.sleep(POLL_S)
    # Without an end of sequence: an answer that ends early by itself would look like a server that cannot go on.
    submit = Submit("ready", [1] * 16, FIRST_TOKENS, ignore_eos=True)
    follow, tokens, cycles, last = Chunks(frozenset()), 0, 0, None
    try:
        async for chunk in http.chunks(submit):
            produced, now = follow.feed(chunk).produced, time.monotonic()
            tokens, cycles = tokens + produced, cycles + (produced > 0)
            if produced:  # routers have something to compare from the first report on
                observer.chunk(1, produced, None if last is None else now - last)
                last = now
    except (aiohttp.ClientError, BadChunk, ValueError) as exc:
        _check(server)
        raise EngineFailed(f"the SGLang server cannot generate: {exc}: {server.last_words()}") from exc
    if tokens < FIRST_TOKENS:
        raise EngineFailed(f"the SGLang server generated {tokens} of {FIRST_TOKENS} tokens that were asked for")
    _log.info("SGLang is ready: %.2f tokens per chunk in the first generation", tokens / cycles)


async def until_lost(
    server: Server, http: SglangHttp, busy: Callable[[], bool], take: Callable[[Figures], None]
) -> str:
    """Until it is lost; why. `busy`: whether requests are under way; `take` gets its figures as they come."""
    silent, idle_since = 0, time.monotonic()
    while True:
        await asyncio.sleep(POLL_S)
        if ended := server.ended:
            return ended
        figures = await http.figures()
        if figures is None:
            silent += 1
            if silent >= SILENT_POLLS:
                return f"the SGLang server does not answer: {server.last_words()}"
        else:
            silent = 0
            take(figures)
        now = time.monotonic()
        if busy():
            idle_since = now
        # A scheduler that hangs leaves the HTTP side answering. Under load its silence shows in the streams; while
        # idle only a generation shows it.
        elif now - idle_since >= PROBE_IDLE_S:
            idle_since = now
            if not await http.generates():
                return f"the SGLang server generates nothing: {server.last_words()}"


def _check(server: Server) -> None:
    if ended := server.ended:
        raise EngineFailed(ended)
