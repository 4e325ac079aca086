"""What a client already has of a stream, so that another replica can go on with it. [pure]

Belongs here: keeping it at next to no cost, and the request made of it. A piece is only stored as it passes; token ids
are looked for when some kilobytes have come together, and the JSON around them is never parsed.
"""

from __future__ import annotations

import json
import re

_IDS = re.compile(rb'"trimode":\{"ids":\[([\d,]*)\]')
"""A chunk's token ids. Inside a JSON string its quotes would be escaped: no text can forge it."""
_ID = re.compile(rb'"id"\s*:\s*"([A-Za-z0-9._-]{1,128})"')
_CREATED = re.compile(rb'"created"\s*:\s*(\d{1,12})')
_FINISHED = re.compile(rb'"finish_reason"\s*:\s*"')
_KEEP_BYTES = 4096
"""Pieces are searched when this much has come together; what matters at a stream's end is no longer."""
_OPENING_BYTES = 1024


class Trail:
    """One stream's past. `most_bytes` bounds what is kept of its ids, as decimal text; beyond it a stream can not be
    resumed any more."""

    __slots__ = ("_ids", "_most", "_opening", "_pieces", "_size")

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._opening = b""
        self._pieces: list[bytes] = []
        self._size = 0
        self._ids: bytearray | None = bytearray()

    def add(self, data: bytes) -> None:
        """A piece that goes to the client now."""
        self._pieces.append(data)
        self._size += len(data)
        if self._size > _KEEP_BYTES:
            self._digest()

    @property
    def tail(self) -> bytes:
        """The end of what the client has: the last event at least."""
        return b"".join(self._pieces)

    @property
    def finished(self) -> bool:
        """Whether the client knows how the answer ended, be it without usage or end mark."""
        return _FINISHED.search(self.tail) is not None

    @property
    def emitted(self) -> bytes:
        """All token ids so far, with commas between them; nothing where they are unknown, or too many."""
        self._digest()
        return bytes(self._ids or b"")

    def continuation(self, path: str, body: bytes) -> bytes | None:
        """The body that asks for the rest of an answer to `body`; None where too little is known."""
        emitted = self.emitted
        answer, created = _ID.search(self._opening), _CREATED.search(self._opening)
        if not emitted or answer is None or created is None:
            return None
        return b'{"path":%b,"id":"%b","created":%b,"emitted":[%b],"request":%b}' % (
            json.dumps(path).encode(),
            answer[1],
            created[1],
            emitted,
            body,
        )

    def _digest(self) -> None:
        whole = b"".join(self._pieces)
        if not self._opening:
            self._opening = whole[:_OPENING_BYTES]
        end = 0
        for found in _IDS.finditer(whole):
            end = found.end()
            if self._ids is not None and found[1]:
                if self._ids:
                    self._ids += b","
                self._ids += found[1]
        if self._ids is not None and len(self._ids) > self._most:
            self._ids = None
        rest = whole[max(end, len(whole) - _KEEP_BYTES // 2) :]
        self._pieces = [rest]
        self._size = len(rest)
