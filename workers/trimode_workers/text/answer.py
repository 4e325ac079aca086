"""One answer's text: tokens in, showable text out, counting what the client pays for.

Belongs here: the meeting of detokenizer and stop strings. Pure apart from its own state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimode_workers.text.detokenize import Detokenizer
from trimode_workers.text.stops import StopScanner


@dataclass(frozen=True, slots=True)
class Delta:
    """New text. `stopped`: a stop string was found, nothing follows."""

    text: str
    stopped: bool = False


class AnswerText:
    """Feeds tokens through decoder and stop strings. `tokens` counts those up to the end of a stop string."""

    def __init__(self, detokenizer: Detokenizer, stops: Sequence[str] = ()) -> None:
        self._detokenizer = detokenizer
        self._scanner = StopScanner(stops) if stops else None
        self.tokens = 0

    def feed(self, tokens: Sequence[int]) -> Delta:
        if self._scanner is None:
            self.tokens += len(tokens)
            return Delta(self._detokenizer.feed(tokens))
        shown: list[str] = []
        for token in tokens:  # one by one: the count must end with the token that completes the stop string
            self.tokens += 1
            scanned = self._scanner.feed(self._detokenizer.feed((token,)))
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
