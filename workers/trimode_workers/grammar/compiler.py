"""Compiles grammars beside the engine's cycles, each once."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor

from llguidance import LLMatcher, LLTokenizer

from trimode_workers.engine.messages import Grammar
from trimode_workers.errors import GrammarError
from trimode_workers.grammar.compiled import compiled
from trimode_workers.grammar.matcher import Matcher

REMEMBERED = 64
"""Grammars kept: most clients send the same few again and again."""


class Compiler:
    """For one vocabulary. `end` is the token that ends an answer."""

    def __init__(self, vocabulary: LLTokenizer, end: int) -> None:
        self._vocabulary, self._end = vocabulary, end
        self._known: OrderedDict[Grammar, LLMatcher] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, "grammar")

    def matcher(self, grammar: Grammar) -> Future[Matcher]:
        """A matcher for one answer. The future raises GrammarError where it cannot be followed."""
        return self._thread.submit(self._make, grammar)

    def close(self) -> None:
        """End the thread; what is being compiled is waited for."""
        self._thread.shutdown(cancel_futures=True)

    def _make(self, grammar: Grammar) -> Matcher:
        """Only in the thread: copying reads what compiling writes."""
        first = self._known.pop(grammar, None)
        if first is None:
            try:
                first = compiled(grammar, self._vocabulary)
            except GrammarError as exc:
                raise GrammarError(f"{grammar.field}: {exc}") from exc
        self._known[grammar] = first
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return Matcher(first.deep_copy(), self._end, grammar.field)
