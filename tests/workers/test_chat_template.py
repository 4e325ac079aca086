"""Chat templates and tokenizer folders as published models write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trimode_workers.text.errors import TemplateError, TokenizerError
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
