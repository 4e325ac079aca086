"""Requests that wait for their grammars."""

from __future__ import annotations

from concurrent.futures import Future, wait
from typing import NamedTuple, Protocol

from trimode_workers.engine.messages import Grammar
from trimode_workers.engine.sequence import Sequence
from trimode_workers.errors import GrammarError
from trimode_workers.grammar.matcher import Matcher

LOOK_EVERY_S = 0.02
"""With nothing else to do, how long the engine waits for a grammar before it looks for commands again."""


class Grammars(Protocol):
    """Compiles in a thread of its own."""

    def matcher(self, grammar: Grammar) -> Future[Matcher]:
        """The future raises GrammarError where the schema cannot be followed."""
        ...


class Ready(NamedTuple):
    """A request whose grammar stands behind what is emitted of its answer, or that cannot have one: `problem`."""

    sequence: Sequence
    problem: str


class GrammarQueue:
    """Sequences by the future of their grammar, in order of arrival."""

    def __init__(self) -> None:
        self._waiting: dict[Sequence, tuple[Future[Matcher], int]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, sequence: Sequence, grammar: Future[Matcher], emitted: int) -> None:
        """The last `emitted` tokens of the sequence are its answer's."""
        self._waiting[sequence] = grammar, emitted

    def remove(self, sequence: Sequence) -> bool:
        """Whether it was here."""
        return self._waiting.pop(sequence, None) is not None

    def ready(self, *, patient: bool) -> list[Ready]:
        """Those whose grammars are there; they leave. `patient`: waits a moment for the first."""
        if patient:
            # The only place where an engine waits; cancellations and drains come as commands, which are read between
            # cycles.
            wait([future for future, _ in self._waiting.values()], LOOK_EVERY_S, "FIRST_COMPLETED")
        done = [(sequence, *found) for sequence, found in self._waiting.items() if found[0].done()]
        ready: list[Ready] = []
        for sequence, future, emitted in done:
            del self._waiting[sequence]
            problem = ""
            try:
                matcher = future.result()
                # A stream that another replica began stands in the middle of its grammar.
                if matcher.accept(sequence.tokens[len(sequence.tokens) - emitted :]) < emitted:
                    problem = matcher.failure or f"{matcher.field}: the answer so far does not follow the schema"
                else:
                    sequence.grammar = matcher
            except GrammarError as exc:
                problem = str(exc)
            ready.append(Ready(sequence, problem))
        return ready
