"""The load: closed-loop streaming clients, in a process of their own (`python -m trimode_tools.bench.load URL MODEL`).

It reads a job (one JSON line), runs it, and writes what came of it (one line). A client that has an answer asks again
at once; answers are not parsed but for their usage.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import Any

import aiohttp

_USAGE = re.compile(rb'"completion_tokens": ?(\d+)')
_TAIL_BYTES = 2048
"""The last event is far shorter."""


@dataclass(frozen=True, slots=True)
class Job:
    """`stages`: concurrency and seconds, in turn. What ends in the first `warm_s` seconds is not counted."""

    stages: Sequence[tuple[int, float]]
    prompts: Sequence[str]
    max_tokens: int = 128
    extra: Mapping[str, Any] = field(default_factory=dict)
    warm_s: float = 0.0


@dataclass(slots=True)
class Tally:
    """What was counted after the warm-up: tokens and answers that ended, failures, seconds."""

    tokens: int = 0
    answers: int = 0
    failures: int = 0
    seconds: float = 0.0
    error: str = ""


class Clients:
    """The clients of one job."""

    def __init__(self, session: aiohttp.ClientSession, model: str, job: Job) -> None:
        self._session, self._model, self._job = session, model, job
        self._turn = count()
        self._wanted = 0
        self._counts_from = time.perf_counter() + job.warm_s
        self._tally = Tally()

    async def run(self) -> Tally:
        running: dict[int, asyncio.Task[None]] = {}
        for concurrency, seconds in self._job.stages:
            self._wanted = concurrency
            for index in range(concurrency):
                if index not in running or running[index].done():
                    running[index] = asyncio.create_task(self._client(index))
            await asyncio.sleep(seconds)
        self._tally.seconds = time.perf_counter() - self._counts_from
        tally = self._tally
        self._tally = Tally()  # what ends from here on is not part of the measurement
        for task in running.values():
            task.cancel()
        await asyncio.gather(*running.values(), return_exceptions=True)
        return tally

    async def _client(self, index: int) -> None:
        while index < self._wanted:
            prompt = self._job.prompts[next(self._turn) % len(self._job.prompts)]
            try:
                tokens = await self._ask(prompt)
            except (aiohttp.ClientError, ValueError, OSError) as exc:
                self._tally.failures += 1
                self._tally.error = str(exc) or type(exc).__name__
                await asyncio.sleep(0.1)  # a server that refuses is not to be hammered
                continue
            if time.perf_counter() >= self._counts_from:
                self._tally.tokens += tokens
                self._tally.answers += 1

    async def _ask(self, prompt: str) -> int:
        """Tokens of one streamed answer."""
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self._job.max_tokens,
            "temperature": 0,
            "stream": True,
            **self._job.extra,
        }
        tail = b""
        async with self._session.post("/v1/chat/completions", json=body) as answer:
            if answer.status != 200:
                raise ValueError(f"{answer.status}: {(await answer.text())[:200]}")
            async for piece in answer.content.iter_any():
                tail = (tail + piece)[-_TAIL_BYTES:]
        found = _USAGE.search(tail)
        if found is None:
            raise ValueError("the stream ended without usage")
        return int(found[1])


async def serve(url: str, model: str) -> None:
    """Run the jobs on stdin until it ends."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None, sock_read=300)
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:
        while line := await asyncio.to_thread(sys.stdin.readline):
            tally = await Clients(session, model, Job(**json.loads(line))).run()
            sys.stdout.write(json.dumps(asdict(tally)) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(sys.argv[1], sys.argv[2]))
