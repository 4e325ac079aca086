"""What a client already has of a stream, so that another replica can go on with it. [pure]

It must cost next to nothing: a piece is only stored as it passes; token ids are looked for when some kilobytes have
come together, and the JSON around them is never parsed.
"""

from __future__ import annotations

import json
import re

_ACCOUNT = b'"trimode":{'
_MARK = _ACCOUNT + b'"ids":['
_IDS = re.compile(rb'"trimode":\{"ids":\[([\d,]*)\]')
"""A chunk's token ids. Inside a JSON string its quotes would be escaped: no text can forge it."""
_ID = re.compile(rb'"id"\s*:\s*"([A-Za-z0-9._-]{1,128})"')
_CREATED = re.compile(rb'"created"\s*:\s*(\d{1,12})')
_OF_CHOICE = re.compile(
    rb'"trimode":\{(?:"ids":\[([\d,]*)\],"choice":(\d{1,4})|"choice":(\d{1,4}),"ended":"([a-z_]+)","tokens":(\d+))\}'
)
"""The same of one of several choices, and its end."""
_USAGE = b'"completion_tokens"'
_FINISHED = re.compile(rb'"finish_reason"\s*:\s*"')
KEEP_BYTES = 4096
"""Pieces are searched when this much has come together; what matters at a stream's end is no longer."""
_OPENING_BYTES = 1024


class Transcript:
    """What came of one stream. `most_bytes` bounds what is kept of its ids, as decimal text; beyond it a stream can not
    be resumed any more."""

    __slots__ = ("_ids", "_most", "_opening", "pieces", "size")

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._opening = b""
        self._ids: bytearray | None = bytearray()
        self.pieces: list[bytes] = []
        """Not searched yet, `size` bytes in all: `add` is short enough to be done by the caller."""
        self.size = 0

    def add(self, data: bytes) -> None:
        """A piece that goes to the client now."""
        self.pieces.append(data)
        self.size += len(data)
        if self.size > KEEP_BYTES:
            self.digest()

    @property
    def tail(self) -> bytes:
        """The end of what the client has: the last event at least."""
        return b"".join(self.pieces)

    @property
    def finished(self) -> bool:
        """Whether the client knows how the answer ended, even if usage or end mark are missing."""
        return _FINISHED.search(self.tail) is not None

    @property
    def emitted_field(self) -> bytes:
        """The ids so far as a field of JSON, for another replica; nothing where they are unknown, or too many."""
        self.digest()
        return b'"emitted":[%b]' % bytes(self._ids) if self._ids else b""

    def continuation(self, path: str, body: bytes) -> bytes | None:
        """The body that asks for the rest of an answer to `body`; None where too little is known."""
        emitted = self.emitted_field
        answer, created = _ID.search(self._opening), _CREATED.search(self._opening)
        if not emitted or answer is None or created is None:
            return None
        # Put together as bytes: `_ID` and `_CREATED` match nothing that JSON would have to escape.
        return b'{"path":%b,"id":"%b","created":%b,%b,"request":%b}' % (
            json.dumps(path).encode(),
            answer[1],
            created[1],
            emitted,
            body,
        )

    def digest(self) -> None:
        """Move the ids out of the pieces, and keep their end only."""
        whole = b"".join(self.pieces)
        if not self._opening:
            self._opening = whole[:_OPENING_BYTES]
        end = self._take(whole)
        rest = whole[max(end, len(whole) - KEEP_BYTES // 2) :]
        self.pieces = [rest]
        self.size = len(rest)

    def _take(self, whole: bytes) -> int:
        """Keep the ids in it; up to where they need not be looked for again."""
        found = [ids for ids in _IDS.findall(whole) if ids]
        if found and self._ids is not None:
            # Joined as text, never as numbers: they go into the next request's JSON as they came.
            if self._ids:
                self._ids += b","
            self._ids += b",".join(found)
            if len(self._ids) > self._most:
                self._ids = None
        last = whole.rfind(_MARK)
        if last < 0:
            return 0
        match = _IDS.match(whole, last)
        if match is None and len(whole) - last > KEEP_BYTES // 2:
            self._ids = None  # an event this large came in parts: its ids are not whole
        return last if match is None else match.end()


class ManyTranscripts(Transcript):
    """The same of a stream of several choices, whose events come in any order."""

    __slots__ = ("_by_choice", "_count", "_ended")

    def __init__(self, most_bytes: int, count: int) -> None:
        super().__init__(most_bytes)
        self._count = count
        self._by_choice: dict[int, list[bytes]] = {}
        self._ended: dict[int, bytes] = {}

    @property
    def finished(self) -> bool:
        """Usage comes with the end of the last choice."""
        return _USAGE in self.tail

    @property
    def emitted_field(self) -> bytes:
        self.digest()
        if self._ids is None or not (self._by_choice or self._ended):
            return b""
        choices = (
            b'{"emitted":[%b]%b}' % (b",".join(self._by_choice.get(index, ())), self._ended.get(index, b""))
            for index in range(self._count)
        )
        return b'"choices":[%b]' % b",".join(choices)

    def _take(self, whole: bytes) -> int:
        """`_ids` counts the bytes only."""
        end = 0
        for found in _OF_CHOICE.finditer(whole):
            end = found.end()
            ids, of, ended, reason, tokens = found.groups()
            index = int(of if ended is None else ended)
            if self._ids is None or index >= self._count:
                self._ids = None
            elif ended is not None:
                self._ended[index] = b',"ended":"%b","tokens":%b' % (reason, tokens)
            elif ids:
                self._by_choice.setdefault(index, []).append(ids)
                self._ids += ids
                if len(self._ids) > self._most:
                    self._ids = None
        # As above: ids of an event that came in parts, and is too large to wait for, are lost.
        torn = whole.rfind(_ACCOUNT, end)
        if torn >= 0 and len(whole) - torn > KEEP_BYTES // 2:
            self._ids = None
        return end
