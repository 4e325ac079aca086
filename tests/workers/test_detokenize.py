"""Incremental decoding equals decoding at once, and shows whole characters only."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from trimode_workers.text.answer import AnswerText
from trimode_workers.text.detokenize import (
    REPLACEMENT,
    ByteDetokenizer,
    Detokenizer,
    WindowDetokenizer,
    byte_alphabet,
)
from trimode_workers.text.tokenizer import TextModel


@cache
def byte_level() -> Tokenizer:
    """Bytes, and a few merges that end inside characters."""
    alphabet = list(byte_alphabet())
    merges = [("Ã", "¤"), ("h", "e"), ("he", "l"), ("Ġ", "h"), ("ð", "Ł")]
    vocabulary = {text: id for id, text in enumerate([*alphabet, *("".join(pair) for pair in merges)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.add_tokens(["tool€"])
    return tokenizer


@cache
def metaspace() -> Tokenizer:
    """Words with a visible space, and single bytes for everything else, as SentencePiece writes them."""
    pieces = ["<unk>", "▁hello", "▁world", "▁", "h", "e", "l", "o", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(
        models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=[], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def detokenizers() -> list[Callable[[], Detokenizer]]:
    return [
        lambda: TextModel(byte_level(), None).detokenizer(),
        lambda: WindowDetokenizer(lambda ids: byte_level().decode(ids)),
    ]


def test_a_byte_level_vocabulary_is_decoded_by_table_and_others_by_window() -> None:
    assert isinstance(TextModel(byte_level(), None).detokenizer(), ByteDetokenizer)
    assert isinstance(TextModel(metaspace(), None).detokenizer(), WindowDetokenizer)


@pytest.mark.parametrize("make", detokenizers())
@settings(deadline=None)
@given(text=st.text(max_size=30))
def test_text_comes_back_and_every_piece_is_whole(make: Callable[[], Detokenizer], text: str) -> None:
    if REPLACEMENT in text:
        return
    decoder = make()
    shown = ""
    for token in byte_level().encode(text, add_special_tokens=False).ids:
        piece = decoder.feed([token])
        assert REPLACEMENT not in piece
        shown += piece
        assert text.startswith(shown)
    assert shown + decoder.flush() == text


@settings(deadline=None)
@given(st.lists(st.integers(0, 262), max_size=40), st.integers(1, 5))
def test_any_ids_decode_as_the_tokenizer_decodes_them(ids: list[int], step: int) -> None:
    decoder = TextModel(byte_level(), None).detokenizer()
    shown = "".join(decoder.feed(ids[i : i + step]) for i in range(0, len(ids), step)) + decoder.flush()
    assert shown == byte_level().decode(ids, skip_special_tokens=True)


@settings(deadline=None)
@given(st.text(alphabet="helo wrdä€😀", max_size=25))
def test_windows_decode_byte_fallback(text: str) -> None:
    ids = metaspace().encode("▁" + text.replace(" ", "▁")).ids
    decoder = TextModel(metaspace(), None).detokenizer()
    assert "".join(decoder.feed([id]) for id in ids) + decoder.flush() == metaspace().decode(ids)


def test_padding_ids_beyond_the_vocabulary_have_no_text() -> None:
    decoder = TextModel(byte_level(), None).detokenizer()
    assert decoder.feed([*byte_level().encode("he").ids, 100_000]) == "he"


@pytest.mark.parametrize("make", detokenizers())
def test_an_incomplete_character_at_the_end_is_marked(make: Callable[[], Detokenizer]) -> None:
    ids = byte_level().encode("a😀").ids[:-1]
    decoder = make()
    assert decoder.feed(ids) == "a"
    assert decoder.flush() == REPLACEMENT


class TestAnswer:
    """Tokens are counted up to the end of a stop string."""

    def test_tokens_behind_a_stop_string_do_not_count(self) -> None:
        answer = AnswerText(TextModel(byte_level(), None).detokenizer(), ["lo"])
        delta = answer.feed(byte_level().encode("hello world").ids)
        assert (delta.text, delta.stopped) == ("hel", True)
        assert answer.tokens == len(byte_level().encode("hello").ids)

    def test_without_stop_strings_every_token_counts(self) -> None:
        answer = AnswerText(TextModel(byte_level(), None).detokenizer())
        ids = byte_level().encode("hello").ids
        assert answer.feed(ids).text + answer.finish().text == "hello"
        assert answer.tokens == len(ids)

    def test_what_was_held_back_comes_at_the_end(self) -> None:
        answer = AnswerText(TextModel(byte_level(), None).detokenizer(), ["wor!"])
        text = answer.feed(byte_level().encode("hello wor").ids).text
        assert text == "hello "
        assert answer.finish().text == "wor"
