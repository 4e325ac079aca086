"""Requests with tools: what is refused, by name; what the template is given; the grammars that hold calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from llguidance import LLMatcher
from tokenizers import Tokenizer

import trimode_workers
from trimode_api.errors import ApiError
from trimode_api.modes import AR, diffusion, speculation
from trimode_api.openai import ChatRequest
from trimode_api.serving import ToolFormat
from trimode_workers.engine.messages import TOOL_GRAMMAR, Grammar, GrammarForm, Submit
from trimode_workers.errors import TemplateError
from trimode_workers.grammar.compiled import compiled
from trimode_workers.grammar.compiler import load_vocabulary
from trimode_workers.openai.defaults import SamplingDefaults
from trimode_workers.openai.grammar import tool_grammar
from trimode_workers.openai.parse import parse
from trimode_workers.openai.prepare import Capabilities, Identity, prepare
from trimode_workers.text.template import ChatTemplate
from trimode_workers.text.tokenizer import TextModel, load_text_model
from trimode_workers.text.tool_formats import FORMATS

TINY = Path(trimode_workers.__path__[0], "tiny")


def tool(name: str = "f", parameters: Any = None, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, **more}}


NUMBER = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
STRICT = tool("f", NUMBER, strict=True)
F: dict[str, Any] = {"type": "function", "function": {"name": "f"}}
G = F | {"function": {"name": "g"}}


def only(mode: str, *tools: Any) -> dict[str, Any]:
    """A choice among some of the tools."""
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": list(tools)}}


def ask(**more: Any) -> ChatRequest:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], **more}
    return parse(ChatRequest, json.dumps(body).encode())


def prepared(text: TextModel, refused: dict[str, str] | None = None, **more: Any) -> Submit:
    offer = Capabilities(
        "tiny", 512, (AR, speculation(8), diffusion(32, 0.9)), (), SamplingDefaults(), "", refused or {}
    )
    return prepare(ask(**more), text, offer, Identity("id", "", 1))


@pytest.fixture(scope="module")
def tiny() -> TextModel:
    return load_text_model(TINY)


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"tools": [tool(), tool("g"), tool()]}, "tools", "[2].function.name: 'f' is there twice"),
    ({"tools": [tool("a b")]}, "tools[0].function.name", "should match pattern"),
    ({"tools": [tool("f" * 129)]}, "tools[0].function.name", "should match pattern"),
    ({"tools": [{"type": "retrieval"}]}, "tools[0].type", "'function'"),
    ({"tools": [tool("f", {"type": "string"})]}, "tools[0].function.parameters", "must describe an object"),
    ({"tools": [tool("f", {"enum": ["x" * 140_000]})]}, "tools[0].function.parameters", "at most 131072 bytes"),
    ({"tools": [tool(f"f{n}") for n in range(129)]}, "tools", "at most 128 items"),
    ({"tools": [tool()], "tool_choice": "any"}, "tool_choice", "must be 'auto', 'none', 'required', {"),
    ({"tools": [tool()], "tool_choice": G}, "tool_choice", "'g' is not among tools"),
    ({"tools": [tool()], "tool_choice": {"type": "function"}}, "tool_choice", "must be 'auto', 'none', 'required', {"),
    ({"tools": [tool()], "tool_choice": F | {"x": 1}}, "tool_choice", "must be 'auto', 'none', 'required', {"),
    ({"tools": [tool()], "tool_choice": only("auto", F) | F}, "tool_choice", "must be 'auto', 'none', 'required', {"),
    ({"tools": [tool()], "tool_choice": 7}, "tool_choice", "must be 'auto', 'none', 'required', {"),
    ({"tools": [tool()], "tool_choice": F | {"function": {}}}, "tool_choice.function.name", "is required"),
    ({"tools": [tool()], "tool_choice": only("none", F)}, "tool_choice.allowed_tools.mode", "'auto' or 'required'"),
    ({"tools": [tool()], "tool_choice": only("auto")}, "tool_choice.allowed_tools.tools", "at least 1 item"),
    ({"tools": [tool()], "tool_choice": only("auto", F, {"type": "mcp"})},
     "tool_choice.allowed_tools.tools[1].type", "'function'"),
    ({"tools": [tool()], "tool_choice": only("required", F, G)}, "tool_choice", "'g' is not among tools"),
    ({"tools": [tool("g"), STRICT], "tool_choice": only("auto", F), "trimode": {"mode": "Diffusion"}},
     "trimode.mode", "cannot follow tools[1].function.strict"),
    ({"tool_choice": F}, "tool_choice", "'f' is not among tools, which are: none"),
    ({"tool_choice": "required"}, "tool_choice", "'required' needs tools"),
    ({"tools": [tool()], "parallel_tool_calls": "no"}, "parallel_tool_calls", "boolean"),
    ({"tools": [STRICT], "trimode": {"mode": "Diffusion"}}, "trimode.mode", "cannot follow tools[0].function.strict"),
    ({"tools": [tool()], "tool_choice": "required", "trimode": {"mode": "Diffusion"}}, "trimode.mode", "tool_choice"),
    ({"tools": [tool()], "tool_choice": "required", "ignore_eos": True}, "ignore_eos", "has an end"),
    ({"tools": [tool(), tool("g", {"properties": {"a": {"type": "array", "uniqueItems": True}}}, strict=True)]},
     "tools[1].function.parameters", 'cannot be enforced: "uniqueItems"'),
    ({"tools": [tool("f", {"properties": {"a": {"type": "nothing"}}, "required": ["a"]})], "tool_choice": "required"},
     "tools[0].function.parameters", "Invalid type: nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "param", "words"), REFUSED)
def test_what_is_wrong_is_named(more: dict[str, Any], param: str, words: str, tiny: TextModel) -> None:
    with pytest.raises(ApiError) as caught:
        prepared(tiny, **more)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert words in caught.value.message
    assert len(caught.value.message) < 500


def test_a_free_choice_needs_no_grammar(tiny: TextModel) -> None:
    """Whatever the schema: it is for the model's eyes only."""
    odd = tool("f", {"properties": {"a": {"type": "nothing"}}})
    for more in ({}, {"tool_choice": "auto"}, {"tool_choice": "none"}, {"parallel_tool_calls": False}):
        assert prepared(tiny, tools=[odd], **more).grammar is None
    assert prepared(tiny, tools=[STRICT], tool_choice="none").grammar is None
    for more in ({"tool_choice": "auto"}, {"tool_choice": "none"}, {"tools": []}, {"tools": None}):
        assert prepared(tiny, **more) == prepared(tiny)
    forced = prepared(tiny, tools=[tool()], tool_choice="required").grammar
    assert forced is not None
    assert (forced.form, forced.field) == (GrammarForm.LARK, "tools")


@pytest.mark.parametrize("more", [{}, {"parallel_tool_calls": False}])
@pytest.mark.parametrize(("given", "left"), [([F], ["f"]), ([G], ["g"]), ([G, F], ["f", "g"])])
def test_tools_that_are_not_allowed_are_as_if_absent(given: Any, left: list[str], more: Any, tiny: TextModel) -> None:
    """Prompt, grammar and what is read as a call."""
    tools = {"f": STRICT, "g": tool("g", NUMBER), "h": tool("h", {"properties": {"a": {"type": "nothing"}}})}
    for mode in ("auto", "required"):
        some = {"tools": list(tools.values()), "tool_choice": only(mode, *given), **more}
        alone = {"tools": [tools[name] for name in left], "tool_choice": mode, **more}
        assert prepared(tiny, **some) == prepared(tiny, **alone)
        assert (prepared(tiny, **some).grammar is None) is (mode == "auto" and left == ["g"])
        assert ask(**some).callable_names == set(left)


def test_tools_reach_the_prompt_unless_none_may_be_called(tiny: TextModel) -> None:
    plain = prepared(tiny).tokens
    assert prepared(tiny, tools=[STRICT], tool_choice="none").tokens == plain
    shown = tiny.detokenizer().feed(prepared(tiny, tools=[STRICT]).tokens)
    assert shown == "tools:\nf(a integer): x"
    typed = tiny.chat([{"role": "user", "content": "x"}], [tool("f", NUMBER, description="<end><asst>")])
    assert 2 not in typed  # <end> is text there, as in a message


def test_a_pool_whose_engine_cannot_hold_calls_says_so(tiny: TextModel) -> None:
    refused = {TOOL_GRAMMAR: "no reason"}
    with pytest.raises(ApiError, match="tool_choice: is not possible in this pool: no reason") as caught:
        prepared(tiny, refused, tools=[tool()], tool_choice="required")
    assert (caught.value.code, caught.value.param) == ("not_supported", "tool_choice")
    assert prepared(tiny, refused, tools=[tool()]).grammar is None


def test_a_template_without_tools_does_not_drop_them_in_silence() -> None:
    bare = TextModel(Tokenizer.from_file(str(TINY / "tokenizer.json")), ChatTemplate("{{ messages[0].content }}", {}))
    with pytest.raises(ApiError, match="chat template shows no tools") as caught:
        prepared(bare, tools=[tool()])
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "not_supported", "tools")
    assert prepared(bare, tools=[tool()], tool_choice="none").tokens == prepared(bare).tokens
    with pytest.raises(TemplateError, match="shows no tools"):
        bare.chat([{"role": "user", "content": "x"}], [tool()])


def test_a_template_is_given_tools_and_calls_as_transformers_gives_them() -> None:
    source = "{{ tools | tojson }}|{% for m in messages %}{{ m.role }}:{{ m.tool_calls | tojson if m.tool_calls }};{% endfor %}"  # noqa: E501
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    request = ask(
        messages=[
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "42"},
        ],
        tools=[tool("f", NUMBER, strict=True), {"type": "function", "function": {"name": "g"}}],
    )
    text = ChatTemplate(source, {}).render(
        [message.for_template() for message in request.messages], [each.for_template() for each in request.tools]
    )
    tools, said = text.split("|")
    empty = {"type": "object", "properties": {}, "additionalProperties": False}
    assert json.loads(tools) == [tool("f", NUMBER), tool("g", empty)]
    assert (
        said
        == 'user:;assistant:[{"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}];tool:;'
    )


ONE = {
    ToolFormat.HERMES: '<tool_call>{{"name": "{}", "arguments": {}}}</tool_call>',
    ToolFormat.MISTRAL: "[TOOL_CALLS]{}[ARGS]{}",
    ToolFormat.MISTRAL_LIST: '[TOOL_CALLS][{{"name": "{}", "arguments": {}}}]',
    ToolFormat.LLAMA: '{{"name": "{}", "parameters": {}}}',
    ToolFormat.JSON: '{{"name": "{}", "arguments": {}}}',
}
TWO = {
    ToolFormat.HERMES: '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>\n'
    '<tool_call>{"name": "g", "arguments": {}}</tool_call>',
    ToolFormat.MISTRAL: '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{}',
    ToolFormat.MISTRAL_LIST: '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]',
    ToolFormat.LLAMA: '[{"name": "f", "parameters": {"a": 1}}, {"name": "g", "parameters": {}}]',
    ToolFormat.JSON: '[{"name": "f", "arguments": {"a": 1}},{"name": "g", "arguments": {}}]',
}


class Taken:
    """Which answers a grammar takes, by the packaged model's vocabulary."""

    def __init__(self) -> None:
        self._vocabulary = load_vocabulary(TINY, 512, (2,))
        self._tokenizer = Tokenizer.from_file(str(TINY / "tokenizer.json"))

    def __call__(self, grammar: Grammar, text: str) -> bool:
        matcher: LLMatcher = compiled(grammar, self._vocabulary)
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


@pytest.fixture(scope="module")
def taken() -> Taken:
    return Taken()


@pytest.mark.parametrize("form", list(ToolFormat))
def test_grammars_take_calls_as_each_format_writes_them(form: ToolFormat, taken: Taken) -> None:
    f, wrong, g = ONE[form].format("f", '{"a": 1}'), ONE[form].format("f", '{"a": "x"}'), ONE[form].format("g", "{}")
    tools = [tool("f", NUMBER, strict=True), tool("g")]

    def grammar(**more: Any) -> Grammar:
        return tool_grammar(ask(tools=tools, **more), FORMATS[form], {}, None)

    required = grammar(tool_choice="required")
    for text, right in [(f, True), (g, True), (TWO[form], True), (wrong, False), ("hello", False), ("", False)]:
        assert taken(required, text) is right, text
    named = grammar(tool_choice=F)
    for text, right in [(f, True), (g, False), (TWO[form], False), ("hello", False)]:
        assert taken(named, text) is right, text
    single = grammar(tool_choice="required", parallel_tool_calls=False)
    for text, right in [(f, True), (g, True), (TWO[form], False)]:
        assert taken(single, text) is right, text
    free = grammar()
    for text, right in [(f, True), (TWO[form], True), ("hello\n\nyou", True), ("", True), (wrong, False)]:
        assert taken(free, text) is right, text
    if FORMATS[form].opening:
        assert taken(free, f"hello {f}")
        assert not taken(free, f"hello {wrong}")
        either = tool_grammar(ask(tools=tools), FORMATS[form], {}, Grammar('{"type":"object"}'))
        for text, right in [(f, True), ('{"x": 1}', True), (wrong, False), ("hello", False)]:
            assert taken(either, text) is right, text
    else:
        with pytest.raises(ApiError, match="writes tool calls as plain JSON"):
            tool_grammar(ask(tools=tools), FORMATS[form], {}, Grammar('{"type":"object"}'))


def test_definitions_within_parameters_are_found(taken: Taken) -> None:
    parameters = {
        "properties": {"a": {"$ref": "#/$defs/word"}},
        "required": ["a"],
        "$defs": {"word": {"enum": ["red"]}},
    }
    grammar = tool_grammar(
        ask(tools=[tool("f", parameters)], tool_choice="required"), FORMATS[ToolFormat.JSON], {}, None
    )
    assert taken(grammar, '{"name": "f", "arguments": {"a": "red"}}')
    assert not taken(grammar, '{"name": "f", "arguments": {"a": "blue"}}')


def test_markers_that_are_special_tokens_are_tokens_in_the_grammar() -> None:
    """As in Mistral's vocabularies; here `<user>` and `<system>` stand for them."""
    vocabulary, tokenizer = load_vocabulary(TINY, 512, (2,)), Tokenizer.from_file(str(TINY / "tokenizer.json"))
    opening, args = 4, 6

    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    tools = [STRICT, tool("g")]
    markers = {opening: "[TOOL_CALLS]", args: "[ARGS]"}
    call = [opening, *ids("f"), args, *ids('{"a": 1}')]
    for more, right in [
        ({"tool_choice": "required"}, call),
        ({}, [*ids("hi "), *call, opening, *ids("g"), args, *ids("{}")]),
    ]:
        matcher = compiled(
            tool_grammar(ask(tools=tools, **more), FORMATS[ToolFormat.MISTRAL], markers, None), vocabulary
        )
        assert matcher.try_consume_tokens(right) == len(right)
        assert matcher.is_accepting()
