"""Special tokens that somebody has typed, kept apart from those of the chat template.

Belongs here: hiding them while the template runs, and finding them again in its text. Without it a user could end his
turn and speak as the system.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

_OPEN, _CLOSE = "\U000f0000", "\U000f0001"
"""Private characters around a number stand for what was typed; typed themselves, they are hidden likewise."""
_MARK = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")

Messages = Sequence[Mapping[str, Any]]


class PlainText:
    """For one tokenizer. Messages without special tokens, nearly all, cost one search each."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._source = tokenizer
        specials = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
        # The longest first: of two that begin alike the tokenizer takes it, too.
        parts = sorted({*specials, _OPEN, _CLOSE}, key=len, reverse=True)
        self._typed = re.compile("|".join(map(re.escape, parts)))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """One to which special tokens are text like any other."""
        tokenizer = Tokenizer.from_str(self._source.to_str())
        tokenizer.encode_special_tokens = True
        return tokenizer

    def hide(self, messages: Messages) -> tuple[Messages, list[str]]:
        """`messages` with marks in place of typed special tokens, and these tokens in the order of their numbers."""
        typed: list[str] = []

        def mark(found: re.Match[str]) -> str:
            typed.append(found[0])
            return f"{_OPEN}{len(typed) - 1}{_CLOSE}"

        def without(value: Any) -> Any:
            """A call's arguments are objects within objects; their names are typed, too."""
            if isinstance(value, str):
                return self._typed.sub(mark, value)
            if isinstance(value, dict):
                return {without(name): without(each) for name, each in value.items()}
            return [without(each) for each in value] if isinstance(value, list) else value

        hidden = [{name: without(value) for name, value in message.items()} for message in messages]
        return (hidden, typed) if typed else (messages, typed)

    def pieces(self, text: str, typed: Sequence[str]) -> Iterator[tuple[str, bool]]:
        """The template's text without marks, as (piece, whether it is plain text whatever it looks like)."""
        for index, piece in enumerate(_MARK.split(text)):
            if index % 2:
                yield typed[int(piece)], True
            elif piece:
                yield piece, False
