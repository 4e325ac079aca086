"""The form of an answer as the engine takes it. Pure."""

from __future__ import annotations

import msgspec

from trimode_api.errors import ApiError
from trimode_api.openai_parts import ResponseFormat
from trimode_api.openai_structure import StructuredOutputs
from trimode_workers.engine.messages import Grammar, GrammarForm
from trimode_workers.grammar.compiled import problem, without_large_bounds

ANY_OBJECT = '{"type":"object"}'
FIELD = "structured_outputs"


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
        return _possible(Grammar(text, lenient=True, field=FIELD), f"{FIELD}.json")
    if wanted.json_object:
        return Grammar(ANY_OBJECT, field=FIELD)
    forms = {
        GrammarForm.REGEX: wanted.regex,
        GrammarForm.CHOICE: None if wanted.choice is None else msgspec.json.encode(wanted.choice).decode(),
        GrammarForm.GRAMMAR: wanted.grammar,
    }
    form, text = next((form, text) for form, text in forms.items() if text is not None)
    return _possible(Grammar(text, form=form, field=FIELD), f"{FIELD}.{form}")


def _possible(grammar: Grammar, path: str) -> Grammar:
    if found := problem(grammar):
        raise ApiError(400, f"{path}: {found}", code="invalid_value", param=path)
    return grammar
