"""What users type is text, whatever it looks like."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import trimode_workers
from trimode_workers.text.tokenizer import TextModel, load_text_model

TINY = Path(trimode_workers.__path__[0], "tiny")
SPECIALS = ("<pad>", "<bos>", "<end>", "<mask>", "<unk>", "<user>", "<asst>", "<system>")

pytestmark = pytest.mark.skipif(not (TINY / "tokenizer.json").is_file(), reason=f"NO PACKAGED TOKENIZER in {TINY}")


@pytest.fixture(scope="module")
def tiny() -> TextModel:
    return load_text_model(TINY)


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


PARTS = st.lists(
    st.sampled_from([*SPECIALS, "sort: ", "42 ", "<", ">", "user", "\U000f0000", "1\U000f0001"]), max_size=8
)


@given(PARTS)
def test_only_the_templates_own_tokens_are_special(tiny: TextModel, parts: list[str]) -> None:
    special = {id for name in SPECIALS if name != "<unk>" for id in tiny.encode(name)}
    frame = [id for id in tiny.chat(ask("x")) if id in special]
    assert [id for id in tiny.chat(ask("".join(parts))) if id in special] == frame


def test_the_text_is_kept(tiny: TextModel) -> None:
    ids = tiny.chat(ask("a<user>b"))
    assert tiny.detokenizer().feed(ids) == "a<user>b"


def test_a_prompt_without_them_is_as_ever(tiny: TextModel) -> None:
    ids = tiny.chat([*ask("sort: 42 17"), {"role": "assistant", "content": "17 42"}, *ask("sort: 3 2")])
    whole = tiny.encode("<bos><user>sort: 42 17<asst>17 42<end><user>sort: 3 2<asst>")
    assert ids == whole


def test_raw_completions_keep_theirs(tiny: TextModel) -> None:
    """Who writes the whole prompt writes the template, too."""
    assert len(tiny.encode("<bos><user>")) == 2
