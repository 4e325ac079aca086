"""Chat templates and tokenizer folders as published models write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trimode_workers.errors import TemplateError, TokenizerError
from trimode_workers.text.template import ChatTemplate
from trimode_workers.text.tokenizer import load_text_model

MESSAGES = [{"role": "user", "content": "hi"}]


def test_a_template_sees_messages_specials_and_the_generation_flag() -> None:
    source = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m['content'] }}{% endfor %}"
    source += "{% if add_generation_prompt %}[assistant]{% endif %}"
    assert ChatTemplate(source, {"bos_token": "<s>"}).render(MESSAGES) == "<s>[user]hi[assistant]"


def test_blocks_leave_no_blank_lines_and_loops_can_break() -> None:
    source = (
        "{% for m in messages %}\n  {% if loop.index > 1 %}\n{% break %}\n{% endif %}\n{{ m.content }}\n{% endfor %}"
    )
    assert ChatTemplate(source, {}).render([*MESSAGES, *MESSAGES]) == "hi\n"


def test_json_is_not_escaped_for_html() -> None:
    assert ChatTemplate("{{ messages | tojson }}", {}).render([{"role": "<é>"}]) == '[{"role": "<é>"}]'


def test_what_a_template_refuses_is_told_in_its_words() -> None:
    template = ChatTemplate("{{ raise_exception('system comes first') }}", {})
    with pytest.raises(TemplateError, match="system comes first"):
        template.render(MESSAGES)


@pytest.mark.parametrize(
    "source", ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ messages[5].content.x }}"]
)
def test_a_template_cannot_leave_its_sandbox(source: str) -> None:
    with pytest.raises(TemplateError):
        ChatTemplate(source, {}).render(MESSAGES)


def test_the_generation_tag_marks_and_changes_nothing() -> None:
    """Templates of SmolLM3 and Phi-4 carry it for training."""
    marked = "{% generation %}{% set end = '.' %}{{ m.content + end }}{% endgeneration %}"
    marked = "{% for m in messages %}" + marked + "{% endfor %}"
    assert ChatTemplate(marked, {}).render([*MESSAGES, *MESSAGES]) == "hi.hi."


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("", '[{"b": "é", "a": 1}]'),
        ("ensure_ascii=True", '[{"b": "\\u00e9", "a": 1}]'),
        ("ensure_ascii=False, separators=(',', ':')", '[{"b":"é","a":1}]'),
        ("sort_keys=True", '[{"a": 1, "b": "é"}]'),
        ("indent=1", '[\n {\n  "b": "é",\n  "a": 1\n }\n]'),
    ],
)
def test_json_is_written_as_the_template_asks(arguments: str, text: str) -> None:
    source = "{% set given = [{'b': 'é', 'a': 1}] %}{{ given | tojson(" + arguments + ") }}"
    assert ChatTemplate(source, {}).render(MESSAGES) == text


def test_tools_and_documents_are_none_and_not_undefined() -> None:
    source = "{{ tools is none }} {{ documents is none }} {{ nothing is defined }}"
    assert ChatTemplate(source, {}).render(MESSAGES) == "True True False"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ 'a' + none }}", "can only concatenate"),
        ("{{ 1 // 0 }}", "by zero"),
        ("{{ 2.0 ** 9999 }}", "out of range"),
        ("{{ 'x' | int + messages[0].content }}", "unsupported operand"),
        ("{{ raise_exception('bad ' * 999) }}", "bad bad"),
    ],
)
def test_whatever_a_template_raises_is_a_short_refusal(source: str, words: str) -> None:
    with pytest.raises(TemplateError, match=words) as caught:
        ChatTemplate(source, {}).render(MESSAGES)
    assert len(str(caught.value)) < 400


def test_developers_speak_as_the_system_where_the_template_knows_none() -> None:
    """A template that skips roles it does not know lost the instruction in silence."""
    said = [{"role": "developer", "content": "short"}]
    source = "{% for m in messages %}{% if m.role == 'system' %}S:{{ m.content }}{% endif %}{% endfor %}"
    assert ChatTemplate(source, {}).render(said) == "S:short"
    assert ChatTemplate(source.replace("'system'", "'developer'"), {}).render(said) == "S:short"


def test_calls_that_a_template_does_not_show_are_refused() -> None:
    said = [{"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}]
    with pytest.raises(TemplateError, match="shows no tool_calls"):
        ChatTemplate("{{ messages[0].content }}", {}).render(said)
    shown = ChatTemplate("{{ messages[0].tool_calls[0].function | tojson }}", {}).render(said)
    assert shown == '{"name": "f", "arguments": {}}'


def test_a_template_that_is_none_stops_the_start() -> None:
    with pytest.raises(TokenizerError, match="chat template"):
        ChatTemplate("{% for %}", {})


def test_a_folder_without_a_template_serves_plain_completions_only(fake_model: Path) -> None:
    (fake_model / "tokenizer_config.json").unlink()
    model = load_text_model(fake_model)
    assert len(model.encode("héllo")) == 6
    with pytest.raises(TemplateError, match="/v1/completions"):
        model.chat(MESSAGES)


def test_the_places_a_template_may_be_in(fake_model: Path) -> None:
    config = fake_model / "tokenizer_config.json"
    named = [{"name": "tools", "template": "t"}, {"name": "default", "template": "{{ eos_token }}d"}]
    config.write_text(json.dumps({"chat_template": named, "eos_token": {"content": "e"}}))
    assert load_text_model(fake_model).chat(MESSAGES) == load_text_model(fake_model).encode("ed")
    (fake_model / "chat_template.jinja").write_text("file")
    assert load_text_model(fake_model).chat(MESSAGES) == load_text_model(fake_model).encode("file")
