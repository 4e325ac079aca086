"""A replica without a model: answers as the real one does, or misbehaves as told.

A script is a coroutine that gets a `Call` and writes the answer; it is cancelled when the router leaves.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from trimode_api.wire import DecisionReport, PointReport, ReplicaReport

Script = Callable[["Call"], Awaitable[None]]


class Call:
    """One request as the replica saw it, and the way to answer it."""

    def __init__(self, line: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter) -> None:
        self.method, self.path, _ = line.split(" ", 2)
        self.headers = headers
        self.body = body
        self.gone = asyncio.Event()
        self.go = asyncio.Event()
        """For scripts that wait for the test."""
        self._writer = writer

    @property
    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.body)
        return value

    async def raw(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def begin(self, status: int = 200, extra: str = "") -> None:
        """Head of a stream in HTTP chunks."""
        head = f"HTTP/1.1 {status} OK\r\ncontent-type: text/event-stream\r\n{extra}transfer-encoding: chunked\r\n\r\n"
        await self.raw(head.encode())

    async def event(self, value: object) -> None:
        data = value if isinstance(value, str) else json.dumps(value)
        await self.raw(chunk(f"data: {data}\n\n".encode()))

    async def say(self, text: str, ids: Sequence[int] = ()) -> None:
        """A chunk with text, and with `ids` as the real replica has them: compact, at the end."""
        value = chat_chunk({"content": text}) | ({"trimode": {"ids": list(ids)}} if ids else {})
        await self.event(json.dumps(value, separators=(",", ":")))

    async def end(self, tokens: int = 3, cycles: Mapping[str, int] | None = None) -> None:
        """The last events: finish, usage (with `cycles` by operating point), `[DONE]`, and the end of the answer."""
        usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}
        account = {} if cycles is None else {"trimode": {"cycles": dict(cycles)}}
        await self.event(chat_chunk({}, "stop") | {"usage": usage} | account)
        await self.raw(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async def answer(self, value: object, status: int = 200, extra: str = "") -> None:
        """A whole JSON answer."""
        body = json.dumps(value).encode()
        head = f"HTTP/1.1 {status} OK\r\ncontent-type: application/json\r\n{extra}content-length: {len(body)}\r\n\r\n"
        await self.raw(head.encode() + body)

    def close(self) -> None:
        """Close the connection in good order, even in the middle of an answer."""
        self._writer.close()

    def reset(self) -> None:
        """Cut the connection."""
        self._writer.transport.abort()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def chat_chunk(delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "chat-1", "object": "chat.completion.chunk", "created": 1, "model": "tiny", "choices": [choice]}


async def polite(call: Call) -> None:
    """Answer as asked: `max_tokens` tokens (3), streamed or whole."""
    asked = call.json
    count = int(asked.get("max_tokens") or 3)
    if asked.get("stream"):
        await call.begin()
        for index in range(count):
            await call.say(f"t{index} ")
        await call.end(count)
        return
    text = "".join(f"t{index} " for index in range(count))
    usage = {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": count + 1}
    message = {"role": "assistant", "content": text}
    await call.answer(
        {
            "id": "chat-1",
            "object": "chat.completion",
            "created": 1,
            "model": "tiny",
            "choices": [{"index": 0, "message": message, "text": text, "finish_reason": "stop"}],
            "usage": usage,
        }
    )


@dataclass
class FakeReplica:
    """`calls` grows with each request; `await next_call()` gets them in turn."""

    replica_id: str = "r1"
    script: Script = polite
    max_running: int = 4
    calls: list[Call] = field(default_factory=list)
    connections: int = 0
    running: int = 0
    """Requests being answered."""
    sequence: int = 0
    port: int = 0

    async def __aenter__(self) -> Self:
        self._arrivals: asyncio.Queue[Call] = asyncio.Queue()
        self._open: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._connection, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Die: the port is closed, open connections are cut."""
        self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def next_call(self) -> Call:
        async with asyncio.timeout(5):
            return await self._arrivals.get()

    def report(self, **changes: Any) -> ReplicaReport:
        """The next report; `changes` by field name."""
        self.sequence += 1
        values: dict[str, Any] = {
            "replica_id": self.replica_id,
            "pool": "flex",
            "url": self.url,
            "model": "tiny",
            "sequence": self.sequence,
            "ready": True,
            "running": 0,
            "waiting": 0,
            "max_running": self.max_running,
            "queued_prompt_tokens": 0,
            "cached_tokens": 0,
            "capacity_tokens": 4096,
            "max_context_tokens": 1024,
            "point": "AR",
            "decision": DecisionReport(point="AR", reason="Kept", age_seconds=1.0),
            "allowed_points": ("AR", "S8", "S16", "S32"),
            "points": (
                PointReport(
                    point="AR", cycle_seconds=0.01, tokens_per_cycle=1, tokens_per_second=100, cycles=5, tokens=5
                ),
            ),
            "switches": 0,
            "tokens_per_second": 0.0,
            "policy_version": 1,
        }
        return ReplicaReport(**(values | changes))

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                line, *fields = head[:-4].split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                call = Call(line, headers, body, writer)
                self.calls.append(call)
                self._arrivals.put_nowait(call)
                await self._answer(call, reader)
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the router left
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._open.discard(task)
            writer.close()

    async def _answer(self, call: Call, reader: asyncio.StreamReader) -> None:
        """Run the script until it ends or the router leaves."""
        self.running += 1
        script = asyncio.ensure_future(self.script(call))
        leaving = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait([script, leaving], return_when=asyncio.FIRST_COMPLETED)
            if not script.done():
                raise ConnectionError("the router left")
            script.result()
        except (ConnectionError, asyncio.CancelledError):
            call.gone.set()
            raise
        finally:
            self.running -= 1
            script.cancel()
            leaving.cancel()
            await asyncio.gather(script, leaving, return_exceptions=True)
