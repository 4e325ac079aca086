"""The load, and the account of it."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import aiohttp

from trimode_lab.doubles.replica.script import text_of

PATH = "/v1/chat/completions"
_STREAMS_PER_WHOLE = 6
"""For so many clients that take streams there is one more that takes whole answers."""
_PAUSE_SECONDS = 0.1
"""After a refusal, before the next try: what a polite client does."""


@dataclass(slots=True)
class Account:
    """How requests ended, and what clients saw: one entry for each request sent.

    `ok`: whole, token for token. `refused`: Retry-After before anything was sent. `unconnected`: no process listens.
    `left`: the client closed first, on purpose. `error`: an error or a cut in an answer begun, or another status.
    `wrong`: tokens missing, doubled or of another stream.
    """

    ends: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    pauses: list[float] = field(default_factory=list)
    """Longest time between two tokens, in seconds, of every stream that was resumed."""
    examples: list[str] = field(default_factory=list)

    @property
    def sent(self) -> int:
        return sum(self.ends.values())

    def note(self, end: str, example: str = "") -> None:
        self.ends[end] += 1
        if example and len(self.examples) < 6:
            self.examples.append(f"{end}: {example}")


class Load:
    """Closed loops on one endpoint: `clients` that take one stream after the other, and some that take whole answers.
    `leaving` is the share of streams that clients break off; `streams` is how many are open now."""

    def __init__(self, url: str, clients: int, *, leaving: float = 0.0) -> None:
        self.account = Account()
        self.streams = 0
        self._url = url
        self._clients = clients
        self._leaving = leaving
        self._names = itertools.count()
        self._stop = asyncio.Event()

    async def run(self, seconds: float) -> Account:
        """Send for so long, then let the last answers end."""
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
        async with aiohttp.ClientSession(self._url, connector=connector, timeout=timeout) as session:
            whole = max(1, self._clients // _STREAMS_PER_WHOLE)
            kinds = [True] * self._clients + [False] * whole
            clients = [asyncio.ensure_future(self._client(session, stream)) for stream in kinds]
            await asyncio.sleep(seconds)
            self._stop.set()
            await asyncio.gather(*clients)
        return self.account

    async def _client(self, session: aiohttp.ClientSession, stream: bool) -> None:
        while not self._stop.is_set():
            name, count = f"n{next(self._names)}", random.randint(10, 60)
            leave = random.randrange(count) if stream and random.random() < self._leaving else None
            body = {"model": "tiny", "stream": stream, "max_tokens": count}
            body["messages"] = [{"role": "user", "content": name}]
            self.streams += stream
            try:
                end, example = await self._ask(session, body, name, count, leave)
            except aiohttp.ClientConnectorError:
                end, example = "unconnected", ""
            except (aiohttp.ClientError, TimeoutError) as error:
                end, example = "error", f"{name} {type(error).__name__} {error}"
            finally:
                self.streams -= stream
            self.account.note(end, example)
            if end in ("refused", "unconnected"):
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _ask(
        self, session: aiohttp.ClientSession, body: dict[str, object], name: str, count: int, leave: int | None
    ) -> tuple[str, str]:
        async with session.post(PATH, json=body) as response:
            if "retry-after" in response.headers:
                return "refused", f"{name} status {response.status} {(await response.text())[:200]}"
            if response.status != 200:
                return "error", f"{name} status {response.status} {(await response.text())[:200]}"
            if body["stream"]:
                return await self._listen(response, name, count, leave)
            answer = await response.json()
            text = answer["choices"][0]["message"]["content"]
            return ("ok", "") if text == text_of(name, 0, count) else ("wrong", f"{name} {text[:200]!r}")

    async def _listen(
        self, response: aiohttp.ClientResponse, name: str, count: int, leave: int | None
    ) -> tuple[str, str]:
        text, last, usage, done, resumed = "", time.monotonic(), 0, False, 0
        pause, pieces, ids = 0.0, 0, set()
        async for line in response.content:
            if not line.startswith(b"data: "):
                continue
            if line == b"data: [DONE]\n":
                done = True
                continue
            event = json.loads(line[6:])
            if "error" in event:
                return "error", f"{name} after {pieces} of {count}: {event['error']['message'][:200]}"
            now = time.monotonic()
            pause, last = max(pause, now - last), now
            text += event["choices"][0]["delta"].get("content", "")
            ids.add(event["id"])
            pieces += 1
            usage = event.get("usage", {}).get("completion_tokens", usage)
            resumed = event.get("trimode", {}).get("resumedAfter", resumed)
            if leave is not None and pieces > leave:
                response.close()
                return "left", ""
        if text != text_of(name, 0, count) or usage != count or not done or len(ids) != 1:
            return "wrong", f"{name} of {count}: {text[:300]!r} usage {usage} done {done} ids {len(ids)}"
        if resumed:
            self.account.resumed += 1
            self.account.pauses.append(pause)
        return "ok", ""


def quantile(values: Iterable[float], share: float) -> float:
    """0 of nothing."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(len(ranked) * share))] if ranked else 0.0
