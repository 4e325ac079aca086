"""A replica for load: streams a fixed number of chunks at a fixed pace, at next to no cost.

Run as `python -m trimode_lab.doubles.replica.report_loop`: a process of its own, so that its CPU time is not the
router's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
from typing import cast

import uvloop

from trimode_lab.doubles.replica.replica import chat_chunk, chunk

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_EVENT = chat_chunk({"content": "token "}) | {"trimode": {"ids": [1234]}}
_TOKEN = chunk(b"data: " + json.dumps(_EVENT, separators=(",", ":")).encode() + b"\n\n")


def last_chunks(tokens: int) -> bytes:
    """The end of a stream of `tokens` tokens."""
    usage = {"prompt_tokens": 8, "completion_tokens": tokens, "total_tokens": tokens + 8}
    final = json.dumps(chat_chunk({}, "stop") | {"usage": usage}).encode()
    return chunk(b"data: " + final + b"\n\n") + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class Stream(asyncio.Protocol):
    """One connection: every whole request gets `chunks` chunks, `pause_s` apart (0: one in each turn of the loop)."""

    def __init__(self, chunks: int, pause_s: float) -> None:
        self._chunks = chunks
        self._pause_s = pause_s
        self._end = last_chunks(chunks)
        self._input = b""
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._input += data
        head, found, rest = self._input.partition(b"\r\n\r\n")
        if not found:
            return
        at = head.lower().find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(rest) >= length:
            self._input = rest[length:]
            self._transport.write(_HEAD)
            self._send_chunk(self._chunks)

    def _send_chunk(self, left: int) -> None:
        if self._transport.is_closing():
            return
        if not left:
            self._transport.write(self._end)
            return
        self._transport.write(_TOKEN)
        if self._pause_s:
            self._loop.call_later(self._pause_s, self._send_chunk, left - 1)
        else:
            self._loop.call_soon(self._send_chunk, left - 1)


async def serve(chunks: int, pause_s: float) -> None:
    """Listen on a free port of loopback, print its number, run until stdin ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Stream(chunks, pause_s), "127.0.0.1", 0, backlog=4096)
    listening: socket.socket = server.sockets[0]
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--pause-ms", type=float, default=0.0)
    options = parser.parse_args()
    uvloop.run(serve(options.chunks, options.pause_ms / 1000))
