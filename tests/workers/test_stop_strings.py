"""Stop strings: whatever the cuts, the same text; never a stop string in it; nothing before it lost."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode_workers.text.answer import AnswerText, StopScanner
from trimode_workers.text.detokenize import ByteDetokenizer

texts = st.text(alphabet="abc", max_size=40)
stop_lists = st.lists(st.text(alphabet="abc", min_size=1, max_size=5), min_size=1, max_size=4)


def shown(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    scanner = StopScanner(stops)
    out = ""
    for piece in pieces:
        scanned = scanner.feed(piece)
        out += scanned.text
        if scanned.stopped:
            return out, True
    return out + scanner.flush(), False


def cut(text: str, places: list[int]) -> list[str]:
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


@given(texts, stop_lists, st.lists(st.integers(0, 100), max_size=8))
def test_the_cuts_do_not_matter(text: str, stops: list[str], places: list[int]) -> None:
    assert shown(cut(text, places), stops) == shown(list(text), stops) == shown([text], stops)


@given(texts, stop_lists, st.lists(st.integers(0, 100), max_size=8))
def test_no_stop_string_is_shown_and_nothing_before_it_is_lost(text: str, stops: list[str], places: list[int]) -> None:
    out, stopped = shown(cut(text, places), stops)
    assert not any(stop in out for stop in stops)
    assert stopped == any(stop in text for stop in stops)
    if stopped:
        assert any(text.startswith(out + stop) for stop in stops)
    else:
        assert out == text


@given(texts, stop_lists)
def test_no_more_is_held_back_than_needed(text: str, stops: list[str]) -> None:
    scanner = StopScanner(stops)
    out = ""
    for index, character in enumerate(text):
        scanned = scanner.feed(character)
        out += scanned.text
        if scanned.stopped:
            return
        held = text[len(out) : index + 1]
        assert not held or any(stop.startswith(held) for stop in stops)


@pytest.mark.parametrize(
    ("pieces", "stops", "expected"),
    [
        (["hello wor", "ld"], ["world"], ("hello ", True)),
        (["aaab"], ["aab"], ("a", True)),
        (["ab", "c"], ["abcd"], ("abc", False)),
        (["abc"], ["b", "abc"], ("a", True)),
        (["xabc"], ["c", "abc"], ("x", True)),
        (["", ""], ["a"], ("", False)),
    ],
)
def test_examples(pieces: list[str], stops: list[str], expected: tuple[str, bool]) -> None:
    assert shown(pieces, stops) == expected


@given(texts, stop_lists, st.lists(st.integers(0, 100), max_size=8))
def test_a_stop_string_that_is_included_is_the_end(text: str, stops: list[str], places: list[int]) -> None:
    plain, stopped = shown(cut(text, places), stops)
    scanner, out = StopScanner(stops, include=True), ""
    for piece in cut(text, places):
        scanned = scanner.feed(piece)
        out += scanned.text
        if scanned.stopped:
            break
    else:
        out += scanner.flush()
    assert out == plain if not stopped else out in [plain + stop for stop in stops]


@given(texts, stop_lists, st.integers(0, 12), st.lists(st.integers(0, 100), max_size=8))
def test_text_of_the_least_tokens_stops_nothing(text: str, stops: list[str], least: int, places: list[int]) -> None:
    """A token is a byte here."""
    answer, out = AnswerText(ByteDetokenizer([bytes([b]) for b in range(256)]), stops, least=least), ""
    for piece in cut(text, places):
        delta = answer.feed(piece.encode())
        out += delta.text
        if delta.stopped:
            break
    else:
        out += answer.finish().text
    rest, stopped = shown([text[least:]], stops)
    assert out == text[:least] + rest
    assert answer.tokens == (len(text) if not stopped else answer.tokens) >= min(least, len(text))
