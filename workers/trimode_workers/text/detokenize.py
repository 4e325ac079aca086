"""Token ids to text, piece by piece.

A piece is only ever whole characters: bytes of a character whose rest is still to come are kept back. Both ways cost a
constant amount of work per token, however long the answer is.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

REPLACEMENT = "\ufffd"
_MAX_PENDING = 16


class Detokenizer(Protocol):
    """One answer's decoder."""

    def feed(self, tokens: Sequence[int]) -> str:
        """The text that these ids complete; may be empty."""
        ...

    def flush(self) -> str:
        """What is left at the end: a replacement character where a character stayed incomplete."""
        ...


class ByteDetokenizer:
    """For byte-level vocabularies: `table[id]` are the id's bytes (none for special tokens).

    Ids beyond the table have no text: models pad their vocabulary beyond the tokenizer's.
    """

    def __init__(self, table: Sequence[bytes]) -> None:
        self._table = table
        self._size = len(table)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, tokens: Sequence[int]) -> str:
        table, size = self._table, self._size
        return self._decoder.decode(b"".join([table[token] for token in tokens if token < size]))

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


class WindowDetokenizer:
    """For any vocabulary: decodes a short window twice and takes the difference.

    The window starts before the last emitted piece, because how a token is written may depend on the one before it.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._emitted = 0  # tokens of the window whose text is out already

    def feed(self, tokens: Sequence[int]) -> str:
        return "".join([self._one(token) for token in tokens])

    def flush(self) -> str:
        text = self._difference()
        self._window, self._emitted = [], 0
        return text

    def _one(self, token: int) -> str:
        self._window.append(token)
        text = self._difference()
        pending = len(self._window) - self._emitted
        # A replacement character may be the beginning of one whose other bytes come with the next tokens. Not for ever:
        # a model may also emit bytes that are none.
        if not text or (text.endswith(REPLACEMENT) and pending < _MAX_PENDING):
            return ""
        del self._window[: self._emitted]
        self._emitted = len(self._window)
        return text

    def _difference(self) -> str:
        before = self._decode(self._window[: self._emitted])
        return self._decode(self._window)[len(before) :]


class MarkedDetokenizer:
    """Shows some tokens that `plain` leaves out: `marks` are their texts, by id."""

    def __init__(self, plain: Detokenizer, marks: Mapping[int, str]) -> None:
        self._plain, self._marks = plain, marks

    def feed(self, tokens: Sequence[int]) -> str:
        return "".join([self._one(token) for token in tokens])

    def flush(self) -> str:
        return self._plain.flush()

    def _one(self, token: int) -> str:
        mark = self._marks.get(token)
        return self._plain.feed((token,)) if mark is None else self._plain.flush() + mark


def byte_alphabet() -> dict[str, int]:
    """The printable characters in which byte-level vocabularies spell bytes (as in GPT-2)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in plain}
    others = [byte for byte in range(256) if byte not in set(plain)]
    alphabet.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return alphabet
