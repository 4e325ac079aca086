"""From a schema to a matcher at its beginning, and the check of a schema before any work.

Belongs here: the library's options and limits. Schemas come from strangers: compilation is bounded by the library
(symbols, states, steps), references to other hosts are not followed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, lru_cache

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper, grammar_from

from trimode_workers.engine.messages import Grammar, GrammarForm
from trimode_workers.errors import GrammarError
from trimode_workers.grammar.bounds import MOST

WHITE_SPACE = r"(\x20|\x0D?\x0A[\x20\x09]{0,40})"
"""Between two parts of the JSON: one space, or a new line with its indentation. In more a model could get lost."""
MAX_MESSAGE_CHARACTERS = 300
_REMEMBERED = 256
_LARGE_BOUND = re.compile(r"Failed to generate regex for (float|integer) range: .*(e\d\d|\d{19})")
_UNKNOWN_KEYS = re.compile(r"Unimplemented keys: \[(.*)\]")


def compiled(grammar: Grammar, tokenizer: LLTokenizer) -> LLMatcher:
    """A matcher that has seen nothing. Raises GrammarError. Without the interpreter's lock for most of its time."""
    try:
        text = _source(grammar)
    except ValueError as exc:
        raise GrammarError(_plain(str(exc))) from exc
    matcher = LLMatcher(tokenizer, text, log_level=0, limits=LLParserLimits(verbose_errors=False))
    if not matcher.is_error():
        matcher.compute_bitmask()  # that nothing at all fits is only found here
    if matcher.is_error():
        raise GrammarError(_plain(matcher.get_error()))
    return matcher


def _source(grammar: Grammar) -> str:
    """The grammar as the library takes it. ValueError where it cannot be read."""
    if grammar.form is GrammarForm.LARK:
        return LLMatcher.grammar_from_lark(grammar.schema)
    if grammar.form is GrammarForm.REGEX:
        return grammar_from("regex", grammar.schema)
    if grammar.form is GrammarForm.CHOICE:
        return grammar_from("choice", grammar.schema)
    if grammar.form is GrammarForm.GRAMMAR:
        return grammar_from("grammar", grammar.schema)
    return LLMatcher.grammar_from_json_schema(
        grammar.schema, overrides={"whitespace_pattern": WHITE_SPACE, "lenient": grammar.lenient}
    )


@lru_cache(maxsize=_REMEMBERED)
def problem(grammar: Grammar) -> str:
    """Why no answer can follow `grammar`, empty where one can. Takes up to some tenths of a second."""
    try:
        compiled(grammar, _bytes())
    except GrammarError as exc:
        return str(exc)
    return ""


@cache
def _bytes() -> LLTokenizer:
    """A vocabulary of single bytes: what is wrong with a schema does not depend on the model."""
    return LLTokenizer(TokenizerWrapper(Bytes()))


class Bytes:
    """The library's idea of a tokenizer (see `TokenizerWrapper`), each byte a token."""

    eos_token_id = 256
    bos_token_id = None
    special_token_ids: Sequence[int] = (256,)
    tokens: Sequence[bytes] = (*(bytes([byte]) for byte in range(256)), b"<end>")

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


def _plain(words: str) -> str:
    """The library's words on one line; those of a bug in it, which come with a trace, cut short."""
    line = " ".join(words.split("<backtrace>")[0].split())
    if found := _UNKNOWN_KEYS.search(line):
        line = f"keywords that cannot be enforced: {found[1]}"
    if _LARGE_BOUND.search(line):
        line = f"bounds of numbers beyond {MOST:.0e} cannot be enforced"
    return line if len(line) <= MAX_MESSAGE_CHARACTERS else f"{line[:MAX_MESSAGE_CHARACTERS]}..."
