"""One answer's text: tokens in, showable text out, counting what the client pays for. Pure apart from its own state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimode_workers.text.detokenize import Detokenizer
from trimode_workers.text.reasoning import ReasoningReader
from trimode_workers.text.tool_reader import CallDelta, ToolReader


@dataclass(frozen=True, slots=True)
class Scanned:
    """`text` may be shown; `stopped` where a stop string has been found right after it."""

    text: str
    stopped: bool


class StopScanner:
    """Holds back what may turn out to be the beginning of a stop string.

    The stop string that ends first counts, of several that end together the longest: so the result does not depend
    on how the text was cut into pieces. The stop string itself is shown only where `include` says so.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        self._include = include
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""

    def feed(self, text: str) -> Scanned:
        buffer = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := buffer.find(stop)) >= 0]
        if found:
            self._held = ""
            end, at = min(found)
            return Scanned(buffer[: end if self._include else at], True)
        # The longest end that begins a stop string.
        ends = (buffer[len(buffer) - size :] for size in range(min(len(buffer), self._longest - 1), 0, -1))
        keep = next((len(end) for end in ends if any(stop.startswith(end) for stop in self._stops)), 0)
        self._held = buffer[len(buffer) - keep :]
        return Scanned(buffer[: len(buffer) - keep], False)

    def flush(self) -> str:
        """What was held back, when the text ends without a stop string."""
        held, self._held = self._held, ""
        return held


@dataclass(frozen=True, slots=True)
class Delta:
    """New text, and news of tool calls. `stopped`: a stop string was found, or the only call that was wanted is
    whole: nothing follows."""

    text: str
    stopped: bool = False
    calls: tuple[CallDelta, ...] = ()
    reasoning: str = ""

    def __bool__(self) -> bool:
        """Whether there is anything to show."""
        return bool(self.text or self.calls or self.reasoning)

    def plus(self, later: Delta) -> Delta:
        """Both, as one."""
        reasoning = self.reasoning + later.reasoning
        return Delta(self.text + later.text, later.stopped, self.calls + later.calls, reasoning)


NOTHING = Delta("")


class AnswerText:
    """Feeds tokens through decoder and stop strings. `tokens` counts those up to the end of a stop string; one that
    begins within the text of the first `least` of them does not count. `include`: stop strings are shown."""

    def __init__(
        self, detokenizer: Detokenizer, stops: Sequence[str] = (), *, least: int = 0, include: bool = False
    ) -> None:
        self._detokenizer = detokenizer
        self._scanner = StopScanner(stops, include=include) if stops else None
        self._least = least
        self.tokens = 0

    @property
    def called(self) -> bool:
        """Whether it has begun a tool call."""
        return False

    def feed(self, tokens: Sequence[int]) -> Delta:
        if self._scanner is None:
            self.tokens += len(tokens)
            return Delta(self._detokenizer.feed(tokens))
        shown: list[str] = []
        for token in tokens:  # one by one: the count must end with the token that completes the stop string
            self.tokens += 1
            text = self._detokenizer.feed((token,))
            if self.tokens <= self._least:
                shown.append(text)
                continue
            scanned = self._scanner.feed(text)
            shown.append(scanned.text)
            if scanned.stopped:
                return Delta("".join(shown), stopped=True)
        return Delta("".join(shown))

    def finish(self) -> Delta:
        """What was kept back, when the engine has ended the answer."""
        rest = self._detokenizer.flush()
        if self._scanner is None:
            return Delta(rest)
        scanned = self._scanner.feed(rest)
        return Delta(scanned.text + ("" if scanned.stopped else self._scanner.flush()), scanned.stopped)


class ReasoningAnswer:
    """An answer in which `reader` finds reasoning, in the text that `plain` shows. Not `told`: it is left out."""

    called = False

    def __init__(self, plain: AnswerText, reader: ReasoningReader, *, told: bool) -> None:
        self._plain, self._reader, self._told = plain, reader, told

    @property
    def tokens(self) -> int:
        """Those up to the end of a stop string."""
        return self._plain.tokens

    def feed(self, tokens: Sequence[int]) -> Delta:
        return self._read(self._plain.feed(tokens))

    def finish(self) -> Delta:
        """What was kept back, when the engine has ended the answer."""
        return self._read(self._plain.finish(), last=True)

    def _read(self, delta: Delta, *, last: bool = False) -> Delta:
        reasoning, text = self._reader.feed(delta.text)
        if last or delta.stopped:  # nothing follows, so nothing is kept back
            rest = self._reader.finish()
            reasoning, text = reasoning + rest.reasoning, text + rest.text
        return Delta(text, delta.stopped, reasoning=reasoning if self._told else "")


class ToolAnswer:
    """An answer in which `reader` finds tool calls, in the text that `plain` shows. `single`: it ends with its first
    call."""

    def __init__(self, plain: AnswerText | ReasoningAnswer, reader: ToolReader, *, single: bool) -> None:
        self._plain, self._reader, self._single = plain, reader, single

    @property
    def tokens(self) -> int:
        """Those up to the end of a stop string, or of the only call."""
        return self._plain.tokens

    @property
    def called(self) -> bool:
        """Whether it has begun a call."""
        return self._reader.calls > 0

    def feed(self, tokens: Sequence[int]) -> Delta:
        if not self._single:
            return self._read(self._plain.feed(tokens))
        whole = NOTHING
        for token in tokens:  # one by one, as with stop strings: the count ends with the token that ends the call
            whole = whole.plus(self._read(self._plain.feed((token,))))
            if whole.stopped:
                break
        return whole

    def finish(self) -> Delta:
        """What was kept back, when the engine has ended the answer."""
        return self._read(self._plain.finish(), last=True)

    def _read(self, delta: Delta, *, last: bool = False) -> Delta:
        found = self._reader.feed(delta.text)
        shown = Delta(found.text, delta.stopped or self._reader.done, found.calls, delta.reasoning)
        if last or delta.stopped:  # nothing follows, so nothing is kept back
            rest = self._reader.finish()
            shown = shown.plus(Delta(rest.text, shown.stopped, rest.calls))
        return shown


AnswerReader = AnswerText | ReasoningAnswer | ToolAnswer
