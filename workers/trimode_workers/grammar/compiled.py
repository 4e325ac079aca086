"""From a schema to a matcher at its beginning, and the check of a schema before any work.

Schemas come from strangers: compilation is bounded by the library (symbols, states, steps), references to other hosts
are not followed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper, grammar_from

from trimode_workers.engine.messages import Grammar, GrammarForm
from trimode_workers.errors import GrammarError

WHITE_SPACE = r"(\x20|\x0D?\x0A[\x20\x09]{0,40})"
"""Between two parts of the JSON: one space, or a new line with its indentation. In more a model could get lost."""
MAX_MESSAGE_CHARACTERS = 300
MOST = 10**18
"""Bounds of numbers up to this size are followed, as tried with llguidance on numbers and integers. The library writes
a bound as a pattern of digits and gives up beyond 64-bit integers; pydantic writes `le=1e308` for "any number"."""
_BOUNDS = frozenset({"maximum", "minimum", "exclusiveMaximum", "exclusiveMinimum"})
_VALUES = frozenset({"const", "enum", "default", "examples"})
_REMEMBERED = 256
_LARGE_BOUND = re.compile(r"Failed to generate regex for (float|integer) range: .*(e\d\d|\d{19})")
_UNKNOWN_KEYS = re.compile(r"Unimplemented keys: \[(.*)\]")


def compiled(grammar: Grammar, tokenizer: LLTokenizer) -> LLMatcher:
    """A matcher that has seen nothing. Raises GrammarError. Without the interpreter's lock for most of its time."""
    try:
        match grammar.form:
            case GrammarForm.LARK:
                text = LLMatcher.grammar_from_lark(grammar.schema)
            case GrammarForm.REGEX:
                text = grammar_from("regex", grammar.schema)
            case GrammarForm.CHOICE:
                text = grammar_from("choice", grammar.schema)
            case GrammarForm.GRAMMAR:
                text = grammar_from("grammar", grammar.schema)
            case GrammarForm.JSON_SCHEMA:
                text = LLMatcher.grammar_from_json_schema(
                    grammar.schema, overrides={"whitespace_pattern": WHITE_SPACE, "lenient": grammar.lenient}
                )
    except ValueError as exc:
        raise GrammarError(_plain(str(exc))) from exc
    matcher = LLMatcher(tokenizer, text, log_level=0, limits=LLParserLimits(verbose_errors=False))
    if not matcher.is_error():
        matcher.compute_bitmask()  # that nothing at all fits is only found here
    if matcher.is_error():
        raise GrammarError(_plain(matcher.get_error()))
    return matcher


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


def without_large_bounds(schema: Any) -> Any:
    """`schema` without bounds beyond `MOST`; values that it quotes stay as they are."""
    if isinstance(schema, list):
        return [without_large_bounds(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: value if name in _VALUES else without_large_bounds(value)
        for name, value in schema.items()
        if name not in _BOUNDS or not isinstance(value, int | float) or abs(value) <= MOST
    }
