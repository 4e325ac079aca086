"""From a request to what reads its answer: text, reasoning and tool calls out of tokens."""

from __future__ import annotations

from trimode_api.openai import ChatRequest, GenerationRequest
from trimode_workers.engine.messages import Submit
from trimode_workers.text.answer import AnswerReader, AnswerText, ReasoningAnswer, ToolAnswer
from trimode_workers.text.tokenizer import TextModel
from trimode_workers.text.tool_reader import ToolReader


def reader_of(wanted: GenerationRequest, text: TextModel, submit: Submit) -> AnswerReader:
    """What makes text, reasoning and tool calls of an answer's tokens. `submit`: its request as it began."""
    tools = wanted.usable_tools if isinstance(wanted, ChatRequest) else ()
    reasoning = None
    # An answer in a form has the form from its first token on: there is no place for reasoning.
    if isinstance(wanted, ChatRequest) and wanted.separate_reasoning is not False and text.reasons:
        reasoning = text.reasoning(submit.tokens) if submit.grammar is None else None
    plain = AnswerText(
        text.detokenizer(calls=bool(tools), reasoning=reasoning is not None),
        wanted.stop,
        least=wanted.min_tokens or 0,
        include=bool(wanted.include_stop_str_in_output),
    )
    if not isinstance(wanted, ChatRequest):
        return plain
    read: AnswerText | ReasoningAnswer = plain
    if reasoning is not None:
        read = ReasoningAnswer(plain, reasoning, told=wanted.include_reasoning is not False)
    if not tools:
        return read
    form = text.calls
    assert form is not None  # such a request was refused before
    single = not wanted.parallel_tool_calls
    return ToolAnswer(read, ToolReader(form, wanted.callable_names, single=single), single=single)
