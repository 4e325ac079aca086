"""Tool calls read out of an answer: by format, and independent of how the answer is cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode_api.serving import ToolFormat
from trimode_workers.text.tool_formats import FORMATS, format_of
from trimode_workers.text.tool_reader import Reading, ToolReader

HERMES, MISTRAL, LISTED, LLAMA, JSON = (
    ToolFormat.HERMES, ToolFormat.MISTRAL, ToolFormat.MISTRAL_LIST, ToolFormat.LLAMA, ToolFormat.JSON,
)  # fmt: skip
Calls = list[tuple[str, str]]
F1 = ("f", '{"a": 1}')
READ: list[tuple[ToolFormat, str, str, Calls]] = [
    (HERMES, '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>', "", [F1]),
    (HERMES, '\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>\n', "", [F1]),
    (HERMES, 'Let me see. <tool_call>{"name":"f","arguments":{"a": 1}}</tool_call>', "Let me see. ", [F1]),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>\n<tool_call>{"name": "g", "arguments": {}}'
     "</tool_call>", "", [F1, ("g", "{}")]),
    # Braces, quotes and markers within a text end nothing.
    (HERMES, '<tool_call>{"name": "f", "arguments": {"a": "}\\"</tool_call>"}}</tool_call>', "",
     [("f", '{"a": "}\\"</tool_call>"}')]),
    (HERMES, '<tool_call>{"arguments": {"b": [1, {}]}, "name": "g"}</tool_call>', "", [("g", '{"b": [1, {}]}')]),
    (HERMES, '<tool_call>{"name": "g", "arguments": "{\\"b\\": 2}"}</tool_call>', "", [("g", '{"b": 2}')]),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"a": 1}, "id": "}"}</tool_call> done', "done", [F1]),
    # Not whole: what was told stays told, and what was no call yet is text.
    (HERMES, '<tool_call>{"name": "f", "arguments": {"a": 1', "", [("f", '{"a": 1')]),
    (HERMES, 'hm <tool_call>{"name": "f", "argu', 'hm <tool_call>{"name": "f", "argu', []),
    (HERMES, "a <tool_cal <tool_call> b", "a <tool_cal <tool_call> b", []),
    (HERMES, '<tool_call>{"name": "other", "arguments": {}}</tool_call>',
     '<tool_call>{"name": "other", "arguments": {}}</tool_call>', []),
    (HERMES, '<tool_call>no<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>', "<tool_call>no", [F1]),
    (HERMES, " \n", " \n", []),
    (HERMES, " \n words \n", " \n words \n", []),
    (HERMES, '{"name": "f", "arguments": {"a": 1}}', '{"name": "f", "arguments": {"a": 1}}', []),
    (MISTRAL, '[TOOL_CALLS]f[ARGS]{"a": 1}', "", [F1]),
    (MISTRAL, 'Yes.[TOOL_CALLS]f[CALL_ID]abc123DEF[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{}', "Yes.", [F1, ("g", "{}")]),
    (MISTRAL, '[TOOL_CALLS]f{"a": 1}', "", [F1]),
    (MISTRAL, '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}]', "", [F1]),
    (MISTRAL, "[TOOL_CALLS]other[ARGS]{}", "[TOOL_CALLS]other[ARGS]{}", []),
    (MISTRAL, "[TOOL_CALLS]f is what I would call", "[TOOL_CALLS]f is what I would call", []),
    (LISTED, '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}, "id": "abc"}]', "",
     [F1, ("g", "{}")]),
    (JSON, '{"name": "f", "arguments": {"a": 1}}', "", [F1]),
    (JSON, ' [{"name": "f", "arguments": {"a": 1}},\n{"name": "g", "arguments": {}}]', "", [F1, ("g", "{}")]),
    (JSON, '{"city": "rome"}', '{"city": "rome"}', []),
    (JSON, 'I call {"name": "f", "arguments": {"a": 1}}', 'I call {"name": "f", "arguments": {"a": 1}}', []),
    (LLAMA, '{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}', "", [F1, ("g", "{}")]),
]  # fmt: skip


def read(form: ToolFormat, pieces: list[str], *, single: bool = False) -> tuple[str, Calls, bool]:
    reader = ToolReader(FORMATS[form], {"f", "g"}, single=single)
    text, calls = "", dict[int, tuple[str, str]]()

    def take(news: Reading) -> None:
        nonlocal text
        text += news.text
        for each in news.calls:
            name, arguments = calls.get(each.index, ("", ""))
            calls[each.index] = (name + each.name, arguments + each.arguments)

    for piece in pieces:
        take(reader.feed(piece))
    done = reader.done
    take(reader.finish())
    assert sorted(calls) == list(range(reader.calls))
    return text, [calls[index] for index in sorted(calls)], done


@pytest.mark.parametrize(("form", "said", "text", "calls"), READ)
def test_calls_are_read_whole_and_letter_by_letter(form: ToolFormat, said: str, text: str, calls: Calls) -> None:
    assert read(form, [said]) == (text, calls, False)
    assert read(form, list(said)) == (text, calls, False)


@given(st.sampled_from(READ), st.lists(st.integers(0, 120), max_size=6))
def test_no_cut_changes_what_is_read(case: tuple[ToolFormat, str, str, Calls], cuts: list[int]) -> None:
    form, said, text, calls = case
    ends = sorted({min(cut, len(said)) for cut in cuts} | {len(said)})
    pieces = [said[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    assert read(form, pieces) == (text, calls, False)


@given(
    st.sampled_from(list(ToolFormat)),
    st.lists(st.sampled_from([*'{}[]",:\\ fgx1\n', "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", '"name"',
                              '{"name": "f", "arguments": ', '"parameters"']), max_size=14),
)  # fmt: skip
def test_whatever_comes_is_read_alike_in_every_cut(form: ToolFormat, parts: list[str]) -> None:
    said = "".join(parts)
    assert read(form, [said]) == read(form, list(said)) == read(form, parts)


@pytest.mark.parametrize(("form", "said", "text", "calls"), [case for case in READ if case[3]])
def test_the_first_call_ends_an_answer_that_may_have_one(form: ToolFormat, said: str, text: str, calls: Calls) -> None:
    _, found, done = read(form, list(said), single=True)
    assert found == calls[:1]
    assert done == calls[0][1].endswith("}")


TEMPLATES = [
    ("{% if tools %}[AVAILABLE_TOOLS]{% endif %}[TOOL_CALLS]{{ name }}[ARGS]", MISTRAL),
    ("{% if tools %}[AVAILABLE_TOOLS]{% endif %}[TOOL_CALLS][", LISTED),
    ("{% if tools %}<tools>{% endif %}'<tool_call>\\n{\"name\": '", HERMES),
    ('{% if tools %}{% endif %}\'{"name": "\' + tool_call.name + \'", "parameters": \'', LLAMA),
    ("{% if tools %}{{ tools | tojson }}{% endif %}", JSON),
    ("{% if tools %}<tool_call>\\n<function=", None),
    ("{{ messages[0].content }}", None),
]


@pytest.mark.parametrize(("template", "form"), TEMPLATES)
def test_the_format_is_found_in_the_template(template: str, form: ToolFormat | None) -> None:
    found = format_of(template)
    assert (found and found.name) == form
