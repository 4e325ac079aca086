"""Tells a model's reasoning from its answer, while both are being written.

What comes out is a function of all text so far, however it was cut into pieces. Pure apart from its own state.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

OPENING, CLOSING = "<think>", "</think>"
"""As Qwen, DeepSeek, Nemotron and most others write them, often as tokens of their own."""


class Told(NamedTuple):
    """What a piece of an answer brought."""

    reasoning: str
    text: str


class _State(Enum):
    BEGIN = auto()  # nothing but white space so far: an opening may come
    REASONING = auto()
    GAP = auto()  # white space behind the closing
    TEXT = auto()


class ReasoningReader:
    """For one answer. `begun`: the prompt ends with an opening, so that the answer begins with reasoning."""

    def __init__(self, *, begun: bool) -> None:
        self._state = _State.REASONING if begun else _State.BEGIN
        self._fresh = True  # white space at the beginning of reasoning is not part of it
        self._buffer = ""

    def feed(self, text: str) -> Told:
        """The next piece of the answer."""
        self._buffer += text
        reasoning = ""
        if self._state is _State.BEGIN:
            begun = self._buffer.lstrip()
            if begun.startswith(OPENING):
                self._buffer, self._state = begun[len(OPENING) :], _State.REASONING
            elif not OPENING.startswith(begun):
                self._state = _State.TEXT
        if self._state is _State.REASONING:
            if self._fresh:
                self._buffer = self._buffer.lstrip()
                self._fresh = not self._buffer
            at = self._buffer.find(CLOSING)
            if at >= 0:
                reasoning, self._buffer = self._buffer[:at].rstrip(), self._buffer[at + len(CLOSING) :]
                self._state = _State.GAP
            else:
                # White space is kept back, too: before the closing it is not shown.
                keep = next((n for n in range(len(CLOSING) - 1, 0, -1) if self._buffer.endswith(CLOSING[:n])), 0)
                reasoning = self._buffer[: len(self._buffer) - keep].rstrip()
                self._buffer = self._buffer[len(reasoning) :]
        if self._state is _State.GAP:
            self._buffer = self._buffer.lstrip()
            if self._buffer:
                self._state = _State.TEXT
        shown = ""
        if self._state is _State.TEXT:
            shown, self._buffer = self._buffer, ""
        return Told(reasoning, shown)

    def finish(self) -> Told:
        """What was kept back, when the answer is over."""
        rest, self._buffer = self._buffer, ""
        return Told(rest.rstrip(), "") if self._state is _State.REASONING else Told("", rest)
