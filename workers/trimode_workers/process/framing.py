"""Messages on a stream socket: four bytes of length (little endian), then msgpack. No asyncio."""

from __future__ import annotations

import socket
from typing import Any, Generic, TypeVar

import msgspec

from trimode_workers.engine.messages import Command, Reply

HEADER_BYTES = 4
MAX_FRAME_BYTES = 256 * 1024 * 1024
_READ_BYTES = 1 << 18

M = TypeVar("M")


class PipeClosed(Exception):
    """The other end is gone."""


_encoder = msgspec.msgpack.Encoder()


def encode(message: msgspec.Struct) -> bytes:
    """One frame."""
    body = _encoder.encode(message)
    return len(body).to_bytes(HEADER_BYTES, "little") + body


class Framer(Generic[M]):
    """Cuts a byte stream into messages; keeps what is incomplete. ValueError on a frame beyond any sense."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[M]) -> None:
        self._decoder = decoder
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[M]:
        buffer = self._buffer
        buffer += data
        messages: list[M] = []
        start = 0
        while len(buffer) - start >= HEADER_BYTES:
            size = int.from_bytes(buffer[start : start + HEADER_BYTES], "little")
            if size > MAX_FRAME_BYTES:
                raise ValueError(f"frame of {size} bytes; at most {MAX_FRAME_BYTES} are allowed")
            end = start + HEADER_BYTES + size
            if len(buffer) < end:
                break
            messages.append(self._decoder.decode(bytes(buffer[start + HEADER_BYTES : end])))
            start = end
        if start:
            del buffer[:start]
        return messages


def reply_framer() -> Framer[Reply]:
    """For the shell's end."""
    decoder: Any = msgspec.msgpack.Decoder(Reply)
    return Framer(decoder)


class EnginePipe:
    """The engine's end: blocking sends, receives that block only when asked to."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        decoder: Any = msgspec.msgpack.Decoder(Command)
        self._framer: Framer[Command] = Framer(decoder)

    def receive(self, *, block: bool) -> list[Command]:
        """All commands that have arrived; with `block`, waits for the first. PipeClosed at the end."""
        commands: list[Command] = []
        while True:
            waiting = block and not commands
            try:
                data = self._sock.recv(_READ_BYTES, 0 if waiting else socket.MSG_DONTWAIT)
            except BlockingIOError:
                return commands
            except ConnectionError as exc:
                raise PipeClosed(str(exc)) from exc
            if not data:
                raise PipeClosed("end of stream")
            commands += self._framer.feed(data)

    def send(self, reply: Reply) -> None:
        try:
            self._sock.sendall(encode(reply))
        except ConnectionError as exc:
            raise PipeClosed(str(exc)) from exc
