"""The form of an answer as the engine takes it: a format, or that there is a tool call whose arguments follow a schema.

Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from trimode_api.errors import ApiError
from trimode_api.openai import ChatRequest
from trimode_api.openai_parts import ResponseFormat
from trimode_api.openai_structure import StructuredOutputs
from trimode_api.openai_tools import Tool
from trimode_workers.engine.messages import Grammar, GrammarForm
from trimode_workers.grammar.compiled import WHITE_SPACE, problem, without_large_bounds
from trimode_workers.text.tool_formats import CallFormat

ANY_OBJECT = '{"type":"object"}'
STRUCTURED = "structured_outputs"
TOOLS = "tools"
NOT_BOTH = (
    "response_format: this model writes tool calls as plain JSON, so that an answer in a format cannot be told from a "
    "call; send one of response_format and tools, or force a call by tool_choice"
)
_GAP = r"/\n?/"
"""Around a call and between two: a new line where the model writes one."""


def response_grammar(wanted: ResponseFormat) -> Grammar:
    """Of a `response_format` that is not plain text. ApiError 400 where no answer can follow it."""
    asked = wanted.schema_asked
    if asked is None:
        return Grammar(ANY_OBJECT)
    schema, strict, path = asked
    # Where the client did not insist, bounds that the grammar's library cannot follow are left out.
    followed = schema if strict else without_large_bounds(schema)
    return _possible(Grammar(msgspec.json.encode(followed).decode(), lenient=not strict), path)


def structured_grammar(wanted: StructuredOutputs) -> Grammar:
    """Of `structured_outputs`. ApiError 400 where no answer can follow it."""
    if wanted.definition is not None:
        text = msgspec.json.encode(without_large_bounds(wanted.definition)).decode()
        return _possible(Grammar(text, lenient=True, field=STRUCTURED), f"{STRUCTURED}.json")
    if wanted.json_object:
        return Grammar(ANY_OBJECT, field=STRUCTURED)
    forms = {
        GrammarForm.REGEX: wanted.regex,
        GrammarForm.CHOICE: None if wanted.choice is None else msgspec.json.encode(wanted.choice).decode(),
        GrammarForm.GRAMMAR: wanted.grammar,
    }
    form, text = next((form, text) for form, text in forms.items() if text is not None)
    return _possible(Grammar(text, form=form, field=STRUCTURED), f"{STRUCTURED}.{form}")


def _possible(grammar: Grammar, path: str) -> Grammar:
    if found := problem(grammar):
        raise ApiError(400, f"{path}: {found}", code="invalid_value", param=path)
    return grammar


def asks_for_form(request: ChatRequest) -> str:
    """The field by which tools ask for a grammar: to force a call, or for a strict tool; empty where none does."""
    if request.forced:
        return "tool_choice"
    strict = [tool for tool in request.usable_tools if tool.function.strict]
    return f"tools[{request.tools.index(strict[0])}].function.strict" if strict else ""


def tool_grammar(request: ChatRequest, form: CallFormat, markers: Mapping[int, str], answer: Grammar | None) -> Grammar:
    """For a request with tools. `markers`: texts of `form` that are special tokens, by id. `answer`: what an answer
    without a call follows, by its JSON schema; None where that is any text.

    ApiError 400 where a schema cannot be followed.
    """
    tokens = {text: f"<[{id}]>" for id, text in markers.items()}
    tools = request.forced or request.usable_tools
    rules: list[str] = []
    for index, tool in enumerate(tools):
        schema, lenient = _schema_of(tool)
        name = form.before + tool.function.name
        special = form.between in tokens
        begin = f"{json.dumps(name)} {tokens[form.between]}" if special else json.dumps(name + form.between)
        end = json.dumps(form.after) if form.after else ""
        rules.append(f"tool_{index}: {begin} {_json(schema, lenient=lenient)} {end}".rstrip())
    rules.append(f"one: {' | '.join(f'tool_{index}' for index in range(len(tools)))}")
    rules += _calls(form, tokens, single=not request.parallel_tool_calls)
    if request.forced:
        rules.append("start: calls")
    elif answer is not None:
        if not form.opening:
            raise ApiError(400, NOT_BOTH, code="not_supported", param="response_format")
        other = _json(json.loads(answer.schema), lenient=answer.lenient)
        rules.append(f"start: calls | answer\nanswer: {other}")
    elif not form.opening:
        rules += ["start: calls | TEXT", r"TEXT: /([^{\[\s](.|\n)*)?/"]
    elif form.opening in tokens:
        rules += [f"start: TEXT | TEXT {tokens[form.opening]} rest", r"TEXT: /(.|\n)*/"]
    else:
        # Lazy: the text ends with the first opening, so that a call cannot pass for text.
        rules += ["start: TEXT | begun rest", f"begun[lazy]: TEXT {json.dumps(form.opening)}", r"TEXT: /(.|\n)*/"]
    for tool in tools:
        schema, lenient = _schema_of(tool)
        if found := problem(Grammar(json.dumps(schema), lenient=lenient)):
            path = f"tools[{request.tools.index(tool)}].function.parameters"
            raise ApiError(400, f"{path}: {found}", code="invalid_value", param=path)
    return Grammar("%llguidance {}\n" + "\n".join(rules), form=GrammarForm.LARK, field=TOOLS)


def _schema_of(tool: Tool) -> tuple[dict[str, Any], bool]:
    """The schema that arguments are held to, and whether what cannot be enforced is left out."""
    schema, strict = tool.function.schema_of_arguments, bool(tool.function.strict)
    return (schema if strict else without_large_bounds(schema)), not strict


def _calls(form: CallFormat, tokens: Mapping[str, str], *, single: bool) -> list[str]:
    """`calls`: an answer's calls, up to its end; `rest`: the same without the first opening."""
    opening, closing = (tokens.get(mark, json.dumps(mark)) if mark else "" for mark in (form.opening, form.closing))
    around = f"{_GAP} one {_GAP} {closing}" if closing else "one"
    if form.listed or not opening:
        more = "" if single else " (/,\\s?/ one)*"
        listed = f'"[" one{more} "]"'
        rest = listed if form.listed else f"one | {listed}"
    else:
        rest = around if single else f"{around} ({_GAP} {opening} {around})*"
    return [f"rest: {rest}", f"calls: {opening} rest"]


def _json(schema: Mapping[str, Any], *, lenient: bool) -> str:
    return "%json " + json.dumps({**schema, "x-guidance": {"whitespace_pattern": WHITE_SPACE, "lenient": lenient}})
