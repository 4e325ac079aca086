"""Compiles grammars beside the engine's cycles, each once, for a model's tokens as the library wants them."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from tokenizers import Tokenizer

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

        def make() -> Matcher:
            # Only in the thread: copying reads what compiling writes.
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

        return self._thread.submit(make)

    def close(self) -> None:
        """End the thread; what is being compiled is waited for."""
        self._thread.shutdown(cancel_futures=True)


def load_vocabulary(folder: Path, size: int, ends: Sequence[int]) -> LLTokenizer:
    """A model's tokens: `size` ids (those beyond the tokenizer's are never allowed), of which `ends` end an answer.

    Raises GrammarError where the library does not know how the tokenizer spells bytes. Takes about a second for a
    vocabulary of 131,072.
    """
    if not ends:
        raise GrammarError("the model's config.json names no end-of-sequence token")
    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as exc:  # the library raises bare Exception
        raise GrammarError(f"tokenizer.json: {exc}") from exc
    text = tokenizer.to_str()
    decoder = json.loads(text)["decoder"] or {}
    try:
        if decoder.get("type") == "Fuse":  # joins tokens, no more: each is spelt as it is written
            return LLTokenizer(TokenizerWrapper(Plain(tokenizer, ends[0])), n_vocab=size, eos_token=list(ends))
        return LLTokenizer(text, n_vocab=size, eos_token=list(ends))
    except ValueError as exc:
        raise GrammarError(f"tokenizer.json: {exc}") from exc


class Plain:
    """The library's idea of a tokenizer (see `TokenizerWrapper`), tokens being their own text."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, end: int) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = end
        self.special_token_ids = [i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special]
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        self.tokens = [b""] * (max(vocabulary.values()) + 1)
        for token, id in vocabulary.items():
            self.tokens[id] = token.encode()

    def __call__(self, text: bytes | str) -> list[int]:
        words = text.decode(errors="replace") if isinstance(text, bytes) else text
        return list(self._tokenizer.encode(words, add_special_tokens=False).ids)
