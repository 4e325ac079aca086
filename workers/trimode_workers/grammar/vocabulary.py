"""A model's tokens as the library wants them: their bytes, the special ones, the ends of an answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from llguidance import LLTokenizer, TokenizerWrapper
from tokenizers import Tokenizer

from trimode_workers.errors import GrammarError


def load_vocabulary(folder: Path, size: int, ends: Sequence[int]) -> LLTokenizer:
    """`size` ids (those beyond the tokenizer's are never allowed), `ends` end an answer.

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
