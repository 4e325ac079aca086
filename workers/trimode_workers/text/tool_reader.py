"""Reads tool calls out of an answer while it is being written.

What comes out is a function of all text so far, however it was cut into pieces: another replica that reads the same
tokens stands where the first one stood. Pure apart from its own state.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, auto

from trimode_workers.text.tool_formats import CallFormat

_HEAD = re.compile(r'\{\s*"name"\s*:\s*"([^"\\]{1,128})"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
"""The usual beginning of a call, with which its arguments can be shown as they come."""
_NAME = re.compile(r"([a-zA-Z0-9_.-]{1,128})\s*(?:\[CALL_ID\]\s*[a-zA-Z0-9]*\s*)?(?:\[ARGS\])?\s*(?=\{)")
_NAME_SO_FAR = re.compile(r"[a-zA-Z0-9_.-]{0,128}\s*(?:\[[^{]{0,64})?")
_BETWEEN_CALLS = " \t\r\n,;"


@dataclass(frozen=True, slots=True)
class CallDelta:
    """News of call `index`: its `name` where it begins, and more of its arguments' JSON text."""

    index: int
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What a piece of an answer brought."""

    text: str
    calls: tuple[CallDelta, ...] = ()


class _State(Enum):
    TEXT = auto()
    CALL = auto()  # behind an opening: the call's beginning is not whole yet
    ARGUMENTS = auto()
    TAIL = auto()  # behind the arguments, within the call's own JSON object
    AFTER = auto()
    PLAIN = auto()  # text to the end


class JsonScan:
    """Finds the end of a JSON object or list, fed in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._quoted = self._escaped = False

    def feed(self, text: str) -> int:
        """How many characters of `text` belong to it, -1 for all and more to come."""
        for index, character in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._quoted:
                self._escaped = character == "\\"
                self._quoted = character != '"'
            elif character == '"':
                self._quoted = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return index + 1
        return -1


class ToolReader:
    """For one answer. `names`: functions that may be called; what calls another one is text. `single`: the answer is
    over with its first call, which `done` tells."""

    def __init__(self, form: CallFormat, names: Collection[str], *, single: bool = False) -> None:
        self._form, self._names, self._single = form, names, single
        self._state = _State.TEXT
        self._buffer = ""  # what is not told yet
        self._blank = ""  # white space at the beginning: part of a text, dropped before a call
        self._spoken = False
        self._raw = ""  # the opening of the call in the buffer, should it turn out to be text
        self._scan = JsonScan()
        self._bare = False  # the call has no JSON object around it
        self._text: list[str] = []
        self._calls: list[CallDelta] = []
        self.calls = 0
        self.done = False

    def feed(self, text: str) -> Reading:
        """The next piece of the answer."""
        self._buffer += text
        steps = {
            _State.TEXT: self._in_text,
            _State.CALL: self._in_call,
            _State.ARGUMENTS: self._in_object,
            _State.TAIL: self._in_object,
            _State.AFTER: self._after,
            _State.PLAIN: self._plain,
        }
        while not self.done and steps[self._state]():
            pass
        return self._told()

    def finish(self) -> Reading:
        """What was kept back, when the answer is over."""
        if self._state is _State.CALL:
            self._say(self._raw + self._buffer)
        elif self._state in (_State.TEXT, _State.PLAIN):
            self._say(self._buffer)
        if not self.calls:
            self._text.append(self._blank)
        self._buffer = self._blank = ""
        return self._told()

    # Each step tells what it can of the buffer, and whether there is more to do.

    def _in_text(self) -> bool:
        opening, buffer = self._form.opening, self._buffer
        if not opening:
            begun = buffer.lstrip()
            if not begun:
                return False
            self._state = _State.CALL if begun[0] in "{[" else _State.PLAIN
            self._raw = ""
            return True
        at = buffer.find(opening)
        if at < 0:
            # The longest end that begins an opening.
            keep = next((n for n in range(len(opening) - 1, 0, -1) if buffer.endswith(opening[:n])), 0)
            self._say(buffer[: len(buffer) - keep])
            self._buffer = buffer[len(buffer) - keep :]
            return False
        self._say(buffer[:at])
        self._open(at)
        return True

    def _in_call(self) -> bool:
        rest = self._buffer.lstrip()
        # The calls of a list are read one by one; its end is passed over behind the last.
        if rest.startswith("["):
            rest = rest[1:].lstrip()
        if not rest:
            return False
        head = _HEAD.match(rest)
        bare = None if head or not self._form.named_first else _NAME.match(rest)
        found = head or bare
        if found and found[1] in self._names:
            self._begin(found[1])
            self._bare = bare is not None
            self._buffer, self._scan, self._state = rest[found.end() :], JsonScan(), _State.ARGUMENTS
            return True
        if rest[0] == "{":
            # A call whose parts come in another order is told when all of it is there.
            size = JsonScan().feed(rest)
            if size < 0:
                return False
            call = _call_in(rest[:size])
            if call is None or call[0] not in self._names:
                return self._no_call()
            self._begin(call[0])
            self._calls.append(CallDelta(self.calls - 1, "", call[1]))
            self._buffer = rest[size:]
            return self._ended()
        if self._form.named_first and not bare and _NAME_SO_FAR.fullmatch(rest):
            return False
        return self._no_call()

    def _in_object(self) -> bool:
        """The arguments are told; what the call's own object has behind them is not."""
        size = self._scan.feed(self._buffer)
        part = self._buffer if size < 0 else self._buffer[:size]
        self._buffer = self._buffer[len(part) :]
        if part and self._state is _State.ARGUMENTS:
            self._calls.append(CallDelta(self.calls - 1, "", part))
        if size < 0:
            return False
        if self._bare or self._state is _State.TAIL:
            return self._ended()
        # The brace that opens the call's own object came before its name, and was not scanned.
        self._scan, self._state = JsonScan(), _State.TAIL
        self._scan.feed("{")
        return True

    def _ended(self) -> bool:
        self._state = _State.AFTER
        self.done = self._single
        return True

    def _after(self) -> bool:
        """Another call, or text, or nothing."""
        buffer = self._buffer.lstrip()
        for mark in (self._form.closing, "]"):
            if mark and buffer.startswith(mark):
                self._buffer = buffer[len(mark) :]
                return True
        following = buffer.lstrip(_BETWEEN_CALLS)
        opening, closing = self._form.opening, self._form.closing
        self._buffer = buffer
        if not following or any(mark.startswith(following) for mark in (opening, closing) if mark):
            return False
        if opening and following.startswith(opening):
            self._buffer = following
            self._open(0)
        elif following[0] == "{" and len(following) < len(buffer) and not closing:
            self._buffer, self._raw, self._state = following, "", _State.CALL
        else:
            self._state = _State.TEXT if opening else _State.PLAIN
        return True

    def _plain(self) -> bool:
        self._say(self._buffer)
        self._buffer = ""
        return False

    # What the steps share.

    def _open(self, at: int) -> None:
        self._raw, self._state = self._form.opening, _State.CALL
        self._buffer = self._buffer[at + len(self._raw) :]

    def _no_call(self) -> bool:
        """It only looked like one. An opening that it may hold itself is looked at again."""
        if self._form.opening:
            self._say(self._raw)
            self._state = _State.TEXT
        else:
            self._state = _State.PLAIN
        return True

    def _begin(self, name: str) -> None:
        self._blank, self._spoken = "", True
        self._calls.append(CallDelta(self.calls, name, ""))
        self.calls += 1

    def _say(self, text: str) -> None:
        self._blank += text
        if self._spoken or self._blank.strip():
            self._text.append(self._blank)
            self._blank, self._spoken = "", True

    def _told(self) -> Reading:
        told = Reading("".join(self._text), tuple(self._calls))
        self._text, self._calls = [], []
        return told


def _call_in(text: str) -> tuple[str, str] | None:
    """Name and arguments of a JSON object that is a call, None where it is none."""
    try:
        call = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", call.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    return (call["name"], json.dumps(arguments, ensure_ascii=False)) if isinstance(arguments, dict) else None
