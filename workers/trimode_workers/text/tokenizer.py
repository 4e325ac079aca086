"""A model folder's text side: tokenizer.json and tokenizer_config.json. Decoding is in `detokenize`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from trimode_api.serving import ToolFormat
from trimode_workers.errors import TemplateError, TokenizerError
from trimode_workers.text.detokenize import (
    ByteDetokenizer,
    Detokenizer,
    MarkedDetokenizer,
    WindowDetokenizer,
    byte_alphabet,
)
from trimode_workers.text.reasoning import CLOSING, OPENING, ReasoningReader
from trimode_workers.text.template import ChatTemplate
from trimode_workers.text.tool_formats import FORMATS, MARKERS, CallFormat

_OPEN, _CLOSE = "\U000f0000", "\U000f0001"
"""Private characters around a number stand for what was typed; typed themselves, they are hidden likewise."""
_MARK = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")

_END_TOKENS = 32
"""Of a prompt in which the end of a template is looked for."""
_BYTE = re.compile("<0x([0-9A-F]{2})>")

Messages = Sequence[Mapping[str, Any]]


class PlainText:
    """Special tokens that a client has typed, kept apart from those of the chat template; for one tokenizer.

    They are hidden while the template runs and found again in its text. Messages without any, nearly all, cost one
    search each.
    """

    # Without this a user could end the turn by typing its end token, and go on as the system.

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._source = tokenizer
        specials = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
        # The longest first: of two that begin alike the tokenizer takes it, too.
        parts = sorted({*specials, _OPEN, _CLOSE}, key=len, reverse=True)
        self._typed = re.compile("|".join(map(re.escape, parts)))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """One to which special tokens are text like any other."""
        # A copy, since the switch is the tokenizer's: with the shared one the template's own tokens would be text, too.
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
            """A call's arguments are nested objects, whose names are typed by the client, too."""
            if isinstance(value, str):
                return self._typed.sub(mark, value)
            if isinstance(value, dict):
                return {without(name): without(each) for name, each in value.items()}
            return [without(each) for each in value] if isinstance(value, list) else value

        hidden = [{name: without(value) for name, value in message.items()} for message in messages]
        return (hidden, typed) if typed else (messages, typed)

    def pieces(self, text: str, typed: Sequence[str]) -> Iterator[tuple[str, bool]]:
        """The template's text without marks, as (piece, whether a client typed it, so that it is plain text)."""
        for index, piece in enumerate(_MARK.split(text)):
            if index % 2:
                yield typed[int(piece)], True
            elif piece:
                yield piece, False


class TextModel:
    """Tokenizer and chat template of one model. Safe to share between requests; each gets its own detokenizer."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None, calls: CallFormat | None = None) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._calls = calls
        self._table = _byte_table(tokenizer)
        self._plain = PlainText(tokenizer)

    @property
    def vocabulary(self) -> int:
        """Number of ids, special ones included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def switchable(self, name: str) -> bool:
        """Whether the chat template knows a variable of that name."""
        return self._template is not None and self._template.names(name)

    def chat(self, messages: Messages, tools: Messages = (), switches: Mapping[str, Any] | None = None) -> list[int]:
        """Messages (`role`, `content`, and what a template may show besides), tools (in OpenAI's form) and further
        variables to the prompt's ids.

        TemplateError where there is no template or it refuses.

        A special token that a client has typed into a message is text: only the template's own are special.
        """
        if self._template is None:
            raise TemplateError("this model has no chat template; use /v1/completions")
        (*hidden, told), typed = self._plain.hide([*messages, *tools, switches or {}])
        text = self._template.render(hidden[: len(messages)], hidden[len(messages) :], told)
        # The template writes the beginning-of-text token itself.
        if not typed:
            return list(self._tokenizer.encode(text, add_special_tokens=False).ids)
        return [token for piece, plain in self._plain.pieces(text, typed) for token in self._ids(piece, plain)]

    def _ids(self, text: str, plain: bool) -> list[int]:
        tokenizer = self._plain.tokenizer if plain else self._tokenizer
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    def encode(self, text: str) -> list[int]:
        """A plain prompt's ids, with the special tokens that the tokenizer puts around a text."""
        return list(self._tokenizer.encode(text, add_special_tokens=True).ids)

    def spell(self, word: str) -> list[int]:
        """The ids of a piece of text by itself."""
        return self._ids(word, plain=True)

    def decode(self, tokens: Sequence[int], markers: Mapping[int, str] | None = None) -> str:
        """Their text, without special tokens other than `markers`, which are texts by id."""
        detokenizer = self._detokenizer(markers or {})
        return detokenizer.feed(tokens) + detokenizer.flush()

    def piece(self, token: int) -> tuple[str, bytes]:
        """One id by itself, as text and as bytes; special tokens by their names."""
        if self._table is not None and token < len(self._table) and self._table[token]:
            raw = self._table[token]
            return raw.decode(errors="replace"), raw
        name = self._tokenizer.id_to_token(token) or ""
        if byte := _BYTE.fullmatch(name):
            raw = bytes.fromhex(byte[1])
            return raw.decode(errors="replace"), raw
        text = name.replace("\u2581", " ")  # SentencePiece's space
        return text, text.encode()

    @property
    def calls(self) -> CallFormat | None:
        """How the model writes tool calls: as the deployment says, else as the chat template does; None where neither
        tells."""
        return self._calls or (None if self._template is None else self._template.calls)

    @cached_property
    def call_markers(self) -> dict[int, str]:
        """Those markers of tool calls that are special tokens here, which an answer's text does not show."""
        added = self._tokenizer.get_added_tokens_decoder().items()
        return {id: token.content for id, token in added if token.special and token.content in MARKERS}

    @property
    def reasons(self) -> bool:
        """Whether the chat template marks reasoning."""
        return self._template is not None and self._template.reasons

    @cached_property
    def _reasoning_markers(self) -> dict[int, str]:
        added = self._tokenizer.get_added_tokens_decoder().items()
        return {id: token.content for id, token in added if token.special and token.content in (OPENING, CLOSING)}

    def reasoning(self, prompt: Sequence[int]) -> ReasoningReader | None:
        """What reads an answer to a chat's prompt, None where the prompt says that there is no reasoning."""
        end = self.decode(prompt[-_END_TOKENS:], markers=self._reasoning_markers).rstrip()
        return None if end.endswith(CLOSING) else ReasoningReader(begun=end.endswith(OPENING))

    def detokenizer(self, *, calls: bool = False, reasoning: bool = False) -> Detokenizer:
        """For one answer; markers of tool calls, and of reasoning, are text where that is asked for, even where they
        are special tokens."""
        markers = (self.call_markers if calls else {}) | (self._reasoning_markers if reasoning else {})
        return self._detokenizer(markers)

    def _detokenizer(self, markers: Mapping[int, str]) -> Detokenizer:
        plain: Detokenizer
        if self._table is not None:
            plain = ByteDetokenizer(self._table)
        else:
            plain = WindowDetokenizer(lambda ids: self._tokenizer.decode(ids, skip_special_tokens=True))
        return MarkedDetokenizer(plain, markers) if markers else plain


def load_text_model(folder: Path, tool_format: ToolFormat | None = None) -> TextModel:
    """TokenizerError where a file is missing or unreadable; a missing chat template is not an error yet.

    `tool_format` None is found in the chat template.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise TokenizerError(f"{path}: no such file; a model folder needs its tokenizer")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as exc:  # the library raises bare Exception
        raise TokenizerError(f"{path}: {exc}") from exc
    config = read_json(folder / "tokenizer_config.json")
    own_file = folder / "chat_template.jinja"
    source = own_file.read_text(encoding="utf-8") if own_file.is_file() else config.get("chat_template")
    if isinstance(source, list):  # several named templates; the one for plain chat is called default
        source = next((each["template"] for each in source if each.get("name") == "default"), None)
    # `bos_token` and its like, written as a string or as `{"content": ...}`.
    said = ((name, value.get("content") if isinstance(value, dict) else value) for name, value in config.items())
    specials = {name: value for name, value in said if name.endswith("_token") and isinstance(value, str)}
    template = None if source is None else ChatTemplate(source, specials)
    return TextModel(tokenizer, template, None if tool_format is None else FORMATS[tool_format])


def read_json(path: Path) -> dict[str, Any]:
    """The object in the file; empty where there is no such file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        raise TokenizerError(f"{path}: {exc}") from exc
    if not isinstance(value, dict):
        raise TokenizerError(f"{path}: must hold a JSON object")
    return value


def _byte_table(tokenizer: Tokenizer) -> list[bytes] | None:
    """The bytes of every id, where the vocabulary is byte-level and nothing else."""
    decoder = json.loads(tokenizer.to_str())["decoder"] or {}
    if decoder.get("type") != "ByteLevel":
        return None
    alphabet = byte_alphabet()
    special = {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    table = [b""] * (max(vocabulary.values()) + 1)
    for token, id in vocabulary.items():
        if id in special:
            continue
        try:
            table[id] = bytes([alphabet[character] for character in token])
        except KeyError:  # added tokens are plain text; their characters need not be of the alphabet
            table[id] = token.encode()
    return table
